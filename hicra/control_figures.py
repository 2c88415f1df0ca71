"""Figures of the controls (paper, Fig. 1, 5, 7 to 11 and 14): many arms beside each other.

Frames, errors and the meaning of lines are those of figures.py; `values` is `claims.quantities`.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hicra.figure_style import (
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
from hicra.figures import accuracy_and_length, class_panel, semantic_panel
from hicra.verdicts import interval

SMALL = {"legend.fontsize": 6, "legend.handlelength": 1.8, "axes.labelsize": 7}  # three panels a row
# column -> label of the axis with its unit; "accuracy" is drawn from the evaluations
CURVES = {
    "semantic_entropy": "semantic entropy\nplug-in (bits)",
    "semantic_entropy_matched": "semantic entropy\nsize-matched (bits)",
    "accuracy": "accuracy\n(share of held-out problems)",
    "group_solved": "Pass@8\n(share of prompts)",
    "token_entropy": "token entropy\n(nats/token)",
    "length": "completion length\n(tokens)",
}


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
    height = 0.6 + 2.6 * shape[0]
    figure, axes = canvas(*shape, height=height, title=title, world=world, note=seeds_note(runs))
    for ax, column in zip(axes.flat, columns, strict=False):
        arm_lines(ax, tests if column == "accuracy" else runs, column, CURVES[column], arms)
    for ax in list(axes.flat)[len(columns) :]:
        ax.remove()
    return figure


@house()
def final_accuracies(values: pd.DataFrame, world: str, *, arms: Sequence[str]) -> Figure:
    """Fig. 1, right, and Table 1: final held-out accuracy of each arm, and its difference to GRPO.

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
            color = arm_color(arm)
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
    """Fig. 9: the dynamics of Fig. 2, one row an arm (the paper's rows are models)."""
    columns = ["relative_perplexity_planning", "semantic_entropy_change", "length"]
    runs, tests = require(frame, columns, arms), require(evals, ["accuracy"], arms)
    height = 0.9 + 2.1 * len(arms)
    title = "Two-phase dynamics, arm by arm"
    figure, axes = canvas(len(arms), 3, height=height, title=title, world=world, note=seeds_note(runs))
    with mpl.rc_context(SMALL):
        for row, arm in zip(axes, arms, strict=True):
            own = runs[runs["arm"] == arm]
            class_panel(row[0], own, "relative_perplexity", f"{arm_name(arm)}\nperplexity / first (ratio)")
            semantic_panel(row[1], own)
            accuracy_and_length(row[2], own, tests[tests["arm"] == arm])
    for ax in axes[:-1].flat:
        ax.set_xlabel("")
    return figure


@house()
def frequencies(counts: Mapping[str, Mapping[str, int]], world: str) -> Figure:
    """Fig. 10: how often tokens and Strategic Grams occur, by rank, both axes logarithmic.

    `counts` maps "tokens" and "Strategic Grams" to occurrences of each kind.
    """
    note = "Frequencies among all occurrences of the kind, in the kept rollouts of all runs shown."
    title = "Tokens against Strategic Grams, by frequency"
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
    lows, highs = zip(*(ax.get_ylim() for ax in axes[0]), strict=True)
    for ax in axes[0]:
        ax.set_ylim(min(lows), max(highs))  # one scale: the bases are to be compared
    return figure
