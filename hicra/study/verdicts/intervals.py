"""Intervals over seeds, the power of a rule, and the table of results of a comparison.

A seed is the unit of replication: whatever is averaged inside a run, an interval runs over seeds.
Two arms are compared on the seeds they share, as paired differences, because runs of one seed see
the same problems in the same order.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hicra.errors import HicraError
from hicra.study.verdicts.windows import EDGE

CONFIDENCE = 0.95
RESAMPLES = 10_000
ACCURACIES = ("base accuracy (share)", "final accuracy (share)")
# column of `dynamics.summarise` -> its change, late minus early, in the results table, with its unit
CHANGES = {
    "semantic_entropy": "semantic entropy change, plug-in (bits)",
    "semantic_entropy_matched": "semantic entropy change, size-matched (bits)",
}


class Interval(NamedTuple):
    """Mean of `n` seeds and its 95 % interval; without two seeds its ends are NaN."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Iterable[float]) -> Interval:
    """Two-sided 95 % t-interval of the mean, one value a seed; of a difference, pass the differences.

    Raises ValueError for no values, or NaN or infinity among them.
    """
    sample = np.asarray(list(values), dtype=float)  # (n,)
    if not sample.size or not np.isfinite(sample).all():
        raise ValueError(f"an interval needs finite values, one a seed, got {sample.tolist()}")
    mean, n = float(sample.mean()), sample.size
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    # Not scipy's loc and scale: with a scale of 0, where all seeds agree, it gives NaN.
    low, high = mean + stats.sem(sample) * np.array(stats.t.interval(CONFIDENCE, n - 1))
    return Interval(mean, float(low), float(high), n)


