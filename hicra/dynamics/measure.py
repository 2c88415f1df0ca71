"""Strategic Grams over anybody's rollouts: `measure(rollouts, lexicon=...) -> Measurement`.

Texts are read once and not kept: what stays is about 60 bytes a completion and 20 an occurrence of a gram.
The quantities of `Measurement.steps` are defined in sample.QUANTITIES. **Decision** (the paper has only the
plug-in): every entropy also comes matched for the number of occurrences, and for length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hicra.dynamics.grams import changed_grams, success_strata, successful_grams
from hicra.dynamics.occurrences import GramFinder
from hicra.dynamics.readers import Fields, Rollout, RolloutError, chunks, read_rollouts
from hicra.dynamics.sample import CLASSES, QUANTITIES, Sample, Sizes, bounds, draws, interval, matched
from hicra.files import write_atomic
from hicra.lexicon.lexicon import Lexicon

RESAMPLES = 200
NONE = np.zeros(0)
EDGE = 4  # before and after are the first and the last quarter of a run's steps
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


@dataclass(frozen=True)
class Measurement:
    """What `measure` found, as tidy tables; `notes` say what could not be computed, and why.

    `steps`: run, step, quantity, unit, value, low, high, problems. `changes`: run, quantity, unit, before,
    after, change, low, high, problems. `grams`: which rose and fell. `success`: which go with success within
    problems. Intervals are at 95 %, over problems.
    """

    lexicon: Lexicon
    steps: pd.DataFrame
    changes: pd.DataFrame
    grams: pd.DataFrame
    success: pd.DataFrame
    notes: tuple[str, ...]
    traces: tuple[Trace, ...]

    def figure(self):
        """The paper's Fig. 2 and 4 for these runs, as a matplotlib Figure."""
        from hicra.dynamics.report import figure

        return figure(self)

    def report(self, path: Path | str) -> None:
        """Write everything as one HTML page that needs nothing else."""
        from hicra.dynamics.report import report_html

        write_atomic(Path(path), report_html(self))

    def save(self, folder: Path | str) -> list[Path]:
        """Write the tables as CSV, and report.html, into `folder`."""
        written = []
        for name in ("steps", "changes", "grams", "success"):
            written.append(Path(folder) / f"{name}.csv")
            write_atomic(written[-1], getattr(self, name).to_csv(index=False, float_format="%.6g"))
        self.report(Path(folder) / "report.html")
        return [*written, Path(folder) / "report.html"]


def measure(
    rollouts: Any,
    lexicon: Lexicon | str = "general",
    *,
    fields: Fields = Fields(),  # noqa: B008 (frozen)
    every: int = 1,
    before: tuple[int, int] | None = None,
    after: tuple[int, int] | None = None,
    score: Callable[[list[Rollout]], list[Rollout]] | None = None,
    resamples: int = RESAMPLES,
    progress: Callable[[str], None] | None = None,
) -> Measurement:
    """Measure the strategic dynamics of any run's rollouts (paper, section 3 and Fig. 2).

    `rollouts`: a path, several, a DataFrame, or an iterable of mappings; `fields` names their fields. `every`
    pools so many steps into one. `before` and `after` are first and last step of what is compared, by default
    the first and the last quarter of each run's steps. `score` fills in token log-probabilities and
    entropies, as `hicra.dynamics.scoring.Scorer(checkpoint)` does; nothing else needs torch.

    Raises RolloutError for rollouts that cannot be read or compared, MissingError for an unknown lexicon.

        >>> found = hicra.measure("rollouts/", lexicon="listing1")
        >>> found.changes.query("quantity == 'semantic_entropy_matched'")
    """
    if every < 1 or resamples < 2:
        raise RolloutError(f"every={every} must be 1 or more, resamples={resamples} 2 or more")
    lexicon = lexicon if isinstance(lexicon, Lexicon) else Lexicon.load(lexicon)
    store = Store(lexicon, every)
    for part in chunks(read_rollouts(rollouts, fields)):
        store.add(score(part) if score else part)
        if progress:
            progress(f"{store.n} rollouts read")
    if not store.n:
        raise RolloutError("there are no rollouts; give at least one")
    store.close()
    points = sorted(store.points)
    samples = {point: store.sample([point]) for point in points}
    sizes = matched(samples.values())
    rows: list[dict] = []
    strata: dict[str, list] = {}
    for number, (run, step) in enumerate(points, 1):
        sample = samples[run, step]
        rows += _estimates({"run": run, "step": step}, sample, sizes, resamples)
        if (sample.rows["correct"] >= 0).all():
            strata.setdefault(run, []).append(success_strata(sample))
        if progress:
            progress(f"{number}/{len(points)} steps measured")
    changes, grams = [], []
    for run in sorted({run for run, _ in points}):
        if ends := _ends([step for r, step in points if r == run], every, before, after):
            first, last = (store.sample([(run, step) for step in steps]) for steps in ends)
            changes += _changes(run, first, last, resamples)
            grams.append(changed_grams(lexicon.grams, first, last).assign(run=run))
    success = [
        successful_grams(lexicon.grams, pd.concat(s)).assign(run=run) for run, s in sorted(strata.items())
    ]
    steps = pd.DataFrame(rows, columns=["run", "step", *STEP_COLUMNS])
    columns = ["run", "quantity", "unit", "before", "after", "change", "low", "high", "problems"]
    return Measurement(
        lexicon,
        steps,
        pd.DataFrame(changes, columns=columns),
        _joined(grams, "change"),
        _joined(success, "difference"),
        tuple(_notes(store, samples, sizes, bool(changes))),
        store.traces(),
    )


