"""Figures of the controls (paper, Table 1, Fig. 5, 7 to 11 and 14): many arms beside each other.

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
    arm_color,
    arm_lines,
    arm_name,
    canvas,
    house,
    require,
    seed_counts,
    seeds_note,
)
from hicra.study.figures.training_curves import accuracy_and_length, class_panel, semantic_panel
from hicra.study.verdicts.intervals import interval

SMALL = {"legend.fontsize": 6, "legend.handlelength": 1.8, "axes.labelsize": 7}  # three panels a row
# column -> label of the axis with its unit; "accuracy" is drawn from the evaluations
CURVES = {
    "semantic_entropy": "semantic entropy\nplug-in (bits)",
    "semantic_entropy_matched": "semantic entropy\nsize-matched (bits)",
    "accuracy": "accuracy\n(share of held-out problems)",
    "group_solved": "Pass@8\n(share of training prompts)",
    "token_entropy": "token entropy\n(nats/token)",
    "length": "completion length\n(tokens)",
}
SHARES = ("accuracy", "group_solved")


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
    """Fig. 5, 7, 8, 11: one panel a quantity (a key of CURVES), one line an arm."""
    runs = require(frame, [c for c in columns if c != "accuracy"], arms)
    tests = require(evals, ["accuracy"], arms)
    rows = -(-len(columns) // 2)
    shape = (1, len(columns)) if len(columns) < 3 else (rows, 2)
    height = 0.8 + 2.6 * shape[0]
    figure, axes = canvas(*shape, height=height, title=f"{title}\n", world=world, note=seeds_note(runs))
    for ax, column in zip(axes.flat, columns, strict=False):
        arm_lines(ax, tests if column == "accuracy" else runs, column, CURVES[column], arms)
        if column in SHARES:
            ax.set_ylim(top=min(1.01, ax.get_ylim()[1]))  # an interval may pass 1, a share may not
        ax.get_legend().remove()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    # Below the title, whose empty line makes room: in a panel it would cover lines.
    place = {"loc": "upper left", "bbox_to_anchor": (0.0, 1 - 0.42 / height)}
    figure.legend(handles, labels, ncols=min(4, len(arms)), frameon=False, **place).set_in_layout(False)
    for ax in list(axes.flat)[len(columns) :]:
        ax.remove()
    return figure


@house()
def final_accuracies(values: pd.DataFrame, world: str, *, arms: Sequence[str]) -> Figure:
    """Table 1 as a figure: final held-out accuracy of each arm, and its difference to GRPO.

    Points are seeds, the larger ones means with 95 % t-intervals; differences are paired by seed.
    """
    wide = values["final_accuracy"].unstack("arm")[list(arms)]  # (seeds, arms)
    panels = {"final accuracy (share of held-out problems)": wide}
    panels["difference to GRPO, paired (share)"] = wide.sub(wide["grpo"], axis=0)
    counts = seed_counts(values.reset_index().query("arm in @arms"))
    note = f"Small: seeds; large: mean with 95 % t-interval. Seeds: {counts}."
    height = 1.6 + 0.27 * len(arms)
    title = "Accuracy at the end, by arm"
    figure, axes = canvas(1, 2, height=height, title=title, world=world, note=note, sharey=True)
    for ax, (label, table) in zip(axes[0], panels.items(), strict=True):
        for row, arm in enumerate(arms):
            points = table[arm].dropna()
            mean, low, high, n = interval(points)
            color = arm_color(arm) if arm in ("grpo", "hicra") else "0.35"  # names tell the rest apart
            ax.plot(points, np.full(len(points), row + 0.22), "o", ms=3, color=color, alpha=0.6)
            error = [[mean - low], [high - mean]] if n > 1 else None
            ax.errorbar(mean, row, xerr=error, fmt="D", ms=5, color=color, capsize=2)
        ax.set(xlabel=label, ylim=(len(arms) - 0.4, -0.6))  # the first arm on top
        ax.locator_params(axis="x", nbins=5)
    axes[0, 0].set_yticks(range(len(arms)), [arm_name(arm) for arm in arms])
    axes[0, 1].axvline(0, color="0.5", lw=0.8)
    return figure


@house()
def grid(frame: pd.DataFrame, evals: pd.DataFrame, world: str, *, arms: Sequence[str]) -> Figure:
    """Fig. 9: the four panels of Fig. 2 in a row, one row an arm (the paper's rows are models)."""
    columns = ["relative_perplexity_planning", "entropy_planning", "semantic_entropy_change", "length"]
    runs, tests = require(frame, columns, arms), require(evals, ["accuracy"], arms)
    title, note = "Two-phase dynamics, arm by arm", seeds_note(runs)
    with mpl.rc_context(SMALL):
        figure, axes = canvas(len(arms), 4, height=0.9 + 2.0 * len(arms), title=title, world=world, note=note)
        right = [_grid_row(row, runs, tests, arm) for row, arm in zip(axes, arms, strict=True)]
        for column in (*axes.T, right):
            _one_scale(column)
        figure.get_layout_engine().set(w_pad=0.02)
    for ax in axes[:-1].flat:
        ax.set_xlabel("")
    for ax in [*axes[1:].flat, *right[1:]]:
        if ax.get_legend():
            ax.get_legend().remove()  # that of the first row holds for all
    return figure


def _grid_row(row: Sequence[Axes], runs: pd.DataFrame, tests: pd.DataFrame, arm: str) -> Axes:
    """One arm's four panels; the twin axis of the last."""
    own = runs[runs["arm"] == arm]
    class_panel(row[0], own, "relative_perplexity", f"{arm_name(arm)}\nperplexity / first (ratio)")
    class_panel(row[1], own, "entropy", "token entropy (nats/token)")
    semantic_panel(row[2], own)
    return accuracy_and_length(row[3], own, tests[tests["arm"] == arm])


def _one_scale(axes: Sequence[Axes]) -> None:
    """The limits that hold all of them: what stands beside each other is to be compared."""
    lows, highs = zip(*(ax.get_ylim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_ylim(min(lows), max(highs))


@house()
def lexicon_sensitivity(
    frame: pd.DataFrame, measured: pd.DataFrame, world: str, *, arms: tuple[str, str]
) -> Figure:
    """Fig. 7: semantic entropy with 30 % of the Strategic Grams left out, of the measure and of the credit.

    `measured` is the first arm's record counted with parts of the lexicon: columns step, seed, draw (0 for
    all of it) and semantic_entropy_change. `arms` are HICRA with all grams and with 70 % of them.
    """
    runs = require(frame, ["semantic_entropy_change"], arms)
    title = "Sensitivity to the lexicon: semantic entropy"
    note = f"Left: means over seeds of one set of runs, dotted: five draws. {seeds_note(runs)}"
    figure, axes = canvas(1, 2, height=3.4, title=title, world=world, note=note, sharey=True)
    left, right = axes[0]
    for draw, own in measured.groupby("draw"):
        means = own.groupby("step")["semantic_entropy_change"].mean()
        name, line = ("70 % of the grams", ":") if draw else ("all grams", "-")
        style = {"lw": 1.0 if draw else 1.6, "color": "0.35" if draw else arm_color(arms[0])}
        left.plot(means, line, label=name if draw < 2 else "_draw", **style)
    left.set(xlabel=STEPS, ylabel="semantic entropy\nchange from first step (bits)", title="Measured with")
    left.legend()
    arm_lines(right, runs, "semantic_entropy_change", "", arms)
    right.set_title("Credited with")
    return figure


@house()
def frequencies(counts: Mapping[str, Mapping[str, int]], world: str, *, arm: str = "grpo") -> Figure:
    """Fig. 10: how often tokens and Strategic Grams occur, by rank, both axes logarithmic.

    `counts` maps "tokens" and "Strategic Grams" to occurrences of each kind.
    """
    note = "Shares of all occurrences of the kind: tokens in the kept rollouts, grams in all rollouts."
    title = f"Tokens against Strategic Grams, by frequency: {arm_name(arm)}"
    figure, axes = canvas(1, 1, height=3.4, title=title, world=world, note=note)
    for (name, found), color, style in zip(counts.items(), (ORANGE, VERMILION), ("--", "-"), strict=True):
        ordered = np.sort(np.array(list(found.values()), dtype=float))[::-1]
        label = f"{name} ({len(ordered):,} different)"
        axes[0, 0].loglog(
            1 + np.arange(len(ordered)), ordered / ordered.sum(), style, color=color, label=label
        )
    axes[0, 0].set(xlabel="rank", ylabel="frequency (share of occurrences)")
    axes[0, 0].legend()
    return figure


@house()
def boundary(evals: pd.DataFrame, world: str, *, pairs: Mapping[str, tuple[str, str]]) -> Figure:
    """Fig. 14: accuracy of GRPO and HICRA from each base policy; `pairs` maps its name to the arms."""
    arms = [arm for pair in pairs.values() for arm in pair]
    tests = require(evals, ["accuracy"], arms)
    title = "Does HICRA need procedural skill?"
    note = seeds_note(tests)
    figure, axes = canvas(1, len(pairs), height=3.2, title=title, world=world, note=note)
    for ax, (name, pair) in zip(axes[0], pairs.items(), strict=True):
        arm_lines(ax, tests, "accuracy", "accuracy\n(share of held-out problems)", pair)
        ax.set(title=name, xlabel=STEPS)
    _one_scale(axes[0])
    return figure