def share_interval(values: Iterable[float]) -> Interval:
    """Mean and 95 % interval of shares, each of many completions, one a seed; the ends lie within 0 and 1.

    Student's t for arcsin(sqrt(share)), whose spread hardly depends on the share, and back. What else stays
    within 0 and 1 fails here: logits are infinite at 0 and 1, which Pass@8 reaches; Wilson's interval leaves
    out what differs from seed to seed; a percentile bootstrap over five seeds is too narrow.

    Raises ValueError as `interval` does, and for a value outside [0, 1].
    """
    shares = np.asarray(list(values), dtype=float)  # (n,)
    if (np.abs(shares - 0.5) > 0.5 + 1e-9).any():  # running means may pass an end by a rounding error
        raise ValueError(f"shares lie between 0 and 1, got {shares.tolist()}")
    angles = interval(np.arcsin(np.sqrt(shares.clip(0, 1))))
    low, high = np.sin(np.clip([angles.low, angles.high], 0, np.pi / 2)) ** 2
    mean = shares.mean()
    low, high = np.minimum(low, mean), np.maximum(high, mean)  # by a rounding error, where all seeds agree
    return Interval(float(mean), float(low), float(high), angles.n)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean; the draw is fixed, so tables repeat."""
    result = stats.bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def judged_interval(values: Iterable[float]) -> Interval:
    """The interval that verdicts are based on: the union of bootstrap and t-interval."""
    sample = list(values)
    mean, low, high, n = interval(sample)
    if n < 2:
        return Interval(mean, low, high, n)
    boot_low, boot_high = bootstrap_interval(sample)
    return Interval(mean, min(low, boot_low), max(high, boot_high), n)


def power(deviation: float, n: int, effect: float) -> float:
    """Chance that the t-interval over `n` seeds lies above a bound, if the true mean lies `effect` above it.

    `deviation` is the standard deviation over seeds, in the unit of `effect`. NaN without two seeds.

    >>> round(power(0.0235, 5, 0.02), 2)  # the paper's +2 points, final accuracy, five seeds
    0.31
    """
    if n < 2:
        return math.nan
    if not deviation:
        return float(effect > 0)
    wanted = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    return float(stats.nct.sf(wanted, n - 1, effect * math.sqrt(n) / deviation))


def equivalence_power(deviation: float, n: int, margin: float, effect: float = 0) -> float:
    """Chance that the t-interval over `n` seeds lies within `margin` of 0, if the true mean is `effect`.

    By the sampling distributions of mean and variance: 100,000 draws, always the same. NaN without two seeds.

    >>> round(equivalence_power(0.026, 10, 0.03), 1)
    0.8
    """
    if n < 2:
        return math.nan
    rng = np.random.default_rng(0)
    means = effect + deviation / math.sqrt(n) * rng.standard_normal(100_000)
    errors = deviation * np.sqrt(rng.chisquare(n - 1, 100_000) / (n - 1) / n)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * errors
    return float((np.abs(means) + reach <= margin).mean())


def paired_interval(ours: pd.Series, theirs: pd.Series) -> Interval:
    """Interval of `ours - theirs` over the seeds (index) that both have.

    Raises ValueError when they share no seed.
    """
    seeds = ours.index.intersection(theirs.index)
    if seeds.empty:
        raise HicraError(f"no seed is in both {list(ours.index)} and {list(theirs.index)}")
    return interval(ours[seeds] - theirs[seeds])


def results_table(frame: pd.DataFrame, evals: pd.DataFrame, *, baseline: str = "grpo") -> pd.DataFrame:
    """One row per arm and quantity: mean, low, high over seeds and their number, `seeds`.

    Quantities: accuracy (share of held-out problems) before the first update, at the end, and the gain; the
    change of semantic entropy from a run's first to its last EDGE steps; the mean length of these. For each
    other arm a second block, "ARM - BASELINE", holds the paired differences. `frame` and `evals` have columns
    arm and seed beside those of `dynamics.summarise` and `summarise_evals`. Raises HicraError for a run that
    was not evaluated at step 0 or ends at another step than the rest.
    """
    values = per_seed(frame, evals)
    rows = []
    for (arm, quantity), group in values.groupby(["arm", "quantity"], sort=False):
        between = share_interval if quantity in ACCURACIES else interval
        rows.append((arm, quantity, *between(group["value"])))
    series = {key: g.set_index("seed")["value"] for key, g in values.groupby(["arm", "quantity"])}
    for arm, quantity in [row[:2] for row in rows]:
        if arm != baseline and (baseline, quantity) in series:
            difference = paired_interval(series[arm, quantity], series[baseline, quantity])
            rows.append((f"{arm} - {baseline}", quantity, *difference))
    return pd.DataFrame(rows, columns=["arm", "quantity", "mean", "low", "high", "seeds"])


def per_seed(frame: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """What `results_table` averages: one row per arm, seed and quantity, column `value`."""
    _check_ends(evals)
    rows = []
    for (arm, seed), run in evals.sort_values("step").groupby(["arm", "seed"], sort=False):
        steps = frame[(frame["arm"] == arm) & (frame["seed"] == seed)].sort_values("step")
        if steps.empty:
            raise HicraError(f"arm {arm}, seed {seed} has evaluations but no steps")
        early, late = (part.mean(numeric_only=True) for part in (steps.head(EDGE), steps.tail(EDGE)))
        base, final = run["accuracy"].iloc[0], run["accuracy"].iloc[-1]
        told = dict(zip(ACCURACIES, (base, final), strict=True)) | {"accuracy gain (share)": final - base}
        told |= {name: late[column] - early[column] for column, name in CHANGES.items()}
        told["completion length (tokens)"] = late["length"]
        rows += [(arm, seed, quantity, value) for quantity, value in told.items()]
    return pd.DataFrame(rows, columns=["arm", "seed", "quantity", "value"])


def _check_ends(evals: pd.DataFrame) -> None:
    if evals.empty:
        raise HicraError("there are no evaluations to take results from")
    ends = evals.groupby(["arm", "seed"])["step"].agg(["min", "max"])
    if (ends["min"] != 0).any():
        raise HicraError(f"not evaluated at step 0: {list(ends.index[ends['min'] != 0])}")
    if ends["max"].nunique() > 1:
        raise HicraError(f"runs end at different steps: {ends['max'].to_dict()}; finish them first")
