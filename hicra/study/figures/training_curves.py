"""The paper's figures from a tidy frame: one function a figure, each returns a matplotlib Figure.

`frame` holds the columns of `dynamics.summarise` and `evals` those of `dynamics.summarise_evals`,
both with `arm` and `seed` beside them. `world` says on the face where the numbers come from.
Lines are means over seeds, bands 95 % t-intervals over seeds. All raise ValueError for an arm or a
column that the frame lacks.
"""

from collections.abc import Sequence
from itertools import cycle

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hicra.planning.trace_page import HIGH_ENTROPY
from hicra.study.figures.style import (
    CLASSES,
    GREEN,
    ORANGE,
    PALETTE,
    PURPLE,
    STEPS,
    arm_color,
    arm_lines,
    arm_name,
    canvas,
    fit,
    house,
    require,
    save,
    seed_counts,
    seed_lines,
    seeds_note,
)
from hicra.study.verdicts.intervals import interval

__all__ = [
    "entropy_overlap",
    "errors",
    "hicra_vs_grpo",
    "overview",
    "save",
    "two_phase",
]

OVERLAP = {
    "planning_high_entropy": "planning tokens that are high-entropy",
    "high_entropy_planning": "high-entropy tokens that are planning",
}
SEMANTIC = ("plug-in", "size-matched", "over clusters")


@house()
def overview(frame: pd.DataFrame, world: str, *, arm: str = "grpo") -> Figure:
    """Fig. 1, right: does execution become certain first, and strategy diverse after it? One panel.

    Relative perplexity of execution tokens (left axis) and the change of semantic entropy (right axis, bits).
    """
    semantic = ["semantic_entropy_change", "semantic_entropy_matched_change"]
    runs = require(frame, ["relative_perplexity_execution", *semantic], [arm])
    title = f"Procedures first, then strategies? {arm_name(arm)}"
    figure, axes = canvas(1, 1, height=3.4, title=title, world=world, note=seeds_note(runs))
    left, right = axes[0, 0], axes[0, 0].twinx()
    right.grid(False)
    color, dashes = CLASSES["execution"]
    label = "execution perplexity (left)"
    seed_lines(left, runs, "relative_perplexity_execution", label=label, color=color, dashes=dashes)
    for column, name, color, dashes in zip(
        semantic, SEMANTIC[:2], (GREEN, PURPLE), ("", (4, 2)), strict=True
    ):
        seed_lines(right, runs, column, label=f"semantic entropy, {name}", color=color, dashes=dashes)
    left.set(xlabel=STEPS, ylabel="perplexity of execution tokens\n/ first step's (ratio)")
    right.set_ylabel("semantic entropy\nchange from first step (bits)")
    _one_legend(left, right)
    return figure


@house()
def two_phase(frame: pd.DataFrame, evals: pd.DataFrame, world: str, *, arm: str = "grpo") -> Figure:
    """Fig. 2: procedures consolidate first, then strategies are explored. One arm, four panels.

    Relative perplexity (1) and entropy (nats/token) of planning and execution tokens; change of
    semantic entropy (bits), plug-in and size-matched; held-out accuracy and completion length.
    """
    columns = [f"{kind}_{name}" for kind in ("perplexity", "entropy") for name in CLASSES]
    semantic = ["semantic_entropy_change", "semantic_entropy_matched_change"]
    runs = require(frame, [*columns, *semantic, "length"], [arm])
    tests = require(evals, ["accuracy"], [arm])
    title = f"Two-phase dynamics of {arm_name(arm)}"
    figure, axes = canvas(2, 2, height=5.6, title=title, world=world, note=seeds_note(runs))
    class_panel(axes[0, 0], runs, "relative_perplexity", "perplexity / first step's (ratio)")
    class_panel(axes[0, 1], runs, "entropy", "token entropy (nats/token)")
    semantic_panel(axes[1, 0], runs)
    accuracy_and_length(axes[1, 1], runs, tests)
    return figure


