"""The paper's figures of one or two arms from a tidy frame: one function a figure, each returns a Figure.

`frame` holds the columns of `step_table.summarise` and `evals` those of `summarise_evals`, both with `arm`
and `seed` beside them. `world` names the model and the data, and stands on every figure. Lines are means over
seeds, smoothed where there is one value a step, bands 95 % intervals over seeds; changes are measured from
the mean of a run's first five steps. All raise ValueError for an arm or a column that the frame lacks.
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
    arm_lines,
    arm_name,
    canvas,
    difference_lines,
    faces,
    fit,
    house,
    legend_below,
    require,
    save,
    seed_counts,
    seed_lines,
    seeds_note,
    top_legend,
)
from hicra.study.verdicts.intervals import share_interval
from hicra.study.verdicts.windows import EDGE, RUN, change, start

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
# column whose change is drawn -> its estimate's name, colour and dashes
SEMANTIC = {
    "semantic_entropy": ("plug-in", GREEN, ()),
    "semantic_entropy_matched": ("size-matched", PURPLE, (4, 2)),
    "cluster_entropy": ("over clusters", ORANGE, (1, 1)),
}
ESTIMATES = tuple(SEMANTIC)[:2]


@house()
def overview(frame: pd.DataFrame, world: str, *, arm: str = "grpo") -> Figure:
    """Fig. 1, right: does execution become certain first, and strategy diverse after it?

    Above the perplexity of execution tokens over that at the start (ratio), below the change of semantic
    entropy (bits), on one axis of steps.
    """
    runs = require(frame, ["perplexity_execution", *ESTIMATES], [arm])
    title = f"Does {arm_name(arm)} learn procedures first and strategies second?"
    figure = canvas(height=4.6, title=title, world=world, note=seeds_note(runs))
    above, below = figure.subplots(2, 1, sharex=True)
    color, dashes = CLASSES["execution"]
    relative_perplexity(above, runs, "execution", color, dashes)
    above.axhline(1, color="0.4", lw=0.7, label="_one")
    above.set(ylabel="perplexity of execution\ntokens / start (ratio)")
    fit(above)
    legend_below(above)
    semantic_panel(below, runs, ESTIMATES)
    above.set_title("Procedures: do they get certain?")
    below.set_title("Strategies: do they get more diverse?")
    return figure


@house()
def two_phase(frame: pd.DataFrame, evals: pd.DataFrame, world: str, *, arm: str = "grpo") -> Figure:
    """Fig. 2: procedures consolidate first, then strategies are explored. One arm, five panels.

    Relative perplexity (1) and entropy (nats/token) of planning and execution tokens; change of
    semantic entropy (bits), plug-in and size-matched; held-out accuracy; completion length.
    """
    columns = [f"{kind}_{name}" for kind in ("perplexity", "entropy") for name in CLASSES]
    runs = require(frame, [*columns, *ESTIMATES, "length"], [arm])
    tests = require(evals, ["accuracy"], [arm])
    title = f"Does learning have two phases? The dynamics of {arm_name(arm)}"
    figure = canvas(height=5.2, title=title, world=world, note=seeds_note(runs))
    above, below = figure.subfigures(2, 1)
    first, second, third = above.subplots(1, 3)
    left, right = below.subplots(1, 2)
    perplexity_panel(first, runs)
    class_panel(second, runs, "entropy", "token entropy (nats/token)")
    semantic_panel(third, runs)
    accuracy_panel(left, tests)
    length_panel(right, runs)
    return figure


@house()
def hicra_vs_grpo(
    frame: pd.DataFrame, evals: pd.DataFrame, world: str, *, arms: Sequence[str] = ("grpo", "hicra")
) -> Figure:
    """Fig. 4: semantic entropy (bits), plug-in and size-matched, and held-out accuracy (share).

    Above the arms, below the difference of the others to the first, paired by seed.
    """
    runs, tests = require(frame, ESTIMATES, arms), require(evals, ["accuracy"], arms)
    first = arm_name(arms[0])
    title = f"Does {' or '.join(map(arm_name, arms[1:]))} end more diverse and more accurate than {first}?"
    figure = canvas(height=4.6, title=title, world=world, note=seeds_note(runs), legend=True)
    axes = figure.subplots(2, 3)
    shown = {
        "semantic_entropy": ("Semantic entropy, plug-in", "bits", runs),
        "semantic_entropy_matched": ("The same, size-matched", "bits", runs),
        "accuracy": ("Held-out accuracy", "share", tests),
    }
    for (column, (name, unit, data)), (level, gap) in zip(shown.items(), axes.T, strict=True):
        arm_lines(level, data, column, unit, arms)
        difference_lines(gap, data, column, f"minus {first} ({unit})", arms)
        level.set(title=name, xlabel="")
    top_legend(figure, axes[0, 0])
    return figure


@house()
def entropy_overlap(frame: pd.DataFrame, world: str, *, arms: Sequence[str] = ("grpo", "hicra")) -> Figure:
    """Fig. 12: how far planning and high-entropy tokens (top 30 %) coincide, before and after RL.

    Before and after are the means of a run's first and last EDGE steps. Bars are means over seeds with
    95 % intervals, points are seeds, dotted what chance would give; all in shares of tokens.
    """
    runs = require(frame, [*OVERLAP, "planning_share"], arms)
    data = _before_and_after(runs)
    chance = (HIGH_ENTROPY, runs["planning_share"].mean())
    ends = f"Before and after RL are the means of the first and the last {EDGE} steps."
    note = f"{_bars_note(runs)} {ends} The dotted lines are what chance would give."
    title = "Are planning tokens the high-entropy tokens (top 30 %)?"
    figure = canvas(height=3.4, title=title, world=world, note=note)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (column, label), share in zip(axes, OVERLAP.items(), chance, strict=True):
        _bars(ax, data, column, arms)
        ax.axhline(share, color="0.15", ls=":", lw=1, label="_chance")
        ax.set(xlabel="", ylabel="share of tokens", ylim=(0, 1), title=label.capitalize())
        ax.get_legend().remove()
    handles, labels = axes[1].containers, [arm_name(arm) for arm in arms]
    axes[1].legend(handles[: len(arms)], labels, loc="upper right")
    return figure


@house()
def errors(frame: pd.DataFrame, evals: pd.DataFrame, world: str, *, arm: str = "grpo") -> Figure:
    """Fig. 3: failures by cause, on training prompts and on held-out problems, as shares of completions.

    In the middle planning's share of the failures. A bad plan hides its slips, so on the right execution
    failures also stand as a share of the completions whose plan is sound.
    """
    columns = ["error_planning", "error_execution", "error_planning_share"]
    runs, tests = require(frame, columns, [arm]), require(evals, columns[:2], [arm])
    tests = tests.assign(error_execution_sound=tests["error_execution"] / (1 - tests["error_planning"]))
    title = f"Which errors does {arm_name(arm)} remove?"
    figure = canvas(height=3.5, title=title, world=world, note=seeds_note(runs), legend=True)
    left, middle, right = figure.subplots(1, 3)
    class_panel(left, runs, "error", "share of completions")
    color, dashes = CLASSES["planning"]
    seed_lines(middle, runs, columns[2], label="planning", color=color, dashes=dashes)
    middle.set(xlabel=STEPS, ylabel="share of failures", ylim=(0, 1), title="Failures due to planning")
    class_panel(right, tests, "error", "share of completions")
    sound = {"label": "execution, as a share of sound plans", "color": GREEN, "dashes": (1, 1)}
    seed_lines(right, tests, "error_execution_sound", **sound)
    fit(right, share=True)
    for ax, name in ((left, "Training prompts"), (right, "Held-out problems")):
        ax.set(ylim=(0, None), title=name)
        ax.get_legend().remove()
    top_legend(figure, right)
    return figure


def class_panel(ax: Axes, runs: pd.DataFrame, quantity: str, ylabel: str) -> None:
    """A quantity of planning and of execution tokens."""
    for kind, (color, dashes) in CLASSES.items():
        seed_lines(ax, runs, f"{quantity}_{kind}", label=kind, color=color, dashes=dashes)
    ax.set(xlabel=STEPS, ylabel=ylabel)
    ax.legend()
    fit(ax, share=quantity == "error")


def perplexity_panel(ax: Axes, runs: pd.DataFrame) -> None:
    for kind, (color, dashes) in CLASSES.items():
        relative_perplexity(ax, runs, kind, color, dashes)
    ax.set(xlabel=STEPS, ylabel="perplexity / start (ratio)")
    fit(ax)
    legend_below(ax)


def relative_perplexity(ax: Axes, runs: pd.DataFrame, kind: str, color, dashes: Sequence[float]) -> None:
    """Perplexity of a class of tokens over that at the run's start, whose mean the legend gives (Fig. 2)."""
    column = f"perplexity_{kind}"
    first = start(runs, column)
    label = f"{kind} (start {first.groupby(runs['seed']).first().mean():.2f})"
    relative = runs.assign(ratio=runs[column] / first)
    seed_lines(ax, relative, "ratio", label=label, color=color, dashes=dashes)


