"""The sandbox's calibration table: is its base policy weak enough, and does GRPO teach it?

A world in which these two do not hold could show nothing about credit. The seeds of the table are
those of the study and one more, so two of its runs are the study's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from hicra.files import write_atomic
from hicra.study.launch import train_runs
from hicra.study.profiles import get_profile
from hicra.study.record.run_tables import load_study

SEEDS = (0, 1, 2)


def calibrate(runs: Path, out: Path, *, report: Callable[[str], None]) -> pd.DataFrame:
    """Train (or reuse) plain GRPO on each seed at default settings and write the table to `out`.

    Columns: seed, steps, problems, accuracy on held-out problems at temperature 1 before and after,
    gain. Raises RunError as `train_runs` does.
    """
    records = train_runs(get_profile("sandbox", seeds=list(SEEDS)), "grpo", runs, report=report)
    table = calibration_table(load_study(records).evals)
    write_atomic(Path(out), table.to_csv(index=False))
    return table


def calibration_table(evals: pd.DataFrame) -> pd.DataFrame:
    """First and last evaluation of every seed, and the gain between them (shares of problems)."""
    ends = (
        evals.sort_values("step")
        .groupby("seed")
        .agg(
            steps=("step", "last"),
            problems=("n", "last"),
            before=("accuracy", "first"),
            after=("accuracy", "last"),
        )
    )
    return ends.assign(gain=ends["after"] - ends["before"]).round(4).reset_index()
