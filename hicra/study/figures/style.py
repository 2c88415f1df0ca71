"""House style of the figures: colours, face, lines over seeds, and files that do not change.

The palette is seaborn's colour-blind one, and every line also differs by its dashes, so figures
survive a grey printer. Nothing is set globally: `house` holds the style while a figure is drawn.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hicra.errors import HicraError
from hicra.files import write_atomic
from hicra.study.verdicts.intervals import Interval, interval, share_interval
from hicra.study.verdicts.windows import EDGE, smooth

WIDTH = 7.2  # inches: the text width of a two-column page
PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN, VERMILION, PURPLE = PALETTE[:5]
STEPS = "training step (updates)"
FEW = 8  # values a line, up to which each is marked and none is smoothed


class Face(NamedTuple):
    """How an arm looks: its name, colour, and dashes (() for a solid line)."""

    name: str
    color: tuple[float, float, float]
    dashes: tuple[float, ...]


ARMS = {
    "grpo": Face("GRPO", BLUE, (4, 2)),
    "hicra": Face("HICRA", VERMILION, ()),
    "hicra0.9": Face("HICRA, alpha 0.9", PURPLE, (6, 1, 1, 1, 1, 1)),
    "scaled": Face("Scaled", GREEN, (7, 3)),
    "symmetric": Face("Symmetric", ORANGE, (8, 2)),
    "hicra_all": Face("HICRA on all tokens", PALETTE[5], (3, 1, 1, 1)),
    "placebo": Face("Placebo HICRA", PALETTE[7], (2, 1)),
    "yoked": Face("Yoked", PALETTE[8], (2, 2, 6, 2)),
    "symmetric0.9": Face("Symmetric, alpha 0.9", ORANGE, (6, 1)),
    "scaled0.9": Face("Scaled, alpha 0.9", GREEN, (2, 2)),
    "high_entropy": Face("High-Entropy Advantage", PURPLE, (6, 2, 1, 2)),
    "entropy_reg": Face("Entropy Regularization", GREEN, (1, 1)),
    "oracle": Face("HICRA, true spans", PALETTE[9], (5, 1)),
    "recipe0": Face("HICRA, the recipe's lexicon", PALETTE[8], (1, 2)),
    "recipe1": Face("HICRA, the recipe's, second seed", PALETTE[5], (2, 2)),
    "drop30": Face("HICRA, 30 % of grams dropped", BLUE, (1, 1)),
    "weighted0.5": Face("Half the planning credit", PALETTE[9], (1, 3)),
    "weighted2": Face("Twice the planning credit", PALETTE[9], (3, 1)),
    "weighted4": Face("Four times the planning credit", PALETTE[9], (1, 1.2)),
    "scaled_all": Face("Scaled, all tokens", PALETTE[5], (1, 3)),
    "fork_mask": Face("Uncertain tokens only", PURPLE, (1, 1.2)),
    "entropy_shaped": Face("Entropy in the advantage", PURPLE, (3, 1)),
    "released": Face("The released variant", PALETTE[7], (6, 1)),
    "base": Face("Base, before training", PALETTE[7], (1, 1)),
}
PLACES = {"even-": "equal problems", "easy-": "easier start"}  # of conditions with a baseline of their own
ELSEWHERE = tuple(PLACES)
# For arms of one's own: seven colours and five dashes, both changing from one arm to the next.
OWN_COLORS = (GREEN, PURPLE, PALETTE[5], PALETTE[7], PALETTE[9], ORANGE, VERMILION)
OWN_DASHES = ((4, 1, 1, 1, 1, 1), (1, 1.5), (10, 2), (5, 2, 2, 2), (2, 3))
CLASSES = {"planning": (VERMILION, ()), "execution": (BLUE, (4, 2))}
SHARES = {  # columns between 0 and 1: so are their intervals and axes
    *("accuracy", "group_solved", "planning_share", "planning_high_entropy", "high_entropy_planning"),
    *("error_planning", "error_execution", "error_planning_share", "error_execution_sound"),
    *("zero_variance", "clipped", "no_planning"),
}


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
        "legend.handlelength": 2.4,  # long enough to show the dashes
        "svg.fonttype": "path",
        "svg.hashsalt": "hicra",  # element ids without it are random
        "pdf.fonttype": 42,  # TrueType: text in a PDF can be searched and edited
    }
    sizes = {"axes.titlesize": 9, "axes.labelsize": 8, "legend.fontsize": 8}
    ticks = {"xtick.labelsize": 8, "ytick.labelsize": 8}
    with mpl.rc_context(sns.axes_style("ticks") | sns.plotting_context("paper") | own | sizes | ticks):
        yield


def canvas(*, height: float, title: str, world: str, note: str, legend: bool = False) -> Figure:
    """A figure without axes, but with its face: title, the world its numbers come from, how to read it.

    `height` is in inches. `legend` keeps a line free below the face for `top_legend`.
    """
    if not world.strip():
        raise ValueError("world is empty; a figure must say where its numbers come from")
    figure = plt.figure(figsize=(WIDTH, height), layout="constrained")
    plt.close(figure)  # pyplot keeps no reference; notebooks show the returned figure, once
    lines = wrap(note, 140)
    head, foot = 0.5 + 0.24 * legend, 0.06 + 0.14 * len(lines)  # inches
    figure.get_layout_engine().set(rect=(0, foot / height, 1, 1 - (head + foot) / height))
    face = {"x": 0.01}
    figure.text(y=1 - 0.06 / height, s=title, va="top", fontsize=11, fontweight="bold", **face)
    figure.text(y=1 - 0.27 / height, s=world, va="top", fontsize=8.5, style="italic", **face)
    figure.text(y=0.04 / height, s="\n".join(lines), va="bottom", fontsize=7.5, color="0.25", **face)
    return figure


def top_legend(figure: Figure, ax: Axes) -> None:
    """The legend of `ax` for the whole figure, on the line that `canvas` kept free."""
    handles, labels = ax.get_legend_handles_labels()
    place = {"loc": "upper left", "bbox_to_anchor": (0.0, 1 - 0.42 / figure.get_figheight())}
    options = {"ncols": len(labels), "frameon": False, "columnspacing": 1.2}
    figure.legend(handles, labels, **options, **place)


def seeds_note(frame: pd.DataFrame) -> str:
    """What lines, bands and whiskers mean, with the number of seeds of each arm."""
    seeds = set(frame.groupby("arm")["seed"].nunique())
    meaning = ["lines are means over seeds" if max(seeds) > 1 else "one seed has no interval"]
    if frame.groupby("arm")["step"].nunique().max() > FEW:
        meaning.append(f"curves over steps are smoothed over {EDGE} steps, unsmoothed behind in light")
    if max(seeds) > 2:
        meaning.append("bands are 95 % intervals over seeds")
    if 2 in seeds:
        meaning.append("whiskers are 95 % intervals over seeds at the last step")
    return f"Seeds: {seed_counts(frame)}; {'; '.join(meaning)}."


def seed_counts(frame: pd.DataFrame) -> str:
    """How many seeds each arm has; one number where all have the same."""
    counts = frame.groupby("arm")["seed"].nunique()
    if len(counts) > 1 and counts.nunique() == 1:
        return f"{counts.iloc[0]} for each arm"
    return ", ".join(f"{n} for {arm_name(arm)}" for arm, n in counts.items())


def arm_name(arm: str) -> str:
    """What figures and tables call an arm or a condition.

    >>> arm_name("easy-grpo")
    'GRPO, easier start'
    """
    for prefix, place in PLACES.items():
        if arm.startswith(prefix):
            return f"{arm_name(arm.removeprefix(prefix))}, {place}"
    return ARMS[arm].name if arm in ARMS else arm


def faces(arms: Iterable[str]) -> dict[str, Face]:
    """The face of each arm; arms that are not the study's get one each, by their order."""
    own = zip(cycle(OWN_COLORS), cycle(OWN_DASHES), strict=False)
    return {arm: ARMS[arm] if arm in ARMS else Face(arm_name(arm), *next(own)) for arm in arms}


