"""Strategic Grams over anybody's rollouts: `measure(rollouts, lexicon=...) -> Measurement`.

Texts are read once and not kept: what stays is about 60 bytes a completion and 20 an occurrence of a gram.
The quantities of `Measurement.steps` are defined in sample.QUANTITIES. **Decision** (the paper has only the
plug-in): every entropy also comes matched for the number of occurrences, and for length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hicra.dynamics.grams import changed_grams, success_strata, successful_grams
from hicra.dynamics.readers import Fields, Rollout, RolloutError, chunks, files, read_rollouts
from hicra.dynamics.sample import QUANTITIES, Sample, Sizes, bounds, draws, interval, matched
from hicra.dynamics.store import Store, Trace, stored
from hicra.files import write_atomic
from hicra.lexicon.lexicon import Lexicon
from hicra.spread import Here, OnRay

RESAMPLES = 200
NONE = np.zeros(0)
EDGE = 4  # before and after are the first and the last quarter of a run's steps


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
    progress: Callable[[str], None] = lambda line: None,
    spread: Here | OnRay | None = None,
) -> Measurement:
    """Measure the strategic dynamics of any run's rollouts (paper, section 3 and Fig. 2).

    `rollouts`: a path, several, a DataFrame, or an iterable of mappings; `fields` names their fields. `every`
    pools so many steps into one. `before` and `after` are first and last step of what is compared, by default
    the first and the last quarter of each run's steps. `score` fills in token log-probabilities and
    entropies, as `hicra.dynamics.scoring.Scorer(checkpoint)` does; nothing else needs torch. `spread` reads
    file by file and measures step by step elsewhere, where the paths must be seen; the result is the same.

    Raises RolloutError for rollouts that cannot be read or compared, MissingError for an unknown lexicon.

        >>> found = hicra.measure("rollouts/", lexicon="listing1")
        >>> found.changes.query("quantity == 'semantic_entropy_matched'")
    """
    if every < 1 or resamples < 2:
        raise RolloutError(f"every={every} must be 1 or more, resamples={resamples} 2 or more")
    lexicon = lexicon if isinstance(lexicon, Lexicon) else Lexicon.load(lexicon)
    store = Store(lexicon, every)
    if spread is None:
        for part in chunks(read_rollouts(rollouts, fields)):
            store.add(score(part) if score else part)
            progress(f"{store.n} rollouts read")
    elif score:
        raise RolloutError("a cluster does not score; measure with a scorer on one machine")
    else:
        for other in spread.map(stored, files(rollouts), lexicon, every, fields):
            store.merge(other)
            progress(f"{store.n} rollouts read")
    if not store.n:
        raise RolloutError("there are no rollouts; give at least one")
    store.close()
    points = sorted(store.points)
    samples = {point: store.sample([point]) for point in points}
    sizes = matched(samples.values())
    rows: list[dict] = []
    strata: dict[str, list] = {}
    spread = spread or Here()
    each = [({"run": run, "step": step}, samples[run, step]) for run, step in points]
    for number, found in enumerate(spread.map(_step, each, sizes, resamples), 1):
        estimates, successes = found
        rows += estimates
        if successes is not None:
            strata.setdefault(points[number - 1][0], []).append(successes)
        progress(f"{number}/{len(points)} steps measured")
    ends = []
    for run in sorted({run for run, _ in points}):
        if edges := _ends([step for r, step in points if r == run], every, before, after):
            ends.append((run, *(store.sample([(run, step) for step in steps]) for steps in edges)))
    changes, grams = [], []
    for moved, risen in spread.map(_run, ends, lexicon.grams, resamples):
        changes += moved
        grams.append(risen)
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


def _step(told: dict, sample: Sample, sizes: Sizes, resamples: int) -> tuple[list[dict], Any]:
    """A step's estimates, and its strata of success where all of it is marked right or wrong."""
    marked = (sample.rows["correct"] >= 0).all()
    return _estimates(told, sample, sizes, resamples), success_strata(sample) if marked else None


def _run(run: str, first: Sample, last: Sample, grams: tuple[str, ...], resamples: int):
    """A run's changes between two samples, and its grams that rose or fell."""
    return _changes(run, first, last, resamples), changed_grams(grams, first, last).assign(run=run)


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