STEP_COLUMNS = ["quantity", "unit", "value", "low", "high", "problems"]


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
        kept = self.kept.setdefault(point, [])
        kept.append((text, Trace(*key, rollout.text[:LONGEST], rollout.correct)))
        kept.sort(key=lambda pair: pair[0])
        del kept[TRACES:]

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


def _estimates(told: dict, sample: Sample, sizes: Sizes, resamples: int) -> list[dict]:
    n = sample.problems.size
    values = sample.quantities(np.ones((1, n), np.int64), sizes)
    drawn = sample.quantities(draws(n, resamples), sizes) if n > 1 else {}
    return [
        {**told, **_told(name), "value": value[0], "problems": n}
        | dict(zip(("low", "high"), interval(value[0], drawn.get(name, NONE), n, bounds(name)), strict=True))
        for name, value in values.items()
    ]


def _changes(run: str, before: Sample, after: Sample, resamples: int) -> list[dict]:
    """Each quantity before and after, matched to each other; a problem in both is drawn for both."""
    sizes = matched([before, after])
    known = np.union1d(before.problems, after.problems)
    drawn, values = [], []
    weights = draws(known.size, resamples) if known.size > 1 else np.zeros((0, 1), np.int64)
    for sample in (before, after):
        own = weights[:, np.searchsorted(known, sample.problems)] if len(weights) else None
        values.append(sample.quantities(np.ones((1, sample.problems.size), np.int64), sizes))
        drawn.append({} if own is None else sample.quantities(own, sizes))
    rows = []
    for name in [name for name in values[0] if name in values[1]]:
        one, other = (v[name][0] for v in values)
        moved = drawn[1][name] - drawn[0][name] if drawn[0] else NONE
        least, most = bounds(name)
        low, high = interval(other - one, moved, known.size, (least - most, most - least))
        ends = {"before": one, "after": other, "change": other - one, "low": low, "high": high}
        rows.append({"run": run, **_told(name), **ends, "problems": known.size})
    return rows


def _told(name: str) -> dict[str, str]:
    return {"quantity": name, "unit": QUANTITIES[name][0]}


def _ends(steps: list[int], every: int, before, after) -> tuple[list[int], list[int]] | None:
    """The steps before and after; None where the run has too few."""
    if (before is None) != (after is None):
        raise RolloutError("give both before and after, or neither")
    if before is None:
        n = max(1, len(steps) // EDGE)
        return (steps[:n], steps[-n:]) if len(steps) > 1 else None
    chosen = [[s for s in steps if low <= s and s + every - 1 <= high] for low, high in (before, after)]
    if not all(chosen):
        raise RolloutError(
            f"no step lies in {before} or none in {after}; steps are {steps[0]} to {steps[-1]}"
        )
    return chosen[0], chosen[1]


def _joined(tables: list[pd.DataFrame], name: str) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame(columns=["run", "gram", name, "low", "high", "p", "q", "problems"])
    table = pd.concat(tables, ignore_index=True)
    return table[["run", *(column for column in table if column != "run")]]


def _notes(store: Store, samples: dict, sizes: Sizes, compared: bool) -> Iterable[str]:
    """What was left out or bounds what can be read, and why."""
    if not store.has_problems:
        yield "No problem field: intervals are over completions, and nothing is split by problem."
    elif min(sample.problems.size for sample in samples.values()) < 2:
        yield "A step has one problem, so it has no interval; pool steps by every (--every)."
    if (store.rows["correct"] < 0).any():
        yield "No accuracy and no pass@k: not all completions are marked right or wrong (--correct-above)."
    if np.isnan(store.rows["reward"]).any():
        yield "No reward: not every completion has one (--reward-field)."
    if not np.isfinite(store.rows["nll_planning"]).all():
        yield "No perplexity, no token entropy: not all rollouts hold tokens with logp and entropy (--score)."
    if not compared:
        yield "No changes and no rising grams: each run has one step."
    if not sizes.occurrences:
        yield "No entropies: no step has an occurrence of a gram of this lexicon."
    else:
        least = min(samples, key=lambda point: samples[point].gram.size or math.inf)
        yield f"Entropies are matched to {sizes.occurrences} occurrences: {least[0]}, step {least[1]}."