def arm_lines(ax: Axes, data: pd.DataFrame, column: str, ylabel: str, arms: Sequence[str]) -> None:
    """A panel with one line an arm, as `seed_lines` draws it."""
    for arm, face in faces(arms).items():
        name, color, dashes = face
        seed_lines(ax, data[data["arm"] == arm], column, label=name, color=color, dashes=dashes)
    ax.set(xlabel=STEPS, ylabel=ylabel)
    fit(ax, share=column in SHARES)


def difference_lines(ax: Axes, data: pd.DataFrame, column: str, ylabel: str, arms: Sequence[str]) -> None:
    """A panel with the difference of each other arm to the first one, paired by seed and step."""
    first, *others = arms
    for arm in others:
        name, color, dashes = faces(arms)[arm]
        gap = paired(data, column, arm, first)
        seed_lines(ax, gap, column, label=name, color=color, dashes=dashes, between=interval)
    ax.axhline(0, color="0.4", lw=0.7, label="_zero")
    ax.set(xlabel=STEPS, ylabel=ylabel)
    fit(ax)


def paired(data: pd.DataFrame, column: str, arm: str, baseline: str) -> pd.DataFrame:
    """`column` of `arm` minus that of `baseline`, at the seeds and steps that both have."""
    wide = data.pivot(index=["seed", "step"], columns="arm", values=column)
    gap = (wide[arm] - wide[baseline]).dropna()
    return gap.rename(column).reset_index().assign(arm=arm)


