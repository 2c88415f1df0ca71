"""What the equation does, in the families' world: one figure, the verdicts, and the page that shows them.

The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hicra.errors import HicraError
from hicra.files import write_atomic
from hicra.study.figures.gallery import DIGITS, counts_markdown
from hicra.study.figures.style import canvas, house, save
from hicra.study.figures.tables import table_markdown, verdict_markdown
from hicra.study.record.run_folder import RunFolder, run_folders
from hicra.study.record.run_tables import load_study
from hicra.study.verdicts.claims import contrast, load_claims, power_table, verdict_table
from hicra.study.verdicts.families_quantities import families_quantities
from hicra.study.verdicts.intervals import interval
from hicra.study.verdicts.run_quantities import quantities

# quantity -> title and axis of its panel: each arm's paired difference to GRPO
PANELS = {
    "marked_connectives_change": ("Marked words that change nothing", "log odds, minus GRPO"),
    "planning_change": ("Share of planning tokens", "share, minus GRPO"),
    "tokens_change": ("Length of completions", "tokens, minus GRPO"),
    "steps_to_half": ("Steps to V = 1/2", "log of the ratio to GRPO's"),
    "steps_above_half": ("Steps from V = 1/2 to 0.7", "log of the ratio to GRPO's"),
}
PARTS = {
    "planning weight\n(yoked - GRPO)": {"yoked": 1, "grpo": -1},
    "hard prompts\n(scaled - yoked)": {"scaled": 1, "yoked": -1},
    "bonus\n(HICRA - scaled)": {"hicra": 1, "scaled": -1},
    "HICRA - GRPO": {"hicra": 1, "grpo": -1},
}
ELSEWHERE = ("even-", "easy-")  # conditions with a baseline of their own


def load_values(records: Path | str) -> tuple[pd.DataFrame, str]:
    """All quantities of the finished runs in `records`, and the world of most of them.

    Problems of equal difficulty are a world of their own, with which no entropy is matched. HicraError where
    there is no run.
    """
    worlds: dict[str, list[RunFolder]] = {}
    for run in run_folders(records):
        if run.finished:
            worlds.setdefault(run.manifest()["world"], []).append(run)
    if not worlds:
        raise HicraError(
            f"no finished run in {records}; make some with `hicra experiments --profile families`"
        )
    tables = []
    for runs in worlds.values():
        study = load_study(runs)
        tables.append(quantities(study.steps, study.evals).join(families_quantities(runs)))
    return pd.concat(tables), max(worlds, key=lambda world: len(worlds[world]))


def build_page(
    records: Path | str, pilots: Path | str, claims: Path | str, out: Path | str, order: Iterable[str]
) -> list[Path]:
    """Draw the figure, write verdicts and each arm's values, and the page README.md, into `out`.

    `pilots` are records that decide nothing and tell the power; `order` is that of the conditions.
    """
    (values, world), rules, out, order = load_values(records), load_claims(claims), Path(out), list(order)
    verdicts, chances = verdict_table(rules, values), power_table(rules, load_values(pilots)[0])
    arms = arm_table(values, order)
    written = save(equation_effects(values, world, order), out, "equation_effects")
    for name, frame in {"verdicts": verdicts, "arms": arms, "power": chances}.items():
        write_atomic(out / f"{name}.csv", frame.round(DIGITS).to_csv(index=False))
        written.append(out / f"{name}.csv")
    told = {
        "n": len(values),
        "world": world,
        "counts": counts_markdown(verdicts),
        "arms": table_markdown(arms),
        "verdicts": verdict_markdown(verdicts, rules.questions),
        "power": table_markdown(chances.round(3)),
    }
    write_atomic(out / "README.md", PAGE.format(**told))
    return [*written, out / "README.md"]


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
        "weight": "effective weight",
    }
    found = [name for name in order if name in values.index.get_level_values("arm")]
    means = values.groupby("arm")[list(columns)].mean().loc[found].rename(columns=columns).round(3)
    means.insert(0, "seeds", values.groupby("arm").size().loc[found])
    return means.reset_index()


@house()
def equation_effects(values: pd.DataFrame, world: str, order: Sequence[str]) -> Figure:
    """What each arm does to words, planning and speed, and HICRA's gain taken into parts.

    `values` is that of `load_values`. Raises HicraError without runs of GRPO.
    """
    there = set(values.index.get_level_values("arm"))
    if "grpo" not in there:
        raise HicraError("no run of arm 'grpo', with which the others are compared")
    arms = [a for a in order if a in there and a != "grpo" and not a.startswith(ELSEWHERE)]
    against = {arm: {arm: 1, "grpo": -1} for arm in arms}
    note = (
        "Points are means over seeds of differences paired by seed, whiskers their 95 % t-intervals; "
        "a hollow point is of fewer than three seeds and has no whisker."
    )
    height = 2.2 + 0.34 * max(len(arms), 5)
    figure = canvas(height=height, title="What does HICRA's equation do?", world=world, note=note)
    axes = figure.subplots(2, 3).flat
    for ax, (quantity, (title, label)) in zip(axes, PANELS.items(), strict=False):
        _forest(ax, values, quantity, against)
        ax.set(title=title, xlabel=label)
    last = axes[len(PANELS)]
    _forest(last, values, "mean_reward", {k: v for k, v in PARTS.items() if set(v) <= there})
    last.set(title="HICRA's gain in parts", xlabel="reward over the run (share)")
    return figure


def _forest(ax: Axes, values: pd.DataFrame, quantity: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """One line a contrast: its mean and interval over the seeds that all its arms have."""
    for y, weights in enumerate(rows.values()):
        found = contrast(values, quantity, weights)
        if found.empty:
            continue
        mean, low, high, n = interval(found)
        if n > 2:
            ax.plot([low, high], [y, y], color="0.2", lw=1.2)
        ax.plot(mean, y, "o", ms=4, color="0.2", mfc="0.2" if n > 2 else "white")
    ax.axvline(0, color="0.4", lw=0.7)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)


PAGE = """# The families' world

`hicra figures` draws this from the {n} run records in `data/families/records`, without a model;
`hicra experiments --profile families` makes them. Model and data: {world}.

**{counts}** A claim whose runs are not all made is not tested here.

![What each arm does to words, planning and speed, and HICRA's gain in parts](equation_effects.png)

[SVG](equation_effects.svg), [PDF](equation_effects.pdf). HICRA is a factor on planning credit plus a bonus
for every planning token, right or wrong ([docs/equation.md](../../docs/equation.md)).

## Arms

Means over seeds, late in the run unless named otherwise; arms with fewer seeds are not comparable by these
alone. [arms.csv](arms.csv)

{arms}

## Power

How likely a claim is replicated if the effect is the true one, by the spread over the seeds of pilots, which
decide nothing (`data/families/pilots`). [power.csv](power.csv)

{power}

## Verdicts

By the rules of [data/families/claims.yaml](../../data/families/claims.yaml), written before the runs; read as
in the [gallery](../README.md#verdicts). [verdicts.csv](verdicts.csv)

{verdicts}
"""
