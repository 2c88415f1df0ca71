"""The paper's claims as rules on run records: data/claims.yaml in, a table of verdicts out.

Quantities, one number a run. "Early" and "late" are the means of a run's first and last EDGE steps,
a change is late minus early; accuracies are shares of held-out problems:

| quantity                              | definition                                                |
|---------------------------------------|-----------------------------------------------------------|
| final_accuracy                        | accuracy at the last evaluation                           |
| final_reward                          | late mean reward of rollouts on training problems         |
| X_change                              | change of X, for length (tokens), group_solved (share),   |
|                                       | token_entropy (nats, all tokens), error_planning and      |
|                                       | error_execution (shares), semantic_entropy(_matched) (bits) |
| final_semantic_entropy(_matched)      | late value, bits                                          |
| semantic_entropy_second_half          | late minus middle value, bits                             |
| execution_log_perplexity_change       | change of mean NLL of execution tokens, nats              |
| execution_front_loading               | its change in the second half minus that in the first     |
| planning_minus_execution_error_change | error_planning_change - error_execution_change            |
| planning_high_entropy, high_entropy_planning | early overlap shares (Fig. 12)                     |
| semantic_, matched_minus_token_prediction, semantic_minus_pass_prediction | differences of `prediction` |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from hicra.paths import data_path
from hicra.verdicts import interval

EDGE = 5  # steps
AHEAD = 10  # steps between a predictor and the end of the gain it predicts
RESAMPLES = 10_000
PREDICTORS = ("semantic_entropy", "semantic_entropy_matched", "token_entropy", "group_solved")
CHANGED = ("length", "error_planning", "error_execution", *PREDICTORS)
RULES = ("above", "below", "within")
REPLICATED, NOT_REPLICATED, NOT_TESTED = "replicated", "not replicated", "not tested here"


class ClaimError(ValueError):
    """A claims file that cannot be judged by; the message names the claim."""


class Claims(NamedTuple):
    """The claims in order, and how many seeds a verdict needs."""

    claims: tuple[dict, ...]
    seeds: int


# --- quantities -----------------------------------------------------------------------------------


def quantities(steps: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and seed with the module's quantities, from the frames of `load_study`."""
    rows = {}
    for key, run in steps.groupby(["arm", "seed"], sort=False):
        tests = evals[(evals["arm"] == key[0]) & (evals["seed"] == key[1])]
        rows[key] = _of_run(run.sort_values("step"), tests.sort_values("step"))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["arm", "seed"])


def _of_run(run: pd.DataFrame, tests: pd.DataFrame) -> dict[str, float]:
    run = run.assign(execution_nll=np.log(run["perplexity_execution"]))
    early, middle, late = _means(run)
    change = late - early
    rho = {name: prediction(run[name], run["reward"]) for name in PREDICTORS}
    nll = "execution_nll"
    return {
        "final_accuracy": tests["accuracy"].iloc[-1],
        "final_reward": late["reward"],
        **{f"{name}_change": change[name] for name in CHANGED},
        "final_semantic_entropy": late["semantic_entropy"],
        "final_semantic_entropy_matched": late["semantic_entropy_matched"],
        "semantic_entropy_second_half": late["semantic_entropy"] - middle["semantic_entropy"],
        "execution_log_perplexity_change": change[nll],
        "execution_front_loading": (late[nll] - middle[nll]) - (middle[nll] - early[nll]),
        "planning_minus_execution_error_change": change["error_planning"] - change["error_execution"],
        "planning_high_entropy": early["planning_high_entropy"],
        "high_entropy_planning": early["high_entropy_planning"],
        "semantic_minus_token_prediction": rho["semantic_entropy"] - rho["token_entropy"],
        "matched_minus_token_prediction": rho["semantic_entropy_matched"] - rho["token_entropy"],
        "semantic_minus_pass_prediction": rho["semantic_entropy"] - rho["group_solved"],
    }


def _means(run: pd.DataFrame) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Means of a run's first, middle and last EDGE steps."""
    if len(run) < 2 * EDGE:
        raise ClaimError(f"a run of {len(run)} steps is too short: early and late need {EDGE} steps each")
    numbers = run.select_dtypes("number")
    start = (len(run) - EDGE) // 2
    return tuple(numbers.iloc[i : i + EDGE].mean() for i in (0, start, len(run) - EDGE))