def seed_lines(
    ax: Axes,
    frame: pd.DataFrame,
    column: str,
    *,
    label: str,
    color,
    dashes: Sequence[float],
    between: Callable[[Iterable[float]], Interval] | None = None,
) -> None:
    """One arm's mean over seeds against step, with its 95 % interval.

    More than FEW steps are smoothed within each seed, with the mean as measured behind; of fewer, each seed
    is a thin line. The interval, by `between`, is a band. Over two seeds it is so wide and rough (12.7
    standard errors) that two bands would fill the panel: there it is a whisker for the last step.
    """
    data = frame.dropna(subset=[column])
    many = data["step"].nunique() > FEW
    data = data.assign(shown=smooth(data, column) if many else data[column])
    between = between or (share_interval if column in SHARES else interval)
    intervals = data.groupby("step")["shown"].apply(between)
    steps, means = intervals.index, [i.mean for i in intervals]
    line = {"color": color, "linestyle": (0, tuple(dashes)) if dashes else "-"}
    thin = {**line, "lw": 0.6, "alpha": 0.45}
    # Markers hide the dashes of a legend's short line, so they differ as well.
    marker = {} if many else {"marker": "o" if not dashes else "s" if dashes[0] > 2 else "^", "ms": 3.5}
    ax.plot(steps, means, lw=1.6, label=label, **line, **marker)
    seeds = data["seed"].nunique()
    if many:
        ax.plot(data.groupby("step")[column].mean(), label="_raw", **{**thin, "linestyle": "-"})
    elif seeds > 1:
        for _, run in data.sort_values("step").groupby("seed"):
            ax.plot(run["step"], run["shown"], label="_seed", **thin)
    if seeds > 2:
        low, high = [i.low for i in intervals], [i.high for i in intervals]
        ax.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
    elif seeds == 2:
        _end_whisker(ax, steps, intervals.iloc[-1], color)


def _end_whisker(ax: Axes, steps: pd.Index, last: Interval, color) -> None:
    x = steps[-1] + 0.025 * (1 + len(ax.containers)) * (steps[-1] - steps[0])
    ends = [[last.mean - last.low], [last.high - last.mean]]
    ax.errorbar(x, last.mean, yerr=ends, fmt="o", ms=3, color=color, label="_end")


def fit(ax: Axes, *, share: bool = False) -> None:
    """Limits that hold all lines, and bands as far as these leave the lines a third of the height.

    Intervals over few seeds can be so wide that they would hide the lines. A share's axis ends at 0 and 1.
    """
    lines = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines])
    low, high = np.nanmin(lines), np.nanmax(lines)
    bands = [low, high, *(y for area in ax.collections for y in area.get_datalim(ax.transData).intervaly)]
    span = high - low or 0.1
    low, high = max(min(bands), low - span), min(max(bands), high + span)
    margin = 0.06 * (high - low) or 0.1
    low, high = low - margin, high + margin
    edge = 0.02 * (high - low)  # a line at 0 or 1 is drawn whole
    ax.set_ylim(*((max(low, -edge), min(high, 1 + edge)) if share else (low, high)))


def legend_below(ax: Axes) -> None:
    """The panel's legend in its lower left, in room of its own below the lines."""
    low, high = ax.get_ylim()
    entries = len(ax.get_legend_handles_labels()[1])
    ax.set_ylim(low - (0.08 + 0.14 * entries) * (high - low), high)
    ax.legend(loc="lower left")


def require(frame: pd.DataFrame, columns: Sequence[str], arms: Sequence[str]) -> pd.DataFrame:
    """The rows of `arms`. Raises ValueError for a missing column, arm, or a column without values."""
    missing = [name for name in ["arm", "seed", "step", *columns] if name not in frame]
    if missing:
        raise ValueError(f"the frame has no column {', '.join(missing)}")
    absent = sorted(set(arms) - set(frame["arm"]))
    if absent:
        raise HicraError(f"no run of arm {absent}; the frame has {sorted(set(frame['arm']))}")
    chosen = frame[frame["arm"].isin(arms)].reset_index(drop=True)
    empty = [name for name in columns if chosen[name].isna().all()]
    if empty:
        raise HicraError(f"{', '.join(empty)} holds no value for {', '.join(arms)}")
    return chosen


def save(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write NAME.svg, .pdf and .png, each whole or not at all; the same figure gives the same bytes.

    Raises ValueError when `name` is not a plain file name.
    """
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"name={name!r} must be a file name without a folder")
    # All are drawn before one is written, so a figure that cannot be drawn changes nothing.
    files = {Path(folder) / f"{name}.{kind}": _render(figure, kind) for kind in METADATA}
    for path, data in files.items():
        write_atomic(path, data)
    return list(files)


# A date or a version in the metadata would make the same figure a different file.
METADATA = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@house()
def _render(figure: Figure, kind: str) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=100, metadata=METADATA[kind])
    return buffer.getvalue()
