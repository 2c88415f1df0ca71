"""A step's rollouts -> its row of steps.jsonl, by `without_words`: what dynamics/step_table.py reads.

Sums and counts are kept, not means, so that any later definition can be computed from them. What HICRA makes
of a step depends on each group's successes and planning tokens (docs/equation.md): these are kept by group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from hicra.credit import top_share
from hicra.dynamics.occurrences import GramFinder, gram_counts
from hicra.planning.trace_page import HIGH_ENTROPY
from hicra.study.training.reward import Graded


class Tokens(NamedTuple):
    """The completion tokens of a step, B completions of T tokens with padding."""

    ids: Tensor  # (B, T)
    done: Tensor  # (B, T) bool, False on padding and on what a tool wrote
    planning: Tensor  # (B, T) bool, by the lexicon of the record
    logps: Tensor  # (B, T)
    entropies: Tensor  # (B, T) nats
    plain: Tensor  # (B,) GRPO's advantages
    credited: Tensor  # (B, T) advantages that are trained on


def step_row(
    step: int, graded: Graded, tokens: Tokens, texts: Sequence[str], *, finder: GramFinder, group_size: int
) -> dict:
    """The row that describes the rollouts which the policy sampled after `step` updates.

    Grams are counted in `texts`, what the policy itself wrote.
    """
    done, planning = tokens.done, tokens.planning  # (B, T), (B, T)
    high = top_share(tokens.entropies, done, HIGH_ENTROPY)  # (B, T)
    changed = (tokens.credited != tokens.plain[:, None]) & done  # (B, T)
    grams, followers = gram_counts(texts, finder)
    nll, entropy = class_sums(-tokens.logps, planning, done), class_sums(tokens.entropies, planning, done)
    groups = graded.rewards.view(-1, group_size)  # (B/G, G)
    plans = planning.sum(1).view(-1, group_size).to(groups)  # (B/G, G)
    return {
        "step": step,
        "n_completions": len(graded.texts),
        "n_groups": len(groups),
        "n_zero_variance_groups": int((groups.std(1, correction=0) == 0).sum()),
        "n_solved_groups": int((groups > 0).any(1).sum()),
        "group_successes": (groups > 0).sum(1).tolist(),
        "group_planning": plans.sum(1).int().tolist(),
        "group_planning_in_successes": (plans * (groups > 0)).sum(1).int().tolist(),
        "n_clipped": graded.ended.count(False),
        "n_no_planning": int((~planning.any(1)).sum()),
        "n_credit_changed": int(changed.sum()),
        "length_sum": int(done.sum()),
        "reward_sum": graded.rewards.sum().item(),
        "reasons": dict(Counter(graded.reasons)),
        "errors": None if graded.errors is None else dict(Counter(filter(None, graded.errors))),
        **(graded.choices or {}),
        "n_planning": int(planning.sum()),
        "n_execution": int((done & ~planning).sum()),
        "n_high_entropy": int(high.sum()),
        "n_high_entropy_planning": int((high & planning).sum()),
        "grams": grams,
        "followers": followers,
        **{f"nll_{k}": v for k, v in nll.items()},
        **{f"entropy_{k}": v for k, v in entropy.items()},
    }


def add_rows(rows: Sequence[dict]) -> dict:
    """One row of a step from its shares, a process each: sums and counts add, lists go on."""
    total = dict(rows[0])
    for row in rows[1:]:
        for name, value in row.items():
            if isinstance(value, dict):
                total[name] = add_rows([total[name], value]) if name in total else value
            elif value is not None and name != "step":
                total[name] = total.get(name, 0) + value
    return total


def class_sums(values: Tensor, planning: Tensor, completion: Tensor) -> dict[str, float]:
    """Sums of per-token `values` (B, T) over planning and execution tokens."""
    values = values.double()
    return {
        "planning": values[planning].sum().item(),
        "execution": values[completion & ~planning].sum().item(),
    }


def without_words(row: dict) -> dict:
    """A step's row as it is written: how often each follower of a gram occurred, without its words.

    They are half of a record's bytes, and no statistic reads them.
    """
    followers = {gram: sorted(own.values(), reverse=True) for gram, own in row["followers"].items()}
    return {**row, "followers": followers}


def rollout_rows(step: int, graded: Graded, tokens: Tokens, tokenizer, n: int) -> list[dict]:
    """The first `n` rollouts of a step with per-token values, for the viewer."""
    rows = []
    for i in range(min(n, len(tokens.ids))):
        own = tokens.done[i]  # (T,)
        row = {
            "step": step,
            "prompt": graded.prompts[i],
            "completion": graded.texts[i],
            "reason": graded.reasons[i],
            "error": graded.errors[i] if graded.errors else None,
            "tokens": [tokenizer.decode([t]) for t in tokens.ids[i, own].tolist()],
            "planning": tokens.planning[i, own].int().tolist(),
            "logp": [round(v, 4) for v in tokens.logps[i, own].tolist()],
            "entropy": [round(v, 4) for v in tokens.entropies[i, own].tolist()],
        }
        rows.append(row)
    return rows
