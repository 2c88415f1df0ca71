"""Problem sets by name: `data/problem_sets.yaml` pins each to one commit of the Hub."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from hicra.paths import data_path
from hicra.study.problems.problem_sets import Problem, ProblemError, from_hub, read_jsonl


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
    rows = yaml.safe_load(data_path("problem_sets.yaml").read_text())
    return {name: NamedSet(**row) for name, row in rows.items()}


def read_set(source: str) -> list[Problem]:
    """The problems of a named set, a JSON Lines file, or hub:OWNER/NAME@COMMIT:SPLIT; "+" joins several.

    Raises ProblemError for a name that is not in the list, and what read_jsonl and from_hub raise.
    """
    return [problem for part in source.split("+") for problem in _read(part)]


def _read(source: str) -> list[Problem]:
    if source.startswith("hub:"):
        name, _, rest = source.removeprefix("hub:").partition("@")
        revision, _, part = rest.partition(":")
        return from_hub(name, revision, part or "train")
    if Path(source).exists():
        return list(read_jsonl(source))
    found = named_sets().get(source)
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
    return Path(source).name.partition(".")[0] if Path(source).exists() else source


def samples_of(source: str) -> int:
    """How often a benchmark's problems are sampled; a file counts as the set of its name."""
    return named_sets().get(set_name(source), NamedSet()).samples
