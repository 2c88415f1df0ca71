"""Windows of a run's steps: a single step is noise, so means over EDGE steps stand for a stretch of a run."""

from __future__ import annotations

import pandas as pd

EDGE = 5  # steps whose mean is a metric's value at the start, at the end, or along a run
RUN = ["arm", "seed"]


def start(frame: pd.DataFrame, column: str) -> pd.Series:
    """For every row of `frame`, the mean of `column` over the first EDGE steps of that row's run.

    Figures measure changes from here, as the quantities of claims do, and not from the first step alone.
    """
    runs = frame.sort_values("step").groupby(RUN)[column]
    return runs.transform(lambda values: values.iloc[:EDGE].mean())


def change(frame: pd.DataFrame, column: str) -> pd.Series:
    """`column` minus its `start`, row by row, in the column's unit."""
    return frame[column] - start(frame, column)


def smooth(frame: pd.DataFrame, column: str) -> pd.Series:
    """The running mean of `column` over EDGE steps of each run, centred; at a run's ends over fewer."""
    runs = frame.sort_values("step").groupby(RUN)[column]
    return runs.transform(lambda values: values.rolling(EDGE, center=True, min_periods=1).mean())
