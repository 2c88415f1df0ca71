"""What `measure` keeps of rollouts: numbers, not texts. Those of several files add up to those of all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from hicra.dynamics.occurrences import GramFinder
from hicra.dynamics.readers import Fields, Rollout, RolloutError, chunks, read_file
from hicra.dynamics.sample import CLASSES, Sample
from hicra.lexicon.lexicon import Lexicon

TRACES, TRACES_KEPT, LONGEST = 3, 150, 20_000  # of a step, of all steps in a report, characters of one
TOKEN_SUMS = [f"{name}_{kind}" for name in ("tokens", "nll", "entropy") for kind in CLASSES]
ROW = np.dtype(
    [("point", "i4"), ("problem", "u8"), ("text", "u8"), ("reward", "f8"), ("correct", "i1")]
    + [("words", "i4"), ("planning", "i4"), *((name, "f4") for name in TOKEN_SUMS)]
)
FOUND = np.dtype([("rollout", "i4"), ("gram", "i4"), ("at", "i4"), ("follower", "u8")])


@dataclass(frozen=True)
class Trace:
    """A completion kept for the report."""

    run: str
    step: int
    text: str
    correct: bool | None


class Store:
    """What is kept of rollouts: a row of numbers each, the occurrences of grams, and a few texts a step."""

    def __init__(self, lexicon: Lexicon, every: int) -> None:
        self.finder, self.every, self.n = GramFinder(lexicon), every, 0
        ids = sorted(set(lexicon.clusters.values()))
        self.membership = np.searchsorted(ids, [lexicon.clusters[gram] for gram in lexicon.grams])  # (K,)
        self.points: dict[tuple[str, int], int] = {}
        self.kept: dict[int, list[tuple[int, Trace]]] = {}
        self.rows: Any = []
        self.found: Any = []
        self.has_problems = True

    def add(self, part: list[Rollout]) -> None:
        hits = self.finder([rollout.text for rollout in part])
        rows = np.zeros(len(part), ROW)
        for row, rollout in zip(rows, part, strict=True):
            self._fill(row, rollout)
        rows["words"], rows["planning"] = hits.n_words, hits.n_planning
        found = np.zeros(hits.gram.size, FOUND)
        found["rollout"], found["gram"], found["at"] = hits.text + self.n, hits.gram, hits.at
        found["follower"] = hits.follower
        self.rows.append(rows)
        self.found.append(found)
        self.n += len(part)

    def merge(self, other: Store) -> None:
        """Add what another store, of the same lexicon, kept of rollouts that come after these."""
        codes = [self.points.setdefault(key, len(self.points)) for key in other.points]
        for rows, found in zip(other.rows, other.found, strict=True):
            self.rows.append(rows := rows.copy())
            rows["point"] = np.array(codes, np.int32)[rows["point"]]
            self.found.append(found := found.copy())
            found["rollout"] += self.n
        for code, traces in other.kept.items():
            self._keep(codes[code], traces)
        self.has_problems &= other.has_problems
        self.n += other.n

    def _keep(self, point: int, traces: list[tuple[int, Trace]]) -> None:
        kept = self.kept.setdefault(point, [])
        kept += traces
        kept.sort(key=lambda pair: pair[0])
        del kept[TRACES:]

    def _fill(self, row: np.void, rollout: Rollout) -> None:
        key = rollout.run, rollout.step // self.every * self.every
        point = self.points.setdefault(key, len(self.points))
        text = _hash(rollout.text)
        # Where the input names no problems, each completion is a problem of its own.
        self.has_problems &= rollout.problem is not None
        problem = text ^ self.n if rollout.problem is None else _hash(rollout.problem)
        correct = -1 if rollout.correct is None else int(rollout.correct)
        reward = math.nan if rollout.reward is None else rollout.reward
        sums = token_sums(rollout, self.finder.lexicon)
        values = (point, problem, text, reward, correct, 0, 0, *sums)
        for name, value in zip(ROW.names or (), values, strict=True):
            row[name] = value
        self._keep(point, [(text, Trace(*key, rollout.text[:LONGEST], rollout.correct))])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "finder": None}  # only `add` needs it

    def close(self) -> None:
        """Sort by point, so that a step is one piece."""
        rows, found = np.concatenate(self.rows), np.concatenate(self.found)
        self._grade(rows)
        if not self.has_problems:
            order = np.lexsort((rows["reward"], rows["text"]))
            rows["problem"][order] = np.arange(len(rows))  # by text, not by place in a file
        order = np.argsort(rows["point"], kind="stable")
        place = np.empty(len(rows), np.int32)
        place[order] = np.arange(len(rows))
        found["rollout"] = place[found["rollout"]]
        self.rows, self.found = rows[order], found[np.argsort(found["rollout"], kind="stable")]

    def _grade(self, rows: np.ndarray) -> None:
        """Rewards of 0 and 1 alone say what is right, where nothing else does."""
        if (rows["correct"] < 0).all() and np.isin(rows["reward"], (0, 1)).all():
            rows["correct"] = rows["reward"]

    def sample(self, points: Iterable[tuple[str, int]]) -> Sample:
        rows, found, n = [], [], 0
        for point in points:
            code = self.points[point]
            first, last = np.searchsorted(self.rows["point"], [code, code + 1])
            low, high = np.searchsorted(self.found["rollout"], [first, last])
            piece = self.found[low:high].copy()
            piece["rollout"] += n - first
            rows.append(self.rows[first:last])
            found.append(piece)
            n += last - first
        return Sample(np.concatenate(rows), np.concatenate(found), self.membership)

    def traces(self) -> tuple[Trace, ...]:
        """A few of each step, of evenly spaced steps where there are many; the texts alone decide which."""
        points = sorted(self.points)
        chosen = np.unique(
            np.linspace(0, len(points) - 1, min(len(points), TRACES_KEPT // TRACES)).astype(int)
        )
        return tuple(trace for i in chosen for _, trace in self.kept[self.points[points[i]]])


def token_sums(rollout: Rollout, lexicon: Lexicon) -> tuple[float, ...]:
    """Numbers, negative log-likelihoods (nats) and entropies (nats) of planning and of execution tokens.

    NaN where the rollout has none. A token is planning where it overlaps an occurrence of a gram.
    """
    if rollout.tokens is None:
        return (0.0, 0.0, *(math.nan,) * 4)
    ends = np.cumsum([len(token) for token in rollout.tokens])
    starts = ends - [len(token) for token in rollout.tokens]
    planning = np.zeros(ends.size, bool)
    for start, end, _ in lexicon.find("".join(rollout.tokens)):
        planning |= (starts < end) & (ends > start)
    sums = [planning.sum(), (~planning).sum()]
    for values, sign in ((rollout.logp, -1), (rollout.entropy, 1)):
        if values is None:
            sums += [math.nan, math.nan]
            continue
        if len(values) != ends.size:
            raise RolloutError(
                f"a rollout of step {rollout.step} has {ends.size} tokens and {len(values)} values"
            )
        sums += [sign * np.sum(np.asarray(values)[chosen]) for chosen in (planning, ~planning)]
    return tuple(map(float, sums))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def stored(run: str, path: str, lexicon: Lexicon, every: int, fields: Fields) -> Store:
    """The store of one file of a run."""
    store = Store(lexicon, every)
    for part in chunks(read_file(run, path, fields)):
        store.add(part)
    return store
