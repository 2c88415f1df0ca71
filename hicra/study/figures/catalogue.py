"""Which figures the run records can answer: one entry a figure, with the paper's number and claim.

Everything here reads run records only: no model, no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from hicra.files import study_data
from hicra.study.figures import arm_comparisons, training_curves
from hicra.study.record.run_folder import RunError, RunFolder, run_folders
from hicra.study.record.run_tables import Study, load_study, measured_with_parts
from hicra.study.verdicts.run_quantities import quantities


class Entry(NamedTuple):
    """One figure: file name, the paper's number and claim, the conditions it needs, how to draw it."""

    name: str
    number: str
    claim: str
    arms: tuple[str, ...]
    draw: Callable[[Study, tuple[str, ...]], Figure]


class Experiments(NamedTuple):
    """The committed run records, read: both tables, the quantities of claims, and the runs."""

    study: Study
    values: pd.DataFrame
    runs: tuple[RunFolder, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.study.steps["arm"]))

    @property
    def strong(self) -> tuple[str, ...]:
        """The arms that start from the stronger base policy."""
        return tuple(arm for arm in self.arms if not arm.startswith("weak"))

    def runs_of(self, arm: str) -> list[RunFolder]:
        return [run for run in self.runs if run.condition == arm]


def load_experiments(records: Path | str = "", order: Sequence[str] = ()) -> Experiments:
    """All finished runs in `records`, or the committed ones, arms in the given order.

    Raises RunError where there are none.
    """
    records = Path(records) if records else study_data("experiments")
    runs = [run for run in run_folders(records) if run.finished]
    if not runs:
        raise RunError(f"no finished run in {records}; make them with `make experiments`")
    place = {name: i for i, name in enumerate(order)}
    runs.sort(key=lambda run: (place.get(run.condition, len(place)), run.path.name))
    study = load_study(runs)
    return Experiments(study, quantities(study.steps, study.evals), tuple(runs))


def _curves(columns: Sequence[str], title: str) -> Callable[[Study, tuple[str, ...]], Figure]:
    return lambda s, arms: arm_comparisons.curves(*s, columns=columns, arms=arms, title=title)


PAIR = ("grpo", "hicra")
GRID = ("grpo", "hicra", "weak-grpo", "weak-hicra")
ENTRIES = (
    Entry(
        "fig01_overview",
        "Fig. 1, right",
        "reasoning emerges in two phases: procedures become certain, then strategies diverse",
        ("grpo",),
        lambda s, arms: training_curves.overview(s.steps, s.world, arm=arms[0]),
    ),
    Entry(
        "fig02_two_phase",
        "Fig. 2",
        "procedures consolidate first, then strategies become more diverse",
        ("grpo",),
        lambda s, arms: training_curves.two_phase(*s, arm=arms[0]),
    ),
    Entry(
        "fig03_errors",
        "Fig. 3",
        "training removes planning errors above all",
        ("grpo",),
        lambda s, arms: training_curves.errors(*s, arm=arms[0]),
    ),
    Entry(
        "fig04_hicra_vs_grpo",
        "Fig. 4",
        "HICRA keeps strategies more diverse and ends higher",
        PAIR,
        lambda s, arms: training_curves.hicra_vs_grpo(*s, arms=arms),
    ),
    Entry(
        "fig05_entropy_regularization",
        "Fig. 5",
        "an entropy bonus on all tokens raises token entropy and not accuracy",
        (*PAIR, "entropy_reg", "entropy_reg0.2"),
        _curves(
            ("semantic_entropy", "accuracy", "group_solved", "token_entropy"),
            "HICRA against an entropy bonus",
        ),
    ),
    Entry(
        "fig08_drop30_accuracy",
        "Fig. 8",
        "leaving out 30 % of the Strategic Grams changes no curve: accuracy",
        ("hicra", "drop30"),
        _curves(("accuracy", "length"), "Sensitivity to the lexicon: accuracy and length"),
    ),
    Entry(
        "fig11_compass",
        "Fig. 11",
        "token entropy collapses and Pass@8 saturates while semantic entropy tells arms apart",
        PAIR,
        _curves(
            ("token_entropy", "group_solved", "semantic_entropy", "semantic_entropy_matched", "accuracy"),
            "Which metric is a compass?",
        ),
    ),
    Entry(
        "fig12_entropy_overlap",
        "Fig. 12",
        "most planning tokens are high-entropy, most high-entropy tokens are not planning",
        PAIR,
        lambda s, arms: training_curves.entropy_overlap(s.steps, s.world, arms=arms),
    ),
    Entry(
        "fig14_boundary",
        "Fig. 14",
        "HICRA fails where procedural skill is missing",
        GRID,
        lambda s, arms: arm_comparisons.boundary(
            s.evals, s.world, pairs={"base policy": arms[:2], "weak base policy": arms[2:]}
        ),
    ),
)


class Drawing(NamedTuple):
    """A figure that the records can answer; `draw()` makes it."""

    number: str
    claim: str
    arms: tuple[str, ...]
    draw: Callable[[], Figure]


def drawings(data: Experiments) -> dict[str, Drawing]:
    """File name -> drawing, for every figure whose conditions have been run."""
    study, have = data.study, set(data.arms)
    found = {e.name: Drawing(*e[1:4], partial(e.draw, study, e.arms)) for e in ENTRIES if set(e.arms) <= have}
    if rows := tuple(arm for arm in GRID if arm in have):
        found["fig09_grid"] = Drawing(
            "Fig. 9",
            "the two phases are seen in every model; here, for both arms from every base policy",
            rows,
            partial(arm_comparisons.grid, *study, arms=rows),
        )
    if {"hicra", "drop30"} <= have:
        found["fig07_drop30_diversity"] = Drawing(
            "Fig. 7",
            "leaving out 30 % of the Strategic Grams changes no curve: semantic entropy",
            ("hicra", "drop30"),
            lambda: arm_comparisons.lexicon_sensitivity(
                study.steps,
                measured_with_parts(data.runs_of("hicra"), share=0.3, draws=5),
                study.world,
                arms=("hicra", "drop30"),
            ),
        )
    if "grpo" in have:
        found["fig10_frequencies"] = Drawing(
            "Fig. 10",
            "Strategic Grams are spread out where tokens are concentrated",
            ("grpo",),
            lambda: arm_comparisons.frequencies(occurrences(data.runs_of("grpo")), study.world),
        )
        found["table1_accuracy"] = Drawing(
            "Table 1",
            "HICRA ends higher than GRPO and than every control",
            data.strong,
            partial(arm_comparisons.final_accuracies, data.values, study.world, arms=data.strong),
        )
    return dict(sorted(found.items()))


def occurrences(runs: Sequence[RunFolder]) -> dict[str, Counter[str]]:
    """How often each token occurs in the kept rollouts of `runs`, and each Strategic Gram in all of them."""
    tokens, grams = Counter(), Counter()
    for run in runs:
        for row in run.read("rollouts.jsonl"):
            tokens.update(row["tokens"])
        for row in run.read("steps.jsonl"):
            grams.update(row["grams"])
    return {"tokens": tokens, "Strategic Grams": grams}
