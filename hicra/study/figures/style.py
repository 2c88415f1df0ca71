"""House style of the figures: colours, face, lines over seeds, and files that do not change.

The palette is seaborn's colour-blind one, and every line also differs by its dashes, so figures
survive a grey printer. Nothing is set globally: `house` holds the style while a figure is drawn.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hicra.errors import HicraError
from hicra.files import write_atomic
from hicra.study.verdicts.intervals import Interval, interval

WIDTH = 7.2  # inches: the text width of a two-column page
PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN, VERMILION, PURPLE = PALETTE[:5]
STEPS = "training step (updates)"
FEW = 8  # values a line, up to which each is marked
# name on the face, colour, dashes
ARMS = {
    "grpo": ("GRPO", BLUE, (4, 2)),
    "hicra": ("HICRA", VERMILION, ""),
    "oracle": ("HICRA, true spans", PALETTE[9], (5, 1)),
    "placebo": ("Placebo HICRA", PALETTE[7], (2, 1)),
    "entropy_reg": ("Entropy Regularization", GREEN, (1, 1)),
    "entropy_reg0.2": ("Entropy Regularization, strong", PALETTE[5], (1, 3)),
    "high_entropy": ("High-Entropy Advantage", PURPLE, (6, 2, 1, 2)),
    "symmetric": ("Symmetric", ORANGE, (8, 2)),
    "gated": ("Gated", PALETTE[5], (3, 1, 1, 1)),
    "drop30": ("HICRA, 30 % of grams dropped", BLUE, (3, 3)),
    "alpha0.1": ("HICRA, alpha 0.1", PALETTE[8], (1, 2)),
    "alpha0.5": ("HICRA, alpha 0.5", ORANGE, (6, 1)),
    "alpha0.9": ("HICRA, alpha 0.9", PURPLE, (6, 1, 1, 1, 1, 1)),
    "listing1": ("HICRA, the paper's list", GREEN, (7, 3)),
    "skyt1-paper": ("HICRA, real traces, recipe of the paper", PALETTE[8], (2, 2, 6, 2)),
    "skyt1-hicra": ("HICRA, real traces, our selection", PALETTE[5], (2, 2)),
    "base": ("Base, before training", "black", (1, 2)),
    "weak-base": ("Weak base, before training", "black", (1, 2)),
    "weak-grpo": ("GRPO, weak base", BLUE, (4, 2)),
    "weak-hicra": ("HICRA, weak base", VERMILION, ""),
}
CLASSES = {"planning": (VERMILION, ""), "execution": (BLUE, (4, 2))}


@contextmanager
def house() -> Iterator[None]:
    """The style while a figure is drawn; usable as a decorator."""
    own = {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs everywhere
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.grid": True,
        "grid.linewidth": 0.5,
        "legend.edgecolor": "none",
        "legend.framealpha": 0.8,  # text stays readable, and what passes behind it visible
        "legend.handlelength": 2.8,  # long enough to show the dashes
        "svg.fonttype": "path",
        "svg.hashsalt": "hicra",  # element ids without it are random
    }
    style = sns.axes_style("ticks") | sns.plotting_context("paper", font_scale=0.95)
    with mpl.rc_context(style | own):
        yield


def canvas(
    rows: int, columns: int, *, height: float, title: str, world: str, note: str, **options
) -> tuple[Figure, np.ndarray]:
    """A figure with its face: title, the world its numbers come from, and how to read it."""
    if not world.strip():
        raise ValueError("world is empty; a figure must say where its numbers come from")
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, height), layout="constrained", squeeze=False, **options
    )
    plt.close(figure)  # pyplot keeps no reference; notebooks show the returned figure, once
    figure.suptitle(f"{title}\n", x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.text(0.01, 1 - 0.3 / height, world, va="top", fontsize=8.5, style="italic")
    figure.supxlabel(fill(note, 118), x=0.01, ha="left", fontsize=7.5, color="0.25")
    return figure, axes


def seeds_note(frame: pd.DataFrame) -> str:
    """What lines, bands and whiskers mean, with the number of seeds of each arm."""
    seeds = set(frame.groupby("arm")["seed"].nunique())
    meaning = ["thick: mean, thin: seeds"] if max(seeds) > 1 else []
    if max(seeds) > 2:
        meaning.append("band: 95 % t-interval over seeds")
    if 2 in seeds:
        meaning.append("whisker: 95 % t-interval over seeds at the last step")
    if 1 in seeds:
        meaning.append("one seed has no interval")
    return f"Seeds: {seed_counts(frame)}; {'; '.join(meaning)}."


def seed_counts(frame: pd.DataFrame) -> str:
    """How many seeds each arm has; one number where all have the same."""
    counts = frame.groupby("arm")["seed"].nunique()
    if len(counts) > 2 and counts.nunique() == 1:
        return f"n = {counts.iloc[0]} for every arm"
    return ", ".join(f"{arm_name(arm)} n = {n}" for arm, n in counts.items())


def arm_name(arm: str) -> str:
    return ARMS[arm][0] if arm in ARMS else arm


def arm_color(arm: str):
    return ARMS[arm][1] if arm in ARMS else "black"


def arm_lines(ax: Axes, data: pd.DataFrame, column: str, ylabel: str, arms: Sequence[str]) -> None:
    """A panel with one line an arm, as `seed_lines` draws it."""
    for arm in arms:
        name, color, dashes = ARMS.get(arm, (arm, "black", (1, 2)))
        seed_lines(ax, data[data["arm"] == arm], column, label=name, color=color, dashes=dashes)
    ax.set(xlabel=STEPS, ylabel=ylabel)
    ax.legend()
    fit(ax)


def seed_lines(ax: Axes, frame: pd.DataFrame, column: str, *, label: str, color, dashes) -> None:
    """Mean over seeds against step with its 95 % t-interval, and each seed as a thin line.

    The interval is a band. Over two seeds it is so wide and rough (12.7 standard errors) that two
    bands would fill the panel: there it is a whisker, right of the lines, for the last step.
    """
    data = frame.dropna(subset=[column])
    line = {"color": color, "linestyle": (0, dashes) if dashes else "-"}
    intervals = data.groupby("step")[column].apply(interval)
    steps, means = intervals.index, [i.mean for i in intervals]
    marker = {"marker": "o", "ms": 3.5} if len(steps) <= FEW else {}  # else a line looks like more than it is
    ax.plot(steps, means, lw=1.6, label=label, **marker, **line)
    seeds = data["seed"].nunique()
    if seeds > 1:
        for _, run in data.sort_values("step").groupby("seed"):
            ax.plot(run["step"], run[column], lw=0.6, alpha=0.45, label="_seed", **line)
    if seeds > 2:
        low, high = [i.low for i in intervals], [i.high for i in intervals]
        ax.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
    elif seeds == 2:
        _end_whisker(ax, steps, intervals.iloc[-1], color)


def _end_whisker(ax: Axes, steps: pd.Index, last: Interval, color) -> None:
    neighbours = ax.get_shared_x_axes().get_siblings(ax)  # twins draw in the same panel
    slot = 1 + sum(len(each.containers) for each in neighbours)
    x = steps[-1] + 0.025 * slot * (steps[-1] - steps[0])
    ax.errorbar(x, last.mean, yerr=last.mean - last.low, fmt="o", ms=3, color=color, label="_end")


def fit(ax: Axes, *, low: float | None = None) -> None:
    """Limits from the lines alone: intervals over few seeds are so wide that they would hide them."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines])
    bottom, top = np.nanmin(values), np.nanmax(values)
    margin = 0.12 * (top - bottom) or 0.1
    ax.set_ylim(bottom - margin if low is None else low, top + margin)


