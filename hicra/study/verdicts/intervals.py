"""Intervals over seeds, and the table of results that verdicts are read from.

A seed is the unit of replication: whatever is averaged inside a run, an interval runs over seeds.
Two arms are compared on the seeds they share, as paired differences, because runs of one seed see
the same problems in the same order.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hicra.errors import HicraError

# column of `dynamics.summarise` -> quantity in the results table, with its unit
DYNAMICS = {
    "semantic_entropy_change": "semantic entropy change, plug-in (bits)",
    "semantic_entropy_matched_change": "semantic entropy change, size-matched (bits)",
    "length": "completion length (tokens)",
}


class Interval(NamedTuple):
    """Mean of `n` seeds and its 95 % t-interval; without two seeds its ends are NaN."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """Two-sided t-interval of the mean, one value a seed; of a difference, pass the differences.

    Raises ValueError for no values, NaN or infinity among them, or `confidence` outside (0, 1).
    """
    sample = np.asarray(list(values), dtype=float)  # (n,)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must lie in (0, 1)")
    if not sample.size or not np.isfinite(sample).all():
        raise ValueError(f"an interval needs finite values, one a seed, got {sample.tolist()}")
    mean, n = float(sample.mean()), sample.size
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * sample.std(ddof=1) / math.sqrt(n)
    return Interval(mean, float(mean - half), float(mean + half), n)


def paired_interval(ours: pd.Series, theirs: pd.Series, confidence: float = 0.95) -> Interval:
    """Interval of `ours - theirs` over the seeds (index) that both have.

    Raises ValueError when they share no seed.
    """
    seeds = ours.index.intersection(theirs.index)
    if seeds.empty:
        raise HicraError(f"no seed is in both {list(ours.index)} and {list(theirs.index)}")
    return interval(ours[seeds] - theirs[seeds], confidence)


def results_table(
    frame: pd.DataFrame,
    evals: pd.DataFrame,
    *,
    baseline: str = "grpo",
    last: int = 5,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """One row per arm and quantity: mean, low, high over seeds and their number, `seeds`.

    Quantities: accuracy (share of held-out problems) before the first update, at the end, and the
    gain; dynamics as the mean of a run's `last` steps. For each other arm a second block, "ARM -
    BASELINE", holds the paired differences. `frame` and `evals` have columns arm and seed beside
    those of `dynamics.summarise` and `summarise_evals`. Raises ValueError for a run that was not
    evaluated at step 0 or ends at another step than the rest.
    """
    values = per_seed(frame, evals, last)
    rows = []
    for (arm, quantity), group in values.groupby(["arm", "quantity"], sort=False):
        rows.append((arm, quantity, *interval(group["value"], confidence)))
    series = {key: g.set_index("seed")["value"] for key, g in values.groupby(["arm", "quantity"])}
    for arm, quantity in [row[:2] for row in rows]:
        if arm != baseline and (baseline, quantity) in series:
            difference = paired_interval(series[arm, quantity], series[baseline, quantity], confidence)
            rows.append((f"{arm} - {baseline}", quantity, *difference))
    return pd.DataFrame(rows, columns=["arm", "quantity", "mean", "low", "high", "seeds"])


def per_seed(frame: pd.DataFrame, evals: pd.DataFrame, last: int = 5) -> pd.DataFrame:
    """What `results_table` averages: one row per arm, seed and quantity, column `value`."""
    _check_ends(evals)
    rows = []
    for (arm, seed), run in evals.sort_values("step").groupby(["arm", "seed"], sort=False):
        base, final = run["accuracy"].iloc[0], run["accuracy"].iloc[-1]
        rows += [(arm, seed, "base accuracy (share)", base)]
        rows += [(arm, seed, "final accuracy (share)", final)]
        rows += [(arm, seed, "accuracy gain (share)", final - base)]
        steps = frame[(frame["arm"] == arm) & (frame["seed"] == seed)].sort_values("step")
        if steps.empty:
            raise HicraError(f"arm {arm}, seed {seed} has evaluations but no steps")
        ends = steps.tail(last)[list(DYNAMICS)].mean()
        rows += [(arm, seed, quantity, ends[column]) for column, quantity in DYNAMICS.items()]
    return pd.DataFrame(rows, columns=["arm", "seed", "quantity", "value"])


def _check_ends(evals: pd.DataFrame) -> None:
    if evals.empty:
        raise HicraError("there are no evaluations to take results from")
    ends = evals.groupby(["arm", "seed"])["step"].agg(["min", "max"])
    if (ends["min"] != 0).any():
        raise HicraError(f"not evaluated at step 0: {list(ends.index[ends['min'] != 0])}")
    if ends["max"].nunique() > 1:
        raise HicraError(f"runs end at different steps: {ends['max'].to_dict()}; finish them first")
