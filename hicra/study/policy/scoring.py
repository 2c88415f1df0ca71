"""Score a generate function on a problem set: accuracy, length, failures by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from hicra.dynamics.step_table import pass_at_k
from hicra.study.problems.grading import grade


def evaluate(
    generate: Callable[[list[str]], list[str]],
    problems: Sequence,
    *,
    samples: int = 1,
    explain: Callable | None = None,
    length: Callable[[str], int] = lambda text: len(text.split()),
    prefilled_think: bool = False,
) -> dict:
    """Accuracy (share of right samples), pass@8 where `samples` >= 8, mean length, failures by kind.

    `right` counts a problem's right samples, in the order of `problems`, so that two policies can be compared
    problem by problem.
    `problems` have `.prompt` and `.answer`; `length` counts a completion's tokens (words unless
    given). Raises ValueError for an empty problem set.
    """
    if not problems:
        raise ValueError("no problem to evaluate on; give at least one")
    repeated = [p for p in problems for _ in range(samples)]
    completions = generate([p.prompt for p in repeated])
    grades = grade(completions, [p.answer for p in repeated], prefilled_think=prefilled_think)
    right = [g.reward > 0 for g in grades]
    errors = Counter(
        explain(p, c).kind for p, c, r in zip(repeated, completions, right, strict=True) if explain and not r
    )
    per_problem = [sum(right[i : i + samples]) for i in range(0, len(right), samples)]
    return {
        "accuracy": sum(right) / len(right),
        "n": len(right),
        "right": per_problem,
        "mean_length": sum(map(length, completions)) / len(completions),
        "pass_at_8": (
            sum(pass_at_k(samples, c, 8) for c in per_problem) / len(per_problem) if samples >= 8 else None
        ),
        "errors": dict(errors) if explain else None,
    }