def prediction(predictor: pd.Series, reward: pd.Series) -> float:
    """Spearman correlation, over a run's steps, of a metric with the gain in reward that follows.

    Both are means of EDGE steps; the gain is from the metric's own window to the one AHEAD steps later.
    """
    level, score = (s.reset_index(drop=True).rolling(EDGE).mean() for s in (predictor, reward))
    gain = score.shift(-AHEAD) - score
    both = pd.concat([level, gain], axis=1).dropna()
    return float(stats.spearmanr(both.iloc[:, 0], both.iloc[:, 1]).statistic) if len(both) > 2 else np.nan


# --- verdicts -------------------------------------------------------------------------------------


def load_claims(path: Path | str) -> Claims:
    """A claims file, or the study's own by its name.

    Raises ClaimError for an unknown rule, a missing field or an id given twice.
    """
    try:
        record = yaml.safe_load(data_path(path).read_text())
    except yaml.YAMLError as error:
        raise ClaimError(f"{path} is not YAML ({' '.join(str(error).split())}); restore it") from error
    if not isinstance(record, dict) or not {"claims", "seeds"} <= set(record):
        raise ClaimError(f"{path} must name `seeds` and `claims`; restore it")
    seen: set[str] = set()
    for claim in record["claims"]:
        name = claim.get("id", "without id")
        wanted = {"id", "claim", "where", "paper"}
        wanted |= {"not_tested"} if "not_tested" in claim else {"quantity", "of", "rule"}
        if set(claim) != wanted:
            raise ClaimError(f"claim {name}: fields {sorted(claim)}; give {sorted(wanted)}")
        if name in seen:
            raise ClaimError(f"claim {name} stands twice; rename one")
        if "rule" in claim and (len(claim["rule"]) != 1 or set(claim["rule"]) - set(RULES)):
            raise ClaimError(f"claim {name}: rule {claim['rule']}; give one of {', '.join(RULES)}")
        seen.add(name)
    return Claims(tuple(record["claims"]), record["seeds"])


def verdict_table(claims: Claims, table: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: statistic, both intervals, verdict and note. `table` is `quantities`'."""
    told = ("id", "claim", "where", "paper")
    rows = [{k: c[k] for k in told} | _judge(c, table, claims.seeds) for c in claims.claims]
    columns = [*told, "statistic", "ours", "low", "high", "t_low", "t_high", "seeds", "verdict", "note"]
    return pd.DataFrame(rows, columns=columns)


def _judge(claim: Mapping, table: pd.DataFrame, wanted: int) -> dict:
    if "not_tested" in claim:
        return {"seeds": 0, "verdict": NOT_TESTED, "note": claim["not_tested"]}
    values = contrast(table, claim["quantity"], claim["of"])
    terms = " ".join(f"{'+' if weight > 0 else '-'}{arm}" for arm, weight in claim["of"].items())
    told = {"statistic": f"{claim['quantity']}: {terms}", "seeds": len(values)}
    if len(values) < wanted:
        return {**told, "verdict": NOT_TESTED, "note": f"{len(values)} of {wanted} seeds have been run"}
    low, high = bootstrap_interval(values)
    mean, t_low, t_high, _ = interval(values)
    result = {**told, "ours": mean, "low": low, "high": high, "t_low": t_low, "t_high": t_high}
    verdict, note = decide(claim["rule"], min(low, t_low), max(high, t_high))
    return {**result, "verdict": verdict, "note": note}


def contrast(table: pd.DataFrame, quantity: str, weights: Mapping[str, float]) -> pd.Series:
    """Sum of weight x quantity over arms, for the seeds that all of them have: (seeds,).

    Raises ClaimError for an unknown quantity.
    """
    if quantity not in table:
        raise ClaimError(f"unknown quantity {quantity!r}; there are: {', '.join(table.columns)}")
    wide = table[quantity].unstack("arm").reindex(columns=list(weights)).dropna()
    return sum(weight * wide[arm] for arm, weight in weights.items())


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over seeds; the draw is fixed, so tables repeat."""
    result = stats.bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def decide(rule: Mapping[str, float], low: float, high: float) -> tuple[str, str]:
    """Verdict and note from the union of both intervals, by the rule of the claims file."""
    (kind, bound), *_ = rule.items()
    if kind == "within":
        inside, outside = -bound <= low and high <= bound, low > bound or high < -bound
        note = f"a difference beyond {bound}" if outside else "too wide an interval"
        return (REPLICATED, "") if inside else (NOT_REPLICATED, note)
    holds, opposite = (low > bound, high < bound) if kind == "above" else (high < bound, low > bound)
    if holds:
        return REPLICATED, ""
    return NOT_REPLICATED, "the opposite was found" if opposite else "the interval decides neither way"