def require(frame: pd.DataFrame, columns: Sequence[str], arms: Sequence[str]) -> pd.DataFrame:
    """The rows of `arms`. Raises ValueError for a missing column, arm, or a column without values."""
    missing = [name for name in ["arm", "seed", "step", *columns] if name not in frame]
    if missing:
        raise ValueError(f"the frame has no column {', '.join(missing)}")
    absent = sorted(set(arms) - set(frame["arm"]))
    if absent:
        raise HicraError(f"no run of arm {absent}; the frame has {sorted(set(frame['arm']))}")
    chosen = frame[frame["arm"].isin(arms)]
    empty = [name for name in columns if chosen[name].isna().all()]
    if empty:
        raise HicraError(f"{', '.join(empty)} holds no value for {', '.join(arms)}")
    return chosen


def save(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write NAME.svg and NAME.png, each whole or not at all; the same figure gives the same bytes.

    Raises ValueError when `name` is not a plain file name.
    """
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"name={name!r} must be a file name without a folder")
    # Both are drawn before either is written, so a figure that cannot be drawn changes nothing.
    files = {Path(folder) / f"{name}.{kind}": _render(figure, kind) for kind in ("svg", "png")}
    for path, data in files.items():
        write_atomic(path, data)
    return list(files)


@house()
def _render(figure: Figure, kind: str) -> bytes:
    # A date or a version in the metadata would make the same figure a different file.
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()
