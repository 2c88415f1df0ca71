"""Figures of the controls (paper, Table 1, Fig. 5 and 7 to 11): many arms beside each other.

Frames, errors and the meaning of lines are those of training_curves.py; `values` is
`run_quantities.quantities`.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hicra.study.figures.style import (
    ORANGE,
    STEPS,
    VERMILION,
    arm_lines,
    arm_name,
    canvas,
    difference_lines,
    faces,
    fit,
    house,
    legend_below,
    require,
    seed_counts,
    seeds_note,
    top_legend,
)
from hicra.study.figures.tables import final_accuracy
from hicra.study.figures.training_curves import (
    ESTIMATES,
    accuracy_panel,
    class_panel,
    length_panel,
    perplexity_panel,
    semantic_panel,
)
from hicra.study.verdicts.intervals import interval, share_interval
from hicra.study.verdicts.windows import change, smooth

SMALL = {  # many panels a page; 7 points is the least that print bears
    **{f"{part}.labelsize": 7 for part in ("axes", "xtick", "ytick")},
    **{"axes.titlesize": 8, "legend.fontsize": 7, "legend.handlelength": 1.8},
}
# column -> label of its axis, and the unit of differences; "accuracy" is drawn from the evaluations
CURVES = {
    "semantic_entropy": ("semantic entropy,\nplug-in (bits)", "bits"),
    "semantic_entropy_matched": ("semantic entropy,\nmatched (bits)", "bits"),
    "accuracy": ("held-out accuracy\n(share of problems)", "share"),
    "group_solved": ("Pass@8 in training\n(share of prompts)", "share"),
    "token_entropy": ("token entropy\n(nats/token)", "nats/token"),
    "length": ("completion length\n(tokens)", "tokens"),
}
METRICS = ("token_entropy", "group_solved", *ESTIMATES)
ASKED = {"within runs": "o", "across runs": "s"}  # how a metric is asked, with its marker


@house()
def curves(
    frame: pd.DataFrame,
    evals: pd.DataFrame,
    world: str,
    *,
    columns: Sequence[str],
    arms: Sequence[str],
    title: str,
) -> Figure:
    """Fig. 5 and 8: one row a quantity, a key of CURVES: the arms, and how the others differ from the first.

    Raises ValueError for fewer than two arms.
    """
    if len(arms) < 2:
        raise ValueError(f"arms={list(arms)}: a comparison needs two")
    runs = require(frame, [c for c in columns if c != "accuracy"], arms)
    tests = require(evals, ["accuracy"], arms)
    height = 0.9 + 1.9 * len(columns)
    figure = canvas(height=height, title=title, world=world, note=seeds_note(runs), legend=True)
    axes = figure.subplots(len(columns), 2, squeeze=False, sharex=True)
    for row, column in zip(axes, columns, strict=True):
        level_and_difference(row, tests if column == "accuracy" else runs, column, arms)
    top_legend(figure, axes[0, 0])
    for ax in axes[:-1].flat:
        ax.set_xlabel("")
    return figure


def level_and_difference(row: Sequence[Axes], data: pd.DataFrame, column: str, arms: Sequence[str]) -> None:
    """A quantity of all arms, and beside it the difference of the others to the first."""
    label, unit = CURVES[column]
    arm_lines(row[0], data, column, label, arms)
    difference_lines(row[1], data, column, f"minus {arm_name(arms[0])}\n({unit})", arms)


@house()
def compass(
    frame: pd.DataFrame,
    evals: pd.DataFrame,
    correlations: pd.DataFrame,
    world: str,
    *,
    arms: Sequence[str] = ("grpo", "hicra"),
) -> Figure:
    """Fig. 11: one row a metric: the arms, their difference, and its rank correlation with later gains.

    `correlations` is `compass.compass_table`. The last row holds held-out accuracy, and the null: the number
    of the step.
    """
    runs, tests = require(frame, METRICS, arms), require(evals, ["accuracy"], arms)
    right = "rank correlations with the gains that follow, over a run's steps or over the arms of a seed"
    note = f"{seeds_note(runs)} Right: {right}; bars are 95 % intervals over seeds, where there are several."
    title = "Which metric predicts later gains?"
    with mpl.rc_context(SMALL):
        figure = canvas(height=8.6, title=title, world=world, note=note, legend=True)
        axes = figure.subplots(len(METRICS) + 1, 3, sharex="col")
        for row, column in zip(axes, (*METRICS, "accuracy"), strict=True):
            level_and_difference(row, tests if column == "accuracy" else runs, column, arms)
            _correlations(row[2], correlations, "step" if column == "accuracy" else column)
        for ax, name in zip(axes[0], ("Arms", "Difference, paired", "Rank correlation"), strict=True):
            ax.set_title(name)
        axes[-1, 2].set(xlabel="with later gains (1)", title="Null: number of the step")
        top_legend(figure, axes[0, 0])
    for ax in axes[:-1].flat:
        ax.set_xlabel("")
    return figure


def _correlations(ax: Axes, table: pd.DataFrame, metric: str) -> None:
    rows = table[(table["metric"] == metric) & table["rho"].notna()].set_index("asked")
    for y, (asked, marker) in enumerate(ASKED.items()):
        if asked in rows.index:
            rho, low, high = rows.loc[asked, ["rho", "low", "high"]]
            ends = None if np.isnan(low) else [[rho - low], [high - rho]]
            ax.errorbar(rho, y, xerr=ends, fmt=marker, ms=4.5, color="0.2", capsize=2)
    ax.axvline(0, color="0.4", lw=0.7)
    ax.set(xlim=(-1.02, 1.02), ylim=(len(ASKED) - 0.4, -0.6))
    ax.set_yticks(range(len(ASKED)), [name.replace(" ", "\n") for name in ASKED])


@house()
def final_accuracies(values: pd.DataFrame, world: str, *, arms: Sequence[str]) -> Figure:
    """Table 1 as a figure: final held-out accuracy of each arm, and its difference to GRPO.

    Small points are seeds, diamonds means with 95 % intervals over seeds; differences are paired by seed.
    """
    wide = values[final_accuracy(values)].unstack("arm")[list(arms)]  # (seeds, arms)
    gaps = wide.drop(columns="grpo").sub(wide["grpo"], axis=0)
    counts = seed_counts(values.reset_index().query("arm in @arms"))
    note = f"Seeds: {counts}; small points are seeds, diamonds means with 95 % intervals over seeds."
    title = "How accurate is each arm at the end?"
    figure = canvas(height=1.6 + 0.24 * len(arms), title=title, world=world, note=note)
    levels, differences = figure.subplots(1, 2, sharey=True)
    for row, (arm, face) in enumerate(faces(arms).items()):
        color = face.color if arm in ("grpo", "hicra") else "0.35"  # names tell the rest apart
        _seed_points(levels, row, wide[arm], share_interval, color)
        if arm in gaps:
            _seed_points(differences, row, gaps[arm], interval, color)
    levels.set(xlabel="share of held-out problems", title="Accuracy", ylim=(len(arms) - 0.4, -0.6))
    levels.set_yticks(range(len(arms)), [face.name for face in faces(arms).values()])
    differences.set(xlabel="difference of shares", title="Minus GRPO, paired by seed")
    differences.axvline(0, color="0.4", lw=0.8)
    for ax in (levels, differences):
        ax.locator_params(axis="x", nbins=5)
    return figure


def _seed_points(ax: Axes, row: int, values: pd.Series, between, color) -> None:
    points = values.dropna()
    mean, low, high, n = between(points)
    ax.plot(points, np.full(len(points), row + 0.22), "o", ms=3, color=color, alpha=0.6)
    error = [[mean - low], [high - mean]] if n > 1 else None
    ax.errorbar(mean, row, xerr=error, fmt="D", ms=5, color=color, capsize=2)


@house()
def grid(frame: pd.DataFrame, evals: pd.DataFrame, world: str, *, arms: Sequence[str]) -> Figure:
    """Fig. 9: the panels of Fig. 2, one column an arm (the paper's rows are models)."""
    columns = ["perplexity_planning", "entropy_planning", "semantic_entropy", "length"]
    runs, tests = require(frame, columns, arms), require(evals, ["accuracy"], arms)
    title = "Do all arms and base policies show two phases?"
    with mpl.rc_context(SMALL):
        figure = canvas(height=8.4, title=title, world=world, note=seeds_note(runs))
        axes = figure.subplots(5, len(arms), squeeze=False, sharex=True)
        for column, arm in zip(axes.T, arms, strict=True):
            _grid_column(column, runs[runs["arm"] == arm], tests[tests["arm"] == arm])
            column[0].set_title(arm_name(arm))
        for row in axes:
            one_scale(row)
    for ax in axes.flat:
        ax.label_outer()
    for ax in axes[1:, 1:].flat:
        if ax.get_legend():
            ax.get_legend().remove()  # that of the first column holds for all
    return figure


def _grid_column(column: Sequence[Axes], runs: pd.DataFrame, tests: pd.DataFrame) -> None:
    """One arm's panels of Fig. 2."""
    perplexity_panel(column[0], runs)
    class_panel(column[1], runs, "entropy", "token entropy\n(nats/token)")
    semantic_panel(column[2], runs)
    accuracy_panel(column[3], tests)
    length_panel(column[4], runs)


def one_scale(axes: Sequence[Axes]) -> None:
    """The limits that hold all of them: what stands side by side is to be compared."""
    lows, highs = zip(*(ax.get_ylim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_ylim(min(lows), max(highs))


@house()
def lexicon_sensitivity(
    frame: pd.DataFrame, measured: pd.DataFrame, world: str, *, arms: tuple[str, str]
) -> Figure:
    """Fig. 7: semantic entropy with 30 % of the Strategic Grams left out, of the measure and of the credit.

    `measured` is the first arm's record counted with parts of the lexicon: columns step, seed, draw (0 for
    all of it) and semantic_entropy (bits). `arms` are HICRA with all grams and with 70 % of them.
    """
    runs = require(frame, ["semantic_entropy"], arms)
    runs = runs.assign(change=change(runs, "semantic_entropy"))
    title = "Does semantic entropy change when 30 % of the Strategic Grams are left out?"
    note = f"Left: one set of runs, counted with five draws of the grams that stay. {seeds_note(runs)}"
    figure = canvas(height=3.5, title=title, world=world, note=note, legend=True)
    left, middle, right = figure.subplots(1, 3)
    _parts(left, measured, arms[0])
    arm_lines(middle, runs, "change", "semantic entropy\nminus start (bits)", arms)
    difference_lines(right, runs, "change", f"minus {arm_name(arms[0])} (bits)", arms)
    one_scale((left, middle))
    names = ("Left out when counting", "Left out of the credit", "Difference, paired")
    for ax, name in zip((left, middle, right), names, strict=True):
        ax.set_title(name)
    top_legend(figure, middle)
    return figure


def _parts(ax: Axes, measured: pd.DataFrame, arm: str) -> None:
    """The change of semantic entropy by all grams, and by every draw of 70 % of them: means over seeds."""
    for draw, own in measured.assign(arm=arm).groupby("draw"):
        changed = own.assign(change=change(own, "semantic_entropy"))
        means = changed.assign(shown=smooth(changed, "change")).groupby("step")["shown"].mean()
        label = ("all grams", "70 % of them", "_draw")[min(draw, 2)]
        ax.plot(
            means,
            ":" if draw else "-",
            label=label,
            lw=1 if draw else 1.6,
            color="0.2" if draw else VERMILION,
        )
    ax.set(xlabel=STEPS, ylabel="semantic entropy\nminus start (bits)")
    fit(ax)
    legend_below(ax)


@house()
def frequencies(counts: Mapping[str, Mapping[str, int]], world: str, *, arm: str = "grpo") -> Figure:
    """Fig. 10: how often tokens and Strategic Grams occur, by rank, both axes logarithmic.

    `counts` maps "tokens" and "Strategic Grams" to occurrences of each kind.
    """
    note = "Each curve adds up to 1. Tokens are counted in the kept rollouts, grams in all rollouts."
    title = f"Are Strategic Grams used more evenly than tokens under {arm_name(arm)}?"
    figure = canvas(height=3.4, title=title, world=world, note=note)
    ax = figure.subplots()
    for (name, found), color, style in zip(counts.items(), (ORANGE, VERMILION), ("--", "-"), strict=True):
        ordered = np.sort(np.array(list(found.values()), dtype=float))[::-1]
        label = f"{name} ({len(ordered):,} different)"
        ax.loglog(1 + np.arange(len(ordered)), ordered / ordered.sum(), style, color=color, label=label)
    ax.set(xlabel="rank", ylabel="frequency (share of occurrences)")
    ax.legend()
    return figure
