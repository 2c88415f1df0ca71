"""Real RL runs: each one's change in strategic diversity, beside its change in length and accuracy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hicra.study.figures.style import BLUE, GREEN, ORANGE, canvas, house, top_legend

PANELS = {
    "semantic_entropy": "diversity, plug-in\n(bits)",
    "semantic_entropy_matched": "at equal size\n(bits)",
    "semantic_entropy_length_matched": "at equal length\n(bits)",
    "length": "length\n(words)",
    "accuracy": "accuracy\n(share)",
}
LEXICONS = {"listing1": (BLUE, "o"), "released193": (ORANGE, "s"), "skyt1-hicra": (GREEN, "^")}
SOURCES = ("grpo-math", "ppo-gsm8k", "reasoning-gym")


@house()
def real_run_changes(table: pd.DataFrame) -> Figure:
    """Change of each quantity from before to after RL, a row a run, a mark a lexicon, whiskers at 95 %.

    `table` is data/real_runs/changes.csv. Collapsed runs are hollow.
    """
    table = table[table["source"].isin(SOURCES)]
    runs = table.drop_duplicates(["source", "run"])[["source", "run", "collapsed"]].reset_index(drop=True)
    figure = canvas(
        height=0.24 * len(runs) + 1.6,
        title="What changes in real RL runs, from before to after?",
        world="Runs of others: 19 GRPO (Qwen2.5-Math-1.5B), 1 PPO (Qwen2.5-1.5B), 4 GRPO (Qwen2.5-3B)",
        note="Whiskers are 95 % intervals over problems; hollow marks: collapsed, by the plan's rule.",
        legend=True,
    )
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for ax, (quantity, label) in zip(axes, PANELS.items(), strict=True):
        lexicons = LEXICONS if "entropy" in quantity else {"listing1": LEXICONS["listing1"]}
        for shift, (lexicon, (color, marker)) in zip(
            np.linspace(-0.25, 0.25, len(lexicons)), lexicons.items(), strict=True
        ):
            rows = table[(table["quantity"] == quantity) & (table["lexicon"] == lexicon)]
            rows = runs.merge(rows, on=["source", "run", "collapsed"], how="left")
            fill = ["none" if gone else color for gone in rows["collapsed"]]
            at = np.arange(len(rows)) + (shift if len(lexicons) > 1 else 0)
            ax.hlines(at, rows["low"], rows["high"], color=color, lw=0.8)
            ax.scatter(
                rows["change"], at, marker=marker, s=12, facecolors=fill, edgecolors=color, label=lexicon
            )
        ax.axvline(0, color="0.4", lw=0.7)
        ax.set(xlabel=label)
        if quantity.startswith("semantic"):
            ax.set_xlim(-2, 2)  # a run that loops lies at -4; single intervals are wider
    axes[0].set_yticks(range(len(runs)), [run.replace("Qwen2.5-3B-Instruct+", "") for run in runs["run"]])
    axes[0].invert_yaxis()
    top_legend(figure, axes[0])
    return figure
