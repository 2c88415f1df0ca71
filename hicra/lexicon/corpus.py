"""Solutions from files, a Hub data set or a run record: streamed, cleaned, with what was dropped and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from hicra.boxed import extract_boxed
from hicra.errors import HicraError
from hicra.files import iter_jsonl
from hicra.words import MARKER, segments

HUB = "hub:"  # a source's prefix for a data set of the Hub, "hub:owner/name"
TAIL = 300  # words at the end that are searched for a loop
END = re.compile(r"</think>|<\|end_of_thought\|>")  # of the thinking, before the answer to the reader
LOOP = 0.4  # a tail with a smaller share of distinct 6-grams repeats itself


class CorpusError(HicraError):
    """A source that cannot be read as solutions; the message names it and the remedy."""


@dataclass
class Corpus:
    """The usable solutions of `sources`; iterating reads them anew, one record in memory at a time.

    A source is a JSON Lines file (plain, or compressed by gzip, bzip2 or zstd), "hub:owner/name", or the
    folder of a run record, whose kept rollouts are read. `text` names the field of the solution, `correct`
    the field that says whether it is right (none: all are taken as right); with `correct_above` that field
    holds a reward, and what lies above is right. `one_per` keeps the first usable solution for each value of
    that field, so that a problem sampled often does not vote often. `after` cuts what precedes its first
    occurrence, a prompt say; a text without it is whole. `thinking` keeps what precedes the end of the
    thinking (</think> or <|end_of_thought|>) and drops solutions without one. After an iteration `kept` is
    the number of solutions and `dropped` counts the others by reason.

    Iterating raises CorpusError for a missing field and a record whose text is not a string, and what
    `iter_jsonl` raises.
    """

    sources: Iterable[str | Path]
    text: str = "response"
    correct: str | None = None
    correct_above: float | None = None
    one_per: str | None = None
    boxed_only: bool = True
    after: str = ""
    thinking: bool = False
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[str]:
        repeats = Repeats()
        for text, keys in self.candidates():
            if reason := repeats(keys):
                self.dropped[reason] += 1
            else:
                self.kept += 1
                yield text

    def candidates(self) -> Iterator[tuple[str, list[bytes]]]:
        """The solutions as they are used, repeated ones too, each with what `Repeats` knows them by."""
        self.kept, self.dropped = 0, Counter()
        for where, record in self._records():
            text = _field(record, self.text, where)
            if not isinstance(text, str):
                raise CorpusError(f"{where}: field {self.text!r} holds {text!r:.40}, not a text")
            text = text[text.find(self.after) + len(self.after) :] if self.after in text else text
            words = [word.text for run in segments(text) for word in run]
            reason = self._reason(text, words, record, where)
            if reason:
                self.dropped[reason] += 1
                continue
            keys = [_key(" ".join(words))]
            if self.one_per:
                keys.append(_key(f"{self.one_per}: {_field(record, self.one_per, where)}"))
            yield MARKER.sub("\n", END.split(text)[0] if self.thinking else text), keys

    def _records(self) -> Iterator[tuple[str, dict]]:
        for source in self.sources:
            if str(source).startswith(HUB):
                yield from _hub(str(source)[len(HUB) :])
            elif Path(source).is_dir():
                yield from _run(Path(source), self.text, self.correct)
            else:
                yield from ((f"{source}, line {n}", row) for n, row in iter_jsonl(source))

    def _reason(self, text: str, words: list[str], record: dict, where: str) -> str | None:
        """Why a solution is not used, whatever came before it, or None."""
        if self.correct and not self._is_correct(record, where):
            return "not correct"
        if self.boxed_only and extract_boxed(text) is None:
            return "no boxed answer"
        if self.thinking and not END.search(text):
            return "no end of thinking"
        return "looping tail" if loops(words) else None

    def _is_correct(self, record: dict, where: str) -> bool:
        assert self.correct is not None  # only then is a record asked
        value = _field(record, self.correct, where)
        if self.correct_above is not None and type(value) in (int, float, bool):
            return value > self.correct_above
        if isinstance(value, bool) or (value in (0, 1) and self.correct_above is None):
            return bool(value)
        what = "a number" if self.correct_above is not None else "true, false, 1 or 0"
        remedy = (
            ""
            if self.correct_above is not None
            else "; for other rewards give correct_above (--correct-above)"
        )
        raise CorpusError(f"{where}: field {self.correct!r} holds {value!r}, not {what}{remedy}")


class Repeats:
    """Which solutions are not used because of one before them; called in their order, with their keys."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def __call__(self, keys: list[bytes]) -> str | None:
        """Why this one is not used, or None; what is used is noted."""
        for key, name in zip(keys, ("duplicate", "another solution of its problem"), strict=False):
            if key in self.seen:
                return name
        self.seen.update(keys)
        return None


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def loops(words: list[str]) -> bool:
    """Whether the last words say the same thing again and again."""
    tail = words[-TAIL:]
    grams = list(zip(*(tail[i:] for i in range(6)), strict=False))
    return len(grams) >= TAIL // 2 and len(set(grams)) < LOOP * len(grams)


def _field(record: dict, name: str, where: str):
    if name not in record:
        raise CorpusError(f"{where} has no field {name!r}; its fields are: {', '.join(record)}")
    return record[name]


def _hub(name: str) -> Iterator[tuple[str, dict]]:
    from datasets import load_dataset

    for number, row in enumerate(load_dataset(name, split="train", streaming=True)):
        yield f"{HUB}{name}, row {number}", row


def _run(folder: Path, text: str, correct: str | None) -> Iterator[tuple[str, dict]]:
    names = ("rollouts.jsonl.bz2", "rollouts.jsonl", "rollouts.jsonl.gz")  # the last of records of format 1
    kept = next((folder / name for name in names if (folder / name).exists()), None)
    if kept is None:
        raise CorpusError(
            f"{folder} holds no run record: it has no rollouts.jsonl; give a run folder or a file"
        )
    for number, row in iter_jsonl(kept):
        record = {**row, text: row["completion"]} | ({correct: row["reason"] == "right"} if correct else {})
        yield f"{kept}, line {number}", record
