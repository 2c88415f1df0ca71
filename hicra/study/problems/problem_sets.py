"""Problem sets, by name or from files, and their splits.

`data/problem_sets.yaml` pins each name to one commit of the Hub.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hicra.boxed import extract_boxed
from hicra.errors import HicraError
from hicra.files import iter_jsonl
from hicra.lexicon.corpus import HUB
from hicra.study.sources import problem_set_records, set_parts
from hicra.words import fold

_SIGNIFICANT = re.compile(r"[^\W_]|[-+*/=<>^!|%]|(?<=[0-9])\.(?=[0-9])")


class ProblemError(HicraError):
    """A problem set that cannot be used; the message names the record, the field and the remedy."""


class Fields(NamedTuple):
    """Where a record of the user's own has problem and answer, and what mark the answer follows, if any."""

    problem: str = "problem"
    answer: str = "answer"
    mark: str | None = None


FIELDS = Fields()


class Problem(NamedTuple):
    """A problem's text, gold answer, place (file:line, or dataset:row), and worked solution."""

    problem: str
    answer: str
    source: str
    solution: str = ""  # empty where the set has none


# --- reading ---------------------------------------------------------------------------------------


def read_jsonl(
    path: Path | str,
    text_field: str = "problem",
    answer_field: str = "answer",
    *,
    answer_mark: str | None = None,
) -> Iterator[Problem]:
    """The problems of a JSON Lines file, one at a time.

    `answer_mark` is for files whose answer field holds a solution: the answer is what follows its
    last occurrence ("####" in GSM8K), or the last box for the mark "boxed". Raises what
    hicra.files.iter_jsonl raises, and ProblemError for a missing or empty field, with file, line and field.
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
        remedy = "set problem_field or answer_field to one of them"
        raise ProblemError(f"{where}: field {field!r} is missing (there are: {known}); {remedy}")
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
        raise ProblemError(f"{where}: no answer after {mark!r}; set answer_mark to the mark of this set")
    return answer


# --- by name --------------------------------------------------------------------------------------


class NamedSet(NamedTuple):
    """Where a named set stands, which fields it has, and how often a benchmark's problems are sampled."""

    hub: str | None = None
    revision: str = ""
    config: str | None = None
    split: str = "train"
    text: str = "problem"
    answer: str = "answer"
    answer_mark: str | None = None
    samples: int = 1
    licence: str = ""


@cache
def named_sets() -> dict[str, NamedSet]:
    """Every set of `data/problem_sets.yaml`, by name."""
    return {name: NamedSet(**row) for name, row in problem_set_records().items()}


def read_set(source: str | Sequence[str], fields: Fields = FIELDS) -> list[Problem]:
    """The problems of a named set, a JSON Lines file, hub:OWNER/NAME@COMMIT:SPLIT, or a list of these.

    "+" joins names that ship; `fields` are those of files and of hub: sources. Raises ProblemError for a name
    that is not in the list, and what read_jsonl and from_hub raise.
    """
    return [problem for part in set_parts(source) for problem in _read(part, fields)]


def _read(source: str, fields: Fields) -> list[Problem]:
    if source.startswith(HUB):
        name, _, rest = source.removeprefix(HUB).partition("@")
        revision, _, part = rest.partition(":")
        return from_hub(name, revision, part or "train", *fields[:2], answer_mark=fields.mark)
    found = named_sets().get(source)
    if found is None and Path(source).exists():
        return list(read_jsonl(source, *fields[:2], answer_mark=fields.mark))
    if found is None:
        raise ProblemError(
            f"there is no file {source}, and no set of that name; the names are: {', '.join(named_sets())}"
        )
    if found.hub is None:
        raise ProblemError(f"{source} is pinned to no commit; give a file {source}.jsonl instead")
    return from_hub(
        found.hub,
        found.revision,
        found.split,
        found.text,
        found.answer,
        config=found.config,
        answer_mark=found.answer_mark,
    )


def set_name(source: str) -> str:
    """What a set is called in tables: its name, or its file's."""
    named = source in named_sets() or source.startswith(HUB)
    return source if named else Path(source).name.partition(".")[0]


def samples_of(source: str) -> int:
    """How often a benchmark's problems are sampled; a file counts as the set of its name."""
    return named_sets().get(set_name(source), NamedSet()).samples


# --- splits ----------------------------------------------------------------------------------------


def problem_key(text: str) -> str:
    """What two copies of a problem share: letters, digits and operators, without case or layout."""
    return "".join(_SIGNIFICANT.findall(fold(text)))


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
