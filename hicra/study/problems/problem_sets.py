"""Problem sets from JSON Lines files or the Hub, splits, and the check for contamination.

A training prompt that stands in a benchmark makes the benchmark's score worthless: training sets are
passed through `refuse_contaminated` before use.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hicra.jsonl import iter_jsonl
from hicra.study.problems.grading import extract_boxed
from hicra.words import fold, segments

NGRAM = 13  # words; a shared run of this length is taken for the same text

_SIGNIFICANT = re.compile(r"[^\W_]|[-+*/=<>^!|%]|(?<=[0-9])\.(?=[0-9])")


class ProblemError(ValueError):
    """A problem set that cannot be used; the message names the record, the field and the remedy."""


class Problem(NamedTuple):
    """A problem's text, gold answer, place (file:line, or dataset:row), and worked solution."""

    problem: str
    answer: str
    source: str
    solution: str = ""  # empty where the set has none

    @property
    def prompt(self) -> str:
        """The problem as it is; a chat template goes around it where the model has one."""
        return self.problem


# --- reading ---------------------------------------------------------------------------------------


def read_jsonl(
    path: Path | str,
    text_field: str = "problem",
    answer_field: str = "answer",
    *,
    answer_mark: str | None = None,
) -> Iterator[Problem]:
    """The problems of a plain or gzip JSON Lines file, one at a time.

    `answer_mark` is for files whose answer field holds a solution: the answer is what follows its
    last occurrence ("####" in GSM8K), or the last box for the mark "boxed". Raises what
    hicra.jsonl.iter_jsonl raises, and ProblemError for a missing or empty field, with file, line and field.
    """
    for number, record in iter_jsonl(path):
        where = f"{path}, line {number}"
        text = _text(record, text_field, where)
        answer = _answer(_text(record, answer_field, where), answer_mark, where)
        yield Problem(
            text, answer, f"{Path(path).name}:{number}", _solution(record, answer_field, answer_mark)
        )


def from_hub(
    dataset_id: str,
    revision: str,
    split: str,
    text_field: str = "problem",
    answer_field: str = "answer",
    *,
    config: str | None = None,
    answer_mark: str | None = None,
) -> list[Problem]:
    """The problems of a dataset on the Hub, at one commit, so that a study can be repeated.

    Raises ProblemError for a revision that is not a full commit hash (a branch or tag can move) and
    for a missing or empty field, and what datasets.load_dataset raises.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ProblemError(
            f"revision {revision!r} of {dataset_id} is not a commit; give the 40 hexadecimal digits "
            f"from https://huggingface.co/datasets/{dataset_id}/commits/main"
        )
    from datasets import load_dataset

    rows = load_dataset(dataset_id, config, split=split, revision=revision)
    found = []
    for number, record in enumerate(rows):
        where = f"{dataset_id}, split {split}, row {number}"
        text = _text(record, text_field, where)
        answer = _answer(_text(record, answer_field, where), answer_mark, where)
        solution = _solution(record, answer_field, answer_mark)
        found.append(Problem(text, answer, f"{dataset_id}:{number}", solution))
    if not found:
        raise ProblemError(f"{dataset_id}, split {split}, has no rows; choose another split")
    return found


def _text(record: Mapping, field: str, where: str) -> str:
    """A field as text; numbers are written out, anything else is an error."""
    if field not in record:
        known = ", ".join(sorted(record)) or "none"
        raise ProblemError(f"{where}: field {field!r} is missing (there are: {known}); name another")
    value = record[field]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        kind = "empty" if isinstance(value, str) else f"a {type(value).__name__}"
        raise ProblemError(f"{where}: field {field!r} is {kind}; give a text or drop the record")
    return value


def _solution(record: Mapping, answer_field: str, mark: str | None) -> str:
    """The worked solution: the answer field where a mark ends it, else the field `solution`, if any."""
    found = record[answer_field] if mark else record.get("solution")
    return found if isinstance(found, str) else ""


def _answer(text: str, mark: str | None, where: str) -> str:
    if mark == "boxed":
        answer = (extract_boxed(text) or "").strip()
    else:
        answer = text.strip() if mark is None else text.rpartition(mark)[2].strip()
    if not answer or (mark not in (None, "boxed") and mark not in text):
        raise ProblemError(f"{where}: no answer after {mark!r}; name the mark that the set uses")
    return answer


# --- splits ----------------------------------------------------------------------------------------


def split(problems: Sequence[Problem], n_eval: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """(training, evaluation): `n_eval` distinct problems drawn by `seed`, and the rest.

    The draw does not depend on the order of `problems`; every copy of an evaluation problem leaves
    the training part. Raises ProblemError where fewer than `n_eval` + 1 problems are distinct.
    """
    distinct = {problem_key(p.problem): p for p in reversed(problems)}  # the first copy stays
    if not 0 <= n_eval < len(distinct):
        raise ProblemError(
            f"n_eval is {n_eval}, but {len(distinct)} problems are distinct; "
            "ask for fewer, so that some are left for training"
        )
    drawn = random.Random(f"split-{seed}").sample(sorted(distinct), n_eval)
    held_out = set(drawn)
    training = [p for p in problems if problem_key(p.problem) not in held_out]
    return training, [distinct[key] for key in drawn]


# --- contamination ---------------------------------------------------------------------------------


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


def problem_key(text: str) -> str:
    """What two copies of a problem share: letters, digits and operators, without case or layout."""
    return "".join(_SIGNIFICANT.findall(fold(text)))


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
