"""Figures of a run's health: why completions got their reward, and where there was no learning signal.

Frames, errors and the meaning of lines are those of training_curves.py.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hicra.study.figures.style import (
    PALETTE,
    STEPS,
    arm_name,
    canvas,
    house,
    require,
    seed_counts,
    seed_lines,
    seeds_note,
)

# column -> what gives no signal, with its line
IDLE = {
    "zero_variance": ("groups whose rewards are all equal", PALETTE[1], ()),
    "clipped": ("completions cut at the length limit", PALETTE[7], (4, 2)),
    "no_planning": ("completions without a planning token", PALETTE[0], (1, 1)),
}
REASONS = ("right", "wrong", "no_box", "truncated", "unparseable", "timeout")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "---", "+++", "|||", "***")


@house()
def reasons(frame: pd.DataFrame, world: str, *, arms: Sequence[str] | None = None) -> Figure:
    """Share of completions by the reason for their reward, stacked over steps; one panel an arm.

    Means over seeds. `arms` defaults to all arms of the frame.
    """
    arms = list(arms or sorted(frame["arm"].unique()))
    found = [name.removeprefix("reason_") for name in frame if name.startswith("reason_")]
    names = [r for r in REASONS if r in found] + sorted(set(found) - set(REASONS))
    if not names:
        raise ValueError("the frame has no column reason_NAME")
    runs = require(frame, [f"reason_{name}" for name in names], arms)
    note = f"Seeds: {seed_counts(runs)}; means over seeds. The shares add up to 1."
    title = "Why did completions get their reward?"
    figure = canvas(height=3.3, title=title, world=world, note=note)
    axes = figure.subplots(1, len(arms), squeeze=False, sharey=True)
    colors = [PALETTE[i] for i in (0, 1, 8, 4, 9, 7, 2, 3, 5, 6)][: len(names)]
    for ax, arm in zip(axes[0], arms, strict=True):
        means = runs[runs["arm"] == arm].groupby("step")[[f"reason_{n}" for n in names]].mean()
        areas = ax.stackplot(means.index, means.T.fillna(0), colors=colors, edgecolor="white", lw=0.4)
        for area, hatch in zip(areas, HATCHES, strict=False):
            area.set_hatch(hatch)  # reasons differ on a grey printer too
        ax.set(xlabel=STEPS, ylabel="share of completions", ylim=(0, 1), title=arm_name(arm))
        ax.label_outer()
        ax.margins(x=0)
    keys = zip(names, colors, HATCHES, strict=False)
    handles = [Patch(facecolor=c, hatch=h, edgecolor="white", label=n) for n, c, h in keys][::-1]
    figure.legend(handles=handles, loc="outside right center", title="reason")
    return figure


@house()
def idle(frame: pd.DataFrame, world: str, *, arm: str = "grpo") -> Figure:
    """Shares of a step without a learning signal: equal rewards, cut completions, no planning token."""
    runs = require(frame, list(IDLE), [arm])
    title = f"Where does {arm_name(arm)} get no learning signal?"
    figure = canvas(height=3.0, title=title, world=world, note=seeds_note(runs))
    ax = figure.subplots()
    for column, (label, color, dashes) in IDLE.items():
        seed_lines(ax, runs, column, label=label, color=color, dashes=dashes)
    ax.set(xlabel=STEPS, ylabel="share of groups or completions", ylim=(-0.02, 1.02))
    ax.legend()
    return figure
