"""Training problems that stand in a benchmark: found, named and left out.

A training prompt that stands in a benchmark makes the benchmark's score worthless: training sets are
passed through `refuse_contaminated` before use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hicra.study.problems.problem_sets import Problem, ProblemError, problem_key
from hicra.words import segments

NGRAM = 13  # words; a shared run of this length is taken for the same text


class Overlap(NamedTuple):
    """A training problem that stands in a benchmark, and why it is thought so."""

    problem: Problem
    benchmark: str
    twin: Problem  # the benchmark's problem
    kind: str  # "exact" or "13-gram"
    shared: str  # the words both have; empty for an exact match


@dataclass(frozen=True)
class Report:
    """What the check found: `overlaps` among `checked` training problems, `removed` or kept."""

    checked: int
    overlaps: tuple[Overlap, ...]
    removed: bool = False

    def counts(self) -> dict[tuple[str, str], int]:
        """Training problems per (benchmark, kind)."""
        return dict(sorted(Counter((o.benchmark, o.kind) for o in self.overlaps).items()))

    def __str__(self) -> str:
        fate = "removed" if self.removed else "found"
        lines = [f"{fate} {len(self.overlaps)} of {self.checked} training problems in a benchmark"]
        lines += [f"  {name}, {kind}: {n}" for (name, kind), n in self.counts().items()]
        return "\n".join([*lines, *(f"  {o.problem.source} = {o.twin.source}" for o in self.overlaps)])


def contamination(training: Iterable[Problem], benchmarks: Mapping[str, Iterable[Problem]]) -> Report:
    """Training problems that are in a benchmark: by normalised exact match, else by 13-gram overlap.

    Exact means equal letters, digits and operators (`problem_key`). A 13-gram is 13 words in a row
    (hicra.words), wherever sentences end. `benchmarks` are by name. Each training problem is listed
    once, with the first benchmark that has it. Raises ProblemError where `benchmarks` hold nothing.
    """
    exact, grams = {}, {}
    for name, problems in benchmarks.items():
        for problem in problems:
            exact.setdefault(problem_key(problem.problem), (name, problem))
            for gram in _grams(problem.problem):
                grams.setdefault(gram, (name, problem))
    if not exact:
        raise ProblemError("there is no benchmark problem to check against; name the benchmarks")
    checked, overlaps = 0, []
    for problem in training:
        checked += 1
        overlap = _overlap(problem, exact, grams)
        overlaps += [overlap] if overlap else []
    return Report(checked, tuple(overlaps))


def _overlap(problem: Problem, exact: dict, grams: dict) -> Overlap | None:
    if twin := exact.get(problem_key(problem.problem)):
        return Overlap(problem, *twin, "exact", "")
    for gram in _grams(problem.problem):
        if twin := grams.get(gram):
            return Overlap(problem, *twin, f"{NGRAM}-gram", " ".join(gram))
    return None


def _grams(text: str) -> Iterator[tuple[str, ...]]:
    words = [word.text for run in segments(text) for word in run]
    return zip(*(words[i:] for i in range(NGRAM)), strict=False)


def refuse_contaminated(
    training: Sequence[Problem],
    benchmarks: Mapping[str, Iterable[Problem]],
    *,
    allow: bool = False,
) -> tuple[list[Problem], Report]:
    """The training problems that may be used, and the report of those that were removed.

    Problems that are in a benchmark (`contamination`) are left out; `allow` keeps them, and the
    report still names them. Raises ProblemError where no problem is left.
    """
    report = contamination(training, benchmarks)
    if allow:
        return list(training), report
    tainted = {overlap.problem for overlap in report.overlaps}
    clean = [problem for problem in training if problem not in tainted]
    if not clean:
        raise ProblemError(
            f"all {report.checked} training problems are in a benchmark; train on another set, "
            "or allow contamination and do not report those benchmarks"
        )
    return clean, Report(report.checked, report.overlaps, removed=True)