@house()
def hicra_vs_grpo(
    frame: pd.DataFrame,
    evals: pd.DataFrame,
    world: str,
    *,
    arms: Sequence[str] = ("grpo", "hicra"),
) -> Figure:
    """Fig. 4: semantic entropy (bits), plug-in and size-matched, and held-out accuracy (share)."""
    columns = {"semantic_entropy": "Plug-in", "semantic_entropy_matched": "Size-matched"}
    runs, tests = require(frame, list(columns), arms), require(evals, ["accuracy"], arms)
    title = " against ".join(arm_name(arm) for arm in reversed(arms))
    figure, axes = canvas(1, 3, height=3.2, title=title, world=world, note=seeds_note(runs))
    for ax, (column, name) in zip(axes[0], columns.items(), strict=False):
        arm_lines(ax, runs, column, "semantic entropy (bits)", arms)
        ax.set_title(name)
    arm_lines(axes[0, 2], tests, "accuracy", "accuracy (share of problems)", arms)
    axes[0, 2].set_title("Validation")
    return figure


@house()
def entropy_overlap(
    frame: pd.DataFrame,
    world: str,
    *,
    arms: Sequence[str] = ("grpo", "hicra"),
    last: int = 5,
) -> Figure:
    """Fig. 12: how far planning and high-entropy tokens (top 30 %) coincide, before and after RL.

    Before and after are the means of a run's first and last `last` steps. Bars are means over seeds with
    95 % t-intervals, points are seeds, dotted what chance would give; all in shares of tokens.
    """
    runs = require(frame, [*OVERLAP, "planning_share"], arms)
    data = _before_and_after(runs, last)
    chance = (HIGH_ENTROPY, runs["planning_share"].mean())
    note = f"{_bars_note(runs)} Before, after: mean of the first, last {last} steps. Dotted: by chance."
    title = "Planning tokens and high-entropy tokens (top 30 %)"
    figure, axes = canvas(1, 2, height=3.4, title=title, world=world, note=note, sharey=True)
    for ax, (column, label), share in zip(axes[0], OVERLAP.items(), chance, strict=True):
        _bars(ax, data, column, arms)
        ax.axhline(share, color="0.15", ls=":", lw=1, label="_chance")
        ax.set(xlabel="", ylabel="share of tokens", ylim=(0, 1), title=label.capitalize())
        ax.get_legend().remove()
    handles, labels = axes[0, 1].containers, [arm_name(arm) for arm in arms]
    axes[0, 1].legend(handles[: len(arms)], labels, loc="upper right")
    return figure


@house()
def errors(frame: pd.DataFrame, evals: pd.DataFrame, world: str, *, arm: str = "grpo") -> Figure:
    """Fig. 3: failures by cause, on training prompts and on held-out problems, as shares of completions.

    In the middle planning's share of the failures. A bad plan hides its slips, so on the right execution
    failures also stand as a share of the completions whose plan is sound.
    """
    columns = ["error_planning", "error_execution", "error_planning_share"]
    runs, tests = require(frame, columns, [arm]), require(evals, columns[:2], [arm])
    tests = tests.assign(sound=tests["error_execution"] / (1 - tests["error_planning"]))
    title = f"Planning and execution errors under {arm_name(arm)}"
    figure, axes = canvas(1, 3, height=3.2, title=title, world=world, note=seeds_note(runs))
    left, middle, right = axes[0]
    class_panel(left, runs, "error", "share of completions")
    left.set(ylim=(0, None), title="Training prompts")
    style = dict(zip(("color", "dashes"), CLASSES["planning"], strict=True))
    seed_lines(middle, runs, columns[2], label="planning errors", **style)
    middle.set(xlabel=STEPS, ylabel="share of failures", ylim=(0, 1), title="Planning's share")
    class_panel(right, tests, "error", "share of completions")
    seed_lines(right, tests, "sound", label="execution,\nplan sound", color=GREEN, dashes=(1, 1))
    right.set(ylim=(0, None), title="Held-out problems")
    right.legend()
    return figure


