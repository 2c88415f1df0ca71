"""What HICRA adds to a step of verl: tagger, credit and metrics for 1,024 completions of 16K tokens.

    python -m tests.benchmarks.verl_cost --traces TRACES.jsonl.gz [--rows 1024] [--tokens 16384]

Completions are cut from the traces, one behind the other, in SmolLM2's tokens. What moves is counted, not timed:
the driver's part of the transfer queue, in bytes a token, and what verl itself moves for a step.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from hicra.batches import taggable
from hicra.dynamics.live import occurrences_in, strategic_diversity
from hicra.dynamics.occurrences import GramFinder
from hicra.lexicon.lexicon import Lexicon
from hicra.planning.tagger import PlanningTagger
from hicra.verl.credit import token_credit
from tests.benchmarks.tagger import read_texts, smollm2_tokenizer

# Bytes a completion token: what HicraTrainer reads (ids, mask, advantage) and writes (advantage).
HICRA = {"responses": 8, "response_mask": 8, "advantages read": 4, "advantages written": 4}


def rollouts(texts: list[str], tokenizer, n_rows: int, n_tokens: int) -> torch.Tensor:
    """Ids (B, T) of the texts laid end to end, over and over; without ends of sequences."""
    ids = torch.tensor(
        [i for text in texts for i in tokenizer(text)["input_ids"] if i != tokenizer.eos_token_id]
    )
    needed = n_rows * n_tokens
    return ids.repeat(-(-needed // len(ids)))[:needed].view(n_rows, n_tokens)  # (B, T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", nargs="+", type=Path, required=True)
    parser.add_argument("--field", default="response")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=16384)
    given = parser.parse_args()
    tokenizer, lexicon = smollm2_tokenizer(), Lexicon.load("listing1")
    tagger, finder = PlanningTagger(lexicon, tokenizer), GramFinder(lexicon)
    texts = read_texts(given.traces, given.field, 10_000)
    ids = rollouts(texts, tokenizer, given.rows, given.tokens)  # (B, T)
    batch = {"completion_ids": ids, "completion_mask": torch.ones_like(ids, dtype=torch.bool)}
    plain = torch.randn(given.rows, 1).expand(ids.shape)  # (B, T)
    spent, started = {}, time.perf_counter()

    def done(what: str) -> None:
        nonlocal started
        spent[what] = time.perf_counter() - started
        started = time.perf_counter()

    planning = tagger(ids, taggable(batch, tokenizer.eos_token_id))  # (B, T)
    done("tagger")
    credited = token_credit(plain, planning, alpha=0.2)  # (B, T)
    done("credit")
    diversity = strategic_diversity(occurrences_in(batch, finder, tokenizer))
    done("metrics")
    changed = (credited != plain).float().mean()
    print(f"{ids.numel():,} tokens, {planning.float().mean():.3f} planning, {changed:.3f} changed")
    print({name: round(value, 2) for name, value in diversity.items()})
    for what, seconds in spent.items():
        print(f"{what:<8} {seconds:8.2f} s {ids.numel() / seconds:14,.0f} tokens/s")
    moved = sum(HICRA.values())
    print(f"moved    {moved * ids.numel() / 1e6:8.0f} MB, {moved} bytes a token: {HICRA}")


if __name__ == "__main__":
    main()
