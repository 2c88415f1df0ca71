"""Rollouts of any trainer as one kind of record: files, folders, data frames, or mappings in; `Rollout` out.

A folder or a set of numbered parts is one run (verl's rollout dumps, TRL's completion logs), any other file
is a run of its own; NAME=PATH names a run. A kind of file is known by its content, not by its name.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from hicra.errors import HicraError, MissingError, MissingExtraError
from hicra.files import canonical, damage, iter_jsonl, unpacked

HUB = "hub:"
BATCH = 1024  # rows of a table read at once
PARTS = re.compile(r"\d+|completions_\d+|part-\d+.*|.*-\d+-of-\d+")  # files that are pieces of one run
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}(:[\w.-]+)?")
NAMES = {  # what a field is called, the first that a row has
    "text": ("response", "completion", "output", "messages", "generated_text", "text"),
    "step": ("step", "global_step"),
    "problem": ("problem_id", "problem", "prompt", "input", "question"),
    "reward": ("reward", "score"),
    "correct": ("correct", "is_correct"),
    "run": ("run",),
    "prompt": ("prompt", "input", "problem", "question"),
}
TRL_OWN = {"step", "prompt", "completion", "advantage"}


class RolloutError(HicraError):
    """Rollouts that cannot be read; the message names the file or row and what would be right."""


@dataclass(frozen=True)
class Fields:
    """What a row's fields are called; None takes the first of NAMES that the row has."""

    text: str | None = None
    step: str | None = None
    problem: str | None = None
    reward: str | None = None
    correct: str | None = None
    run: str | None = None
    correct_above: float | None = None
    prompt: str | None = None


class Rollout(NamedTuple):
    """One completion; None where the input does not say."""

    run: str
    step: int
    problem: str | None
    text: str
    reward: float | None
    correct: bool | None
    tokens: list[str] | None = None
    logp: list[float] | None = None
    entropy: list[float] | None = None
    prompt: str | list[dict] | None = None  # what the model was given; of chat, the messages


def read_rollouts(source: Any, fields: Fields = Fields()) -> Iterator[Rollout]:  # noqa: B008 (frozen)
    """Every rollout of `source`: a path, several, a pandas DataFrame, or an iterable of mappings.

    Raises RolloutError for what cannot be read, MissingError for a path that is not there.
    """
    if isinstance(source, pd.DataFrame):
        source = source.to_dict("records")
    if isinstance(source, str | Path):
        source = [source]
    paths = []
    for number, item in enumerate(source, 1):
        if isinstance(item, str | Path):
            paths.append(str(item))
        else:
            yield _rollout(item, fields, f"row {number}", "run", None)
    for name, path in files(paths):
        yield from read_file(name, path, fields)


def read_file(run: str, path: str, fields: Fields) -> Iterator[Rollout]:
    """Every rollout of one file of a run, or of a Hub data set."""
    for where, row, step in _rows(path):
        yield _rollout(row, fields, where, run, step)


def files(sources: str | Path | Iterable[str | Path]) -> list[tuple[str, str]]:
    """(run, file) of every file of a path, or several. Raises RolloutError for what is no path."""
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    if wrong := [type(source).__name__ for source in given if not isinstance(source, str | Path)]:
        raise RolloutError(f"a cluster reads files, not a {wrong[0]}; give paths that all its nodes see")
    return _runs([str(source) for source in given])


def _runs(sources: list[str]) -> list[tuple[str, str]]:
    """(run, file) of every file. Raises RolloutError where two runs would share a name."""
    found: list[tuple[str, str]] = []
    owner: dict[str, str] = {}
    for source in sources:
        name, _, path = source.rpartition("=") if not Path(source).exists() else ("", "", source)
        if path.startswith(HUB):
            files, own, group = [path], path[len(HUB) :].partition("@")[0], path
        elif Path(path).is_dir():
            files = [str(p) for p in sorted(Path(path).rglob("*")) if p.is_file() and p.name[0] not in "._"]
            own, group = Path(path).resolve().name, str(Path(path).resolve())
            if not files:
                raise RolloutError(f"{path} is an empty folder; give one with rollouts")
        elif Path(path).is_file():
            stem, folder = _stem(path), Path(path).resolve().parent
            files, part = [path], PARTS.fullmatch(stem)
            own, group = (folder.name, str(folder)) if part else (stem, str(Path(path).resolve()))
        else:
            raise MissingError(f"{path} does not exist; give a file, a folder, or hub:OWNER/NAME@COMMIT")
        if owner.setdefault(name or own, group) != group:
            raise RolloutError(f"two runs are called {name or own!r}; name them: NAME={path}")
        found += [(name or own, file) for file in files]
    return found


def _stem(path: str) -> str:
    return re.sub(r"\.(jsonl|json|csv|parquet|gz|bz2|zst)", "", Path(path).name)


def _rows(path: str) -> Iterator[tuple[str, Mapping, int | None]]:
    """(where, row, step that the file's name gives) of one source."""
    if path.startswith(HUB):
        yield from ((where, row, None) for where, row in _hub(path))
        return
    head = _head(Path(path))
    step = int(_stem(path)) if _stem(path).isdigit() else None
    if head.startswith(b"PAR1"):
        rows = _parquet(path)
    elif ".csv" in Path(path).suffixes:
        rows = _csv(path)
    elif head.lstrip()[:1] == b"[":
        raise RolloutError(f"{path} is one JSON array; write one object a line (JSON Lines)")
    else:
        rows = ((f"{path}, line {n}", row) for n, row in iter_jsonl(path))
    yield from ((where, row, step) for where, row in rows)