def semantic_panel(ax: Axes, runs: pd.DataFrame, estimates: Sequence[str] = tuple(SEMANTIC)) -> None:
    """The change of semantic entropy from the run's start, by those of the estimates that the runs have."""
    for column in estimates:
        if column in runs and runs[column].notna().any():
            name, color, dashes = SEMANTIC[column]
            changed = runs.assign(change=change(runs, column))
            seed_lines(ax, changed, "change", label=name, color=color, dashes=dashes)
    ax.axhline(0, color="0.4", lw=0.7, label="_zero")
    ax.set(xlabel=STEPS, ylabel="semantic entropy\nminus start (bits)")
    fit(ax)
    legend_below(ax)


def accuracy_panel(ax: Axes, tests: pd.DataFrame) -> None:
    seed_lines(ax, tests, "accuracy", label="_accuracy", color=PALETTE[0], dashes=())
    ax.set(xlabel=STEPS, ylabel="accuracy\n(share of held-out problems)")
    fit(ax, share=True)


def length_panel(ax: Axes, runs: pd.DataFrame) -> None:
    seed_lines(ax, runs, "length", label="_length", color="0.35", dashes=())
    ax.set(xlabel=STEPS, ylabel="completion length\n(tokens)")
    fit(ax)


def _before_and_after(runs: pd.DataFrame) -> pd.DataFrame:
    groups = runs.sort_values("step").groupby(RUN)
    before = groups[list(OVERLAP)].agg(lambda column: column.head(EDGE).mean())
    after = groups[list(OVERLAP)].agg(lambda column: column.tail(EDGE).mean())
    return pd.concat({"before RL": before, "after RL": after}, names=["time"]).reset_index()


def _bars(ax: Axes, data: pd.DataFrame, column: str, arms: Sequence[str]) -> None:
    axis = {"data": data, "x": "time", "y": column, "hue": "arm", "hue_order": list(arms), "ax": ax}
    colors = {arm: face.color for arm, face in faces(arms).items()}
    style = {
        "palette": colors,
        "saturation": 1,
        "alpha": 0.75,
        "err_kws": {"lw": 1, "color": "0.2"},
    }
    sns.barplot(errorbar=lambda values: share_interval(values)[1:3], capsize=0.15, **axis, **style)
    for bars, hatch in zip(ax.containers, cycle(["", "///", "...", "xxx"]), strict=False):
        for bar in bars:
            bar.set(hatch=hatch, edgecolor="white")  # arms differ on a grey printer too
    sns.stripplot(dodge=True, jitter=False, size=4, palette=dict.fromkeys(arms, "0.15"), **axis)


def _bars_note(frame: pd.DataFrame) -> str:
    counts = seed_counts(frame)
    if frame.groupby("arm")["seed"].nunique().max() == 1:
        return f"Seeds: {counts}; one seed has no interval."
    return f"Seeds: {counts}; bars are means over seeds, points seeds, whiskers 95 % intervals over seeds."
