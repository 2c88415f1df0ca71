"""What each arm does: the figure of the equation's effects, and a table of means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hicra.errors import HicraError
from hicra.study.figures.style import ELSEWHERE, VERMILION, arm_name, canvas, house
from hicra.study.verdicts.claims import contrast
from hicra.study.verdicts.intervals import interval

# quantity -> title and axis of its panel: each arm's paired difference to GRPO
PANELS = {
    "marked_connectives_change": ("Neutral words", "log odds, minus GRPO"),
    "planning_change": ("Planning tokens", "share, minus GRPO"),
    "tokens_change": ("Length", "tokens, minus GRPO"),
    "steps_to_half": ("Steps to V = 1/2", "log of ratio to GRPO's"),
    "steps_above_half": ("From there to 0.7", "log of ratio to GRPO's"),
}
PARTS = {
    "weight\n(yoked - GRPO)": {"yoked": 1, "grpo": -1},
    "hard prompts\n(scaled - yoked)": {"scaled": 1, "yoked": -1},
    "bonus\n(HICRA - scaled)": {"hicra": 1, "scaled": -1},
    "HICRA - GRPO": {"hicra": 1, "grpo": -1},
}


def arm_table(values: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Each condition's means over its seeds; seeds differ in number between conditions."""
    columns = {
        "mean_reward": "reward over the run",
        "final_accuracy_06": "final accuracy, temperature 0.6",
        "final_accuracy_1": "temperature 1",
        "strategies": "H(S), bits",
        "within_families": "H(S given X)",
        "marked_connectives": "marked connectives, log odds",
        "planning": "planning tokens, share",
        "tokens": "tokens",
        "weight": "HICRA's factor",
    }
    found = [name for name in order if name in values.index.get_level_values("arm")]
    means = values.groupby("arm")[list(columns)].mean().loc[found].rename(columns=columns).round(3)
    means.insert(0, "seeds", values.groupby("arm").size().loc[found])
    return means.reset_index()


@house()
def equation_effects(values: pd.DataFrame, world: str, order: Sequence[str]) -> Figure:
    """What each arm does to words, planning and speed, and HICRA's gain taken into parts.

    `values` is that of `catalogue.load_experiments`. A panel that no arm has a value for is left out and
    named below. Raises HicraError without runs of GRPO and of another arm.
    """
    there = set(values.index.get_level_values("arm"))
    if "grpo" not in there:
        raise HicraError("no run of arm 'grpo', with which the others are compared")
    arms = [a for a in order if a in there and a != "grpo" and not a.startswith(ELSEWHERE)]
    if not arms:
        raise HicraError("no run of an arm beside 'grpo', to be compared with it")
    against = {arm: {arm: 1, "grpo": -1} for arm in arms}
    note = (
        "Points are means over seeds of differences paired by seed, whiskers their 95 % t-intervals; "
        "a hollow point is of fewer than three seeds and has no whisker. Neutral words are connectives that "
        "change nothing: log odds of those that the lexicon marks against those that it does not."
    )
    empty = [q for q in PANELS if all(contrast(values, q, weights).empty for weights in against.values())]
    if empty:
        note += f" No run tells: {', '.join(PANELS[quantity][0] for quantity in empty)}."
    height = 2.2 + 0.34 * max(len(arms), 5)
    figure = canvas(height=height, title="What does HICRA's equation do?", world=world, note=note)
    axes = [ax for row in figure.subfigures(2, 1) for ax in row.subplots(1, 3)]
    for quantity in (q for q in PANELS if q not in empty):
        ax, (title, label) = axes.pop(0), PANELS[quantity]
        _forest(ax, values, quantity, against)
        ax.set(title=title, xlabel=label)
        if ax.get_subplotspec().colspan.start:  # the rows of the panel on the left
            ax.tick_params(labelleft=False)
    last, *unused = axes
    for ax in unused:
        ax.remove()
    _forest(last, values, "mean_reward", {k: v for k, v in PARTS.items() if set(v) <= there})
    last.set(title="Gain in parts", xlabel="reward over the run")
    return figure


def _forest(ax: Axes, values: pd.DataFrame, quantity: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """One line a contrast: its mean and interval over the seeds that all its arms have."""
    for y, (name, weights) in enumerate(rows.items()):
        color = VERMILION if arm_name(name).startswith("HICRA") else "0.35"
        found = contrast(values, quantity, weights)
        if found.empty:
            continue
        mean, low, high, n = interval(found)
        if n > 2:
            ax.plot([low, high], [y, y], color=color, lw=1.2)
        ax.plot(mean, y, "o", ms=4, color=color, mfc=color if n > 2 else "white")
    ax.axvline(0, color="0.4", lw=0.7)
    ax.set_yticks(range(len(rows)), [arm_name(row) for row in rows])
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