def _head(path: Path) -> bytes:
    try:
        with unpacked(path) as stream:
            return stream.read(64)
    except (EOFError, OSError, zlib.error) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path | str, error: Exception) -> RolloutError:
    return RolloutError(f"{path}: {damage(path, error)}")


def _parquet(path: str) -> Iterator[tuple[str, Mapping]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(f"reading {path}", "pyarrow", "measure") from error
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise RolloutError(f"{path} is a damaged parquet file ({error}); write it again") from error


def _csv(path: str) -> Iterator[tuple[str, Mapping]]:
    number = 1
    try:
        with unpacked(path) as stream:
            for part in pd.read_csv(stream, chunksize=BATCH, dtype=str, keep_default_na=False):
                for row in part.to_dict("records"):
                    number += 1
                    yield f"{path}, row {number}", row
    except (EOFError, OSError, zlib.error) as error:
        raise _damaged(path, error) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise RolloutError(
            f"{path} is not a CSV table in UTF-8 ({str(error).strip()}); save it anew"
        ) from error


def _hub(source: str) -> Iterator[tuple[str, Mapping]]:
    name = source[len(HUB) :]
    if not PINNED.fullmatch(name):
        raise RolloutError(
            f"{source} is not pinned; give hub:OWNER/NAME@COMMIT with all 40 digits, and :SPLIT if not train"
        )
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError(f"reading {source}", "datasets", "trl") from error
    owner, _, revision = name.partition("@")
    commit, _, split = revision.partition(":")
    rows = load_dataset(owner, revision=commit, split=split or "train", streaming=True)
    yield from ((f"{source}, row {number}", row) for number, row in enumerate(rows, 1))


def _rollout(row: Mapping, fields: Fields, where: str, run: str, step: int | None) -> Rollout:
    named = {role: _name(row, role, getattr(fields, role), where) for role in NAMES}
    if named["text"] is None:
        held = ", ".join(map(str, row))
        raise RolloutError(
            f"{where} has no text; name its field by text_field (--text-field); it has: {held}"
        )
    value = {role: row.get(name) for role, name in named.items()}
    value |= {role: None for role in value if role != "text" and value[role] == ""}  # an empty cell of a CSV
    if value["reward"] is None and fields.reward is None and set(row) >= TRL_OWN:
        value["reward"] = _trl_reward(row)
    text, asked, before = _text(value["text"], where)
    reward = None if value["reward"] is None else _number(value["reward"], f"{where}: {named['reward']}")
    given = value["step"] if value["step"] is not None else step
    if given is None and named["step"] is not None:
        raise RolloutError(f"{where}: {named['step']} is empty; fill in the step or leave the row out")
    given = 0 if given is None else _number(given, f"{where}: {named['step']}")
    if given != int(given):
        raise RolloutError(f"{where}: {named['step']} is {given}; a step is a whole number")
    problem = value["problem"] if value["problem"] is not None else asked
    return Rollout(
        run if value["run"] is None else str(value["run"]),
        int(given),
        problem if problem is None or isinstance(problem, str) else canonical(problem),
        text,
        reward,
        _correct(value["correct"], reward, fields, where),
        *_values(row),
        prompt=before if value["prompt"] is None else value["prompt"],
    )


def _values(row: Mapping) -> tuple[list | None, list | None, list | None]:
    """The texts of a row's tokens with their values, where it has them; a number or ids are no texts."""
    tokens = row.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return None, None, None
    logp, entropy = (v if isinstance(v := row.get(name), list) else None for name in ("logp", "entropy"))
    return tokens, logp, entropy


def _name(row: Mapping, role: str, given: str | None, where: str) -> str | None:
    if given is None:
        return next((name for name in NAMES[role] if name in row), None)
    if given not in row:
        raise RolloutError(f"{where} has no field {given!r}; its fields are: {', '.join(map(str, row))}")
    return given


def _trl_reward(row: Mapping) -> float | None:
    """The reward of TRL's log, which has a column for each function: that of the only one."""
    own = [v for k, v in row.items() if k not in TRL_OWN and isinstance(v, int | float)]
    return own[0] if len(own) == 1 else None


def _text(value: Any, where: str) -> tuple[str, str | None, list[dict] | None]:
    """The text of a completion; of chat messages that of the assistant's, what the user asked before, and,
    where only the last is the assistant's, all before it.
    """
    if isinstance(value, str):
        return value, None, None
    if isinstance(value, list) and all(isinstance(m, Mapping) and "content" in m for m in value):
        said = [(m.get("role"), _content(m["content"])) for m in value]
        asked = [text for role, text in said if role == "user"]
        written = [text for role, text in said if role == "assistant"]
        before = value[:-1] if said and said[-1][0] == "assistant" and len(written) == 1 else None
        return "\n".join(written), "\n".join(asked) or None, before or None
    raise RolloutError(f"{where}: the text is a {type(value).__name__}; give a string or chat messages")


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content or ""


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RolloutError(f"{where} is {value!r}; give a finite number")
    return number


def _correct(value: Any, reward: float | None, fields: Fields, where: str) -> bool | None:
    if fields.correct_above is not None and reward is not None:
        return reward > fields.correct_above
    if value is None:
        return None
    told = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}.get(
        str(value).lower()
    )
    if told is None:
        raise RolloutError(f"{where}: correct is {value!r}; give true, false, 1 or 0")
    return told


def chunks(rollouts: Iterable[Rollout], characters: int = 1 << 17) -> Iterator[list[Rollout]]:
    """Some rollouts at a time, as many as make arrays that fit the cache."""
    part, size = [], 0
    for rollout in rollouts:
        part.append(rollout)
        size += len(rollout.text)
        if size >= characters:
            yield part
            part, size = [], 0
    if part:
        yield part
