"""What claims are judged by: quantities of a run, one number each.

"Early" and "late" are the means of a run's first and last EDGE steps, a change is late minus early;
accuracies are shares of held-out problems:

| quantity                              | definition                                                | unit |
|---------------------------------------|-----------------------------------------------------------|------|
| base_accuracy, final_accuracy         | accuracy at the first and at the last evaluation          | share |
| X_change                              | change of X, a name of CHANGED                            | X's |
| final_X                               | late value of X, a name of FINAL                          | X's |
| execution_log_perplexity_change       | change of mean NLL of execution tokens                    | nats |
| planning_minus_execution_error_change | error_planning_change - error_execution_change            | share |
| planning_high_entropy, high_entropy_planning | early overlap shares (Fig. 12)                     | share |
| semantic_minus_token_prediction, matched_..., semantic_minus_pass_... | differences of `prediction` | 1 |
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hicra.errors import HicraError
from hicra.study.verdicts.compass import PREDICTORS, prediction
from hicra.study.verdicts.windows import EDGE

CHANGED = ("length", *PREDICTORS)
FINAL = ("semantic_entropy", "semantic_entropy_matched", "entropy_planning")


def quantities(steps: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and seed with the module's quantities, from the frames of `load_study`.

    Raises ValueError for a run too short for early and late.
    """
    rows = {}
    for key, run in steps.groupby(["arm", "seed"], sort=False):
        tests = evals[(evals["arm"] == key[0]) & (evals["seed"] == key[1])]
        rows[key] = _of_run(run.sort_values("step"), tests.sort_values("step"))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["arm", "seed"])


def _of_run(run: pd.DataFrame, tests: pd.DataFrame) -> dict[str, float]:
    run = run.assign(execution_nll=np.log(run["perplexity_execution"]))
    early, late = _means(run)
    change, nll = late - early, "execution_nll"
    return {
        "base_accuracy": tests["accuracy"].iloc[0],
        "final_accuracy": tests["accuracy"].iloc[-1],
        **{f"{name}_change": change[name] for name in CHANGED if name in change},
        **{f"final_{name}": late[name] for name in FINAL},
        "execution_log_perplexity_change": change[nll],
        "planning_minus_execution_error_change": change["error_planning"] - change["error_execution"],
        "planning_high_entropy": early["planning_high_entropy"],
        "high_entropy_planning": early["high_entropy_planning"],
        **_predictions(run),
    }


def _predictions(run: pd.DataFrame) -> Mapping[str, float]:
    rho = {name: prediction(run[name], run["reward"]) for name in PREDICTORS}
    return {
        "semantic_minus_token_prediction": rho["semantic_entropy"] - rho["token_entropy"],
        "matched_minus_token_prediction": rho["semantic_entropy_matched"] - rho["token_entropy"],
        "semantic_minus_pass_prediction": rho["semantic_entropy"] - rho["group_solved"],
    }


def _means(run: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Means of a run's first and last EDGE steps."""
    if len(run) < 2 * EDGE:
        raise HicraError(f"a run of {len(run)} steps is too short: early and late need {EDGE} steps each")
    numbers = run.select_dtypes("number")
    return numbers.iloc[:EDGE].mean(), numbers.iloc[-EDGE:].mean()
