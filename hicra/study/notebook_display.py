"""What notebooks show beside figures: versions, and one status line that updates in place."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import pandas as pd

from hicra.study.training.run import PACKAGES


def versions() -> pd.DataFrame:
    """The packages that decide the numbers, as a table."""
    return pd.DataFrame({"version": {name: version(name) for name in PACKAGES}})


def live_line() -> Callable[[str], None]:
    """A function that replaces the text it showed before, in the cell that called this."""
    from IPython.display import Pretty, display

    handle = display(Pretty("starting"), display_id=True)
    return lambda line: handle.update(Pretty(line))
