"""Which metric is a compass (paper, Takeaway 3, Fig. 11): rank correlations with what is gained later.

Token entropy and Pass@8 are what others watch; the paper proposes semantic entropy. The number of the step
is the null: whatever falls all along predicts gains that shrink all along.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from hicra.study.verdicts.intervals import interval
from hicra.study.verdicts.windows import EDGE

AHEAD = 10  # steps between a predictor and the end of the gain it predicts
PREDICTORS = ("semantic_entropy", "semantic_entropy_matched", "token_entropy", "group_solved")


def prediction(predictor: pd.Series, reward: pd.Series) -> float:
    """Spearman correlation, over a run's steps, of a metric with the gain in reward that follows.

    Both are means of EDGE steps; the gain is from the metric's own window to the one AHEAD steps later.
    """
    level, score = (s.reset_index(drop=True).rolling(EDGE).mean() for s in (predictor, reward))
    gain = score.shift(-AHEAD) - score
    both = pd.concat([level, gain], axis=1).dropna()
    return _rank_correlation(both.iloc[:, 0], both.iloc[:, 1])


def _rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, or NaN where there are fewer than three pairs or nothing to rank."""
    if len(one) < 3 or min(len(set(one)), len(set(other))) < 2:
        return np.nan
    return float(stats.spearmanr(one, other).statistic)


def compass_table(steps: pd.DataFrame, evals: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """One row per metric and way to ask: mean rank correlation over seeds, its 95 % t-interval.

    "within runs": `prediction`, the mean over `arms`. "across runs": over `arms` of one seed, the metric at
    the first evaluation after the start with the held-out accuracy gained from there to the end. Rows
    without two seeds, or without variation to rank, have no interval or no value.
    """
    rows = []
    for metric in (*PREDICTORS, "step"):
        ways = {"within runs": _within, "across runs": _across}
        for way, ask in ways.items():
            if way == "across runs" and metric == "step":
                continue  # the same for all runs
            found = pd.Series(ask(steps[steps["arm"].isin(arms)], evals, metric)).dropna()
            mean, low, high, n = interval(found) if len(found) else (np.nan, np.nan, np.nan, 0)
            rows.append({"metric": metric, "asked": way, "rho": mean, "low": low, "high": high, "seeds": n})
    return pd.DataFrame(rows)


def _within(steps: pd.DataFrame, evals: pd.DataFrame, metric: str) -> dict[int, float]:
    rho = {key: prediction(r[metric], r["reward"]) for key, r in steps.groupby(["seed", "arm"])}
    return pd.Series(rho).groupby(level=0).mean().to_dict()


def _across(steps: pd.DataFrame, evals: pd.DataFrame, metric: str) -> dict[int, float]:
    found = {}
    for seed, runs in steps.groupby("seed"):
        levels, gains = zip(*(_level_and_gain(r, evals, metric) for _, r in runs.groupby("arm")), strict=True)
        found[seed] = _rank_correlation(levels, gains)
    return found


def _level_and_gain(run: pd.DataFrame, evals: pd.DataFrame, metric: str) -> tuple[float, float]:
    arm, seed = run[["arm", "seed"]].iloc[0]
    tests = evals[(evals["arm"] == arm) & (evals["seed"] == seed)].sort_values("step")
    at = tests["step"].iloc[1]
    before = run[(run["step"] < at) & (run["step"] >= at - EDGE)]
    return before[metric].mean(), tests["accuracy"].iloc[-1] - tests["accuracy"].iloc[1]
