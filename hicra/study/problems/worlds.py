"""The problem sets that are made, not read: where they come from, and what is true of a completion."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from hicra.study.problems import families, families_truth
from hicra.study.problems.families import MadeProblem, Span
from hicra.study.problems.families_truth import Failure


class World(NamedTuple):
    problems: Callable[..., list[MadeProblem]]  # (n, seed, held_out=False)
    is_held_out: Callable[[MadeProblem], bool]
    worked_solution: Callable  # (problem, rng, habits)
    skill: families.Habits  # of the solutions that teach it, before those of habit
    explain_failure: Callable[[MadeProblem, str], Failure | None]
    true_spans: Callable[[str], list[Span]]
    choices: Callable[..., dict]  # (problems, completions, right): counts for a step's record


_FAMILIES = World(
    families.problems,
    families.is_held_out,
    families.worked_solution,
    families.SKILL,
    families_truth.explain_failure,
    families_truth.true_spans,
    families_truth.choices,
)
WORLDS = {
    "families": _FAMILIES,
    "families-even": _FAMILIES._replace(problems=partial(families.problems, even=True)),
}