def class_panel(ax: Axes, runs: pd.DataFrame, quantity: str, ylabel: str) -> None:
    for kind, (color, dashes) in CLASSES.items():
        label = kind
        if quantity == "relative_perplexity":
            first = runs.sort_values("step").groupby("seed")[f"perplexity_{kind}"].first().mean()
            label = f"{kind} (first: {first:.2f})"
        column = f"{quantity}_{kind}"
        seed_lines(ax, runs, column, label=label, color=color, dashes=dashes)
    ax.set(xlabel=STEPS, ylabel=ylabel)
    ax.legend()
    fit(ax)


def semantic_panel(ax: Axes, runs: pd.DataFrame) -> None:
    column, ylabel = "semantic_entropy{}_change", "semantic entropy\nchange from first step (bits)"
    seed_lines(ax, runs, column.format(""), label=SEMANTIC[0], color=GREEN, dashes="")
    matched = column.format("_matched")
    seed_lines(ax, runs, matched, label=SEMANTIC[1], color=PURPLE, dashes=(4, 2))
    if "cluster_entropy_change" in runs and runs["cluster_entropy_change"].notna().any():
        seed_lines(ax, runs, "cluster_entropy_change", label=SEMANTIC[2], color=ORANGE, dashes=(1, 1))
    ax.axhline(0, color="0.5", lw=0.6, label="_zero")
    ax.set(xlabel=STEPS, ylabel=ylabel)
    ax.legend()
    fit(ax)


def accuracy_and_length(ax: Axes, runs: pd.DataFrame, tests: pd.DataFrame) -> Axes:
    """Held-out accuracy, and length on a twin axis, which is returned."""
    right = ax.twinx()
    right.grid(False)
    seed_lines(ax, tests, "accuracy", label="accuracy", color=PALETTE[0], dashes="")
    seed_lines(right, runs, "length", label="length (right)", color=PALETTE[7], dashes=(4, 2))
    ax.set(xlabel=STEPS, ylabel="validation accuracy (share)")
    right.set_ylabel("mean completion length (tokens)")
    _one_legend(ax, right)
    return right


def _one_legend(left: Axes, right: Axes) -> None:
    """Limits by the lines, and one legend for an axis and its twin, above the panel."""
    for each in (left, right):
        fit(each)
    handles = [h for each in (left, right) for h in each.get_legend_handles_labels()[0]]
    right.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=len(handles))


def _before_and_after(runs: pd.DataFrame, last: int) -> pd.DataFrame:
    groups = runs.sort_values("step").groupby(["arm", "seed"])
    before = groups[list(OVERLAP)].agg(lambda column: column.head(last).mean())
    after = groups[list(OVERLAP)].agg(lambda column: column.tail(last).mean())
    return pd.concat({"before RL": before, "after RL": after}, names=["time"]).reset_index()


def _bars(ax: Axes, data: pd.DataFrame, column: str, arms: Sequence[str]) -> None:
    axis = {"data": data, "x": "time", "y": column, "hue": "arm", "hue_order": list(arms), "ax": ax}
    colors = {arm: arm_color(arm) for arm in arms}
    style = {
        "palette": colors,
        "saturation": 1,
        "alpha": 0.75,
        "err_kws": {"lw": 1, "color": "0.2"},
    }
    sns.barplot(errorbar=lambda values: interval(values)[1:3], capsize=0.15, **axis, **style)
    for bars, hatch in zip(ax.containers, cycle(["", "///", "...", "xxx"]), strict=False):
        for bar in bars:
            bar.set(hatch=hatch, edgecolor="white")  # arms differ on a grey printer too
    sns.stripplot(dodge=True, jitter=False, size=4, palette=dict.fromkeys(arms, "0.15"), **axis)


def _bars_note(frame: pd.DataFrame) -> str:
    counts = seed_counts(frame)
    if frame.groupby("arm")["seed"].nunique().max() == 1:
        return f"{counts}: no interval."
    return f"Bars: mean over seeds ({counts}); points: seeds; whiskers: 95 % t-interval."
