"""Which figures the run records can answer: one entry a figure, with the paper's number and claim.

Everything here reads run records only: no model, no network.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy
from joblib import Memory
from matplotlib.figure import Figure

from hicra.files import PACKAGE, canonical, folder_sha256, sha256, study_data
from hicra.lexicon.lexicon import Lexicon
from hicra.study import sources
from hicra.study.figures import arm_comparisons, training_curves
from hicra.study.figures.style import ARMS, ELSEWHERE, arm_name
from hicra.study.figures.tables import final_accuracy, spoken
from hicra.study.problems.worlds import WORLDS
from hicra.study.record.run_folder import RunError, RunFolder, run_folders
from hicra.study.record.run_tables import Study, load_study, measured_with_parts
from hicra.study.verdicts.claims import contrast
from hicra.study.verdicts.compass import compass_table
from hicra.study.verdicts.families_quantities import families_quantities
from hicra.study.verdicts.run_quantities import quantities

KEPT = 8  # reductions in the cache


class Experiments(NamedTuple):
    """Run records, read. `values` are the quantities of claims, of all runs; the rest is of the main world's,
    that of most runs."""

    study: Study
    values: pd.DataFrame
    runs: tuple[RunFolder, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.study.steps["arm"]))

    @property
    def one_start(self) -> tuple[str, ...]:
        """The arms that start from the profile's own base policy."""
        return tuple(arm for arm in self.arms if not arm.startswith(ELSEWHERE))

    @property
    def lexicon(self) -> Lexicon:
        """The one that all runs were counted with."""
        return Lexicon.load(self.runs[0].manifest()["settings"]["lexicon"])

    def runs_of(self, arm: str) -> list[RunFolder]:
        return [run for run in self.runs if run.condition == arm]

    def completions(self, arm: str) -> pd.Series:
        """The texts of an arm's kept rollouts."""
        texts = (row["completion"] for run in self.runs_of(arm) for row in run.read("rollouts.jsonl"))
        return pd.Series(list(texts), dtype=str)

    def answers(self) -> pd.DataFrame:
        """A row per run, evaluation and problem: arm, seed, step, problem, share of right answers."""
        rows = [row for run in self.runs for row in _answers(run)]
        return pd.DataFrame(rows, columns=["arm", "seed", "step", "problem", "share"])

    def correlations(self) -> pd.DataFrame:
        """`compass.compass_table` over the arms from one base."""
        return compass_table(self.study.steps, self.study.evals, self.one_start)


def load_experiments(records: Path | str = "", order: Sequence[str] = tuple(ARMS)) -> Experiments:
    """All finished runs in `records`, or the committed ones, arms in the given order.

    Runs of different worlds, such as problems of equal difficulty, share no figure, and no entropy is matched
    across them. What the records come to is kept in the user's cache, for the next notebook. Raises RunError
    where there is no run.
    """
    records = Path(records) if records else study_data("families/records")
    runs = [run for run in run_folders(records) if run.finished]
    if not runs:
        raise RunError(f"no finished run in {records}; make them with `make experiments`")
    place = {name: i for i, name in enumerate(order)}
    runs.sort(key=lambda run: (place.get(run.condition, len(place)), run.path.name))
    worlds: dict[str, list[RunFolder]] = {}
    for run in runs:
        worlds.setdefault(run.manifest()["world"], []).append(run)
    ordered = sorted(worlds.values(), key=len, reverse=True)
    kept = _memory(sources.cache_root() / "records")
    study, values = kept.cache(_reduced, ignore=["worlds"])(_fingerprint(runs), ordered)
    kept.reduce_size(items_limit=KEPT)
    return Experiments(study, values, tuple(ordered[0]))


def _memory(folder: Path) -> Memory:
    """What was reduced before; where it cannot be kept there is a warning, and nothing of before."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        told = f"{folder} cannot be written, so records are read anew each time; set HICRA_CACHE to a folder"
        warnings.warn(told, stacklevel=3)
    return Memory(folder if writable else None, verbose=0)


def _fingerprint(runs: Sequence[RunFolder]) -> str:
    """A hash of the records, in their order, of their lexicons, and of all code that reads them."""
    files = [[run.path.name, folder_sha256(run.path, "*.json*")] for run in runs]
    names = sorted({run.manifest()["settings"]["lexicon"] for run in runs})
    lexicons = [Lexicon.load(name).sha256 for name in names]
    code = [folder_sha256(PACKAGE, "*.py"), np.__version__, pd.__version__, scipy.__version__]
    return sha256(canonical([files, lexicons, code]))


def _reduced(fingerprint: str, worlds: Sequence[Sequence[RunFolder]]) -> tuple[Study, pd.DataFrame]:
    """The first world's tables, and the quantities of all runs."""
    studies = [load_study(runs) for runs in worlds]
    return studies[0], pd.concat(map(_values, studies, worlds))


def _values(study: Study, runs: Sequence[RunFolder]) -> pd.DataFrame:
    """The quantities of runs of one world; those of its choices where problems are made."""
    values = quantities(study.steps, study.evals)
    made = all(run.manifest()["settings"].get("problem_set") in WORLDS for run in runs)
    return values.join(families_quantities(runs)) if made else values


def _answers(run: RunFolder) -> Iterator[tuple]:
    for row in run.read("evals.jsonl"):
        samples = row["n"] / len(row["right"])
        for problem, right in enumerate(row["right"]):
            yield run.condition, run.seed, row["step"], problem, right / samples


GRPO, PAIR = MappingProxyType({"grpo": 1}), MappingProxyType({"hicra": 1, "grpo": -1})


class Told(NamedTuple):
    """Numbers in words, for the sentence that answers a figure's claim."""

    values: pd.DataFrame

    def of(self, quantity: str, weights: Mapping[str, float] = GRPO) -> str:
        return spoken(contrast(self.values, quantity, weights))


class Entry(NamedTuple):
    """One figure: file name, the paper's number and claim, the conditions it shows (none where they have not
    been run), how to draw it, and the sentence that answers the claim."""

    name: str
    number: str
    claim: str
    arms: Callable[[Experiments], tuple[str, ...]]
    draw: Callable[[Experiments, tuple[str, ...]], Figure]
    answer: Callable[[Experiments, Told], str]


class Drawing(NamedTuple):
    """A figure that the records can answer: `draw()` makes it, `answer(told)` says what it shows."""

    number: str
    claim: str
    arms: tuple[str, ...]
    draw: Callable[[], Figure]
    answer: Callable[[Told], str]


def drawings(data: Experiments) -> dict[str, Drawing]:
    """File name -> drawing, for every figure whose conditions have been run."""
    found = {}
    for entry in ENTRIES:
        if arms := entry.arms(data):
            draw, answer = partial(entry.draw, data, arms), partial(entry.answer, data)
            found[entry.name] = Drawing(entry.number, entry.claim, arms, draw, answer)
    return found


def occurrences(runs: Sequence[RunFolder]) -> dict[str, Counter[str]]:
    """How often each token occurs in the kept rollouts of `runs`, and each Strategic Gram in all of them."""
    tokens, grams = Counter(), Counter()
    for run in runs:
        for row in run.read("rollouts.jsonl"):
            tokens.update(row["tokens"])
        for row in run.read("steps.jsonl"):
            grams.update(row["grams"])
    return {"tokens": tokens, "Strategic Grams": grams}


def _all(*arms: str) -> Callable[[Experiments], tuple[str, ...]]:
    return lambda data: arms if set(arms) <= set(data.arms) else ()


def _curves(columns: Sequence[str], title: str) -> Callable[[Experiments, tuple[str, ...]], Figure]:
    return lambda data, arms: arm_comparisons.curves(*data.study, columns=columns, arms=arms, title=title)


def _sensitivity(data: Experiments, arms: tuple[str, ...]) -> Figure:
    parts = measured_with_parts(data.runs_of(arms[0]), share=0.3, draws=5)
    return arm_comparisons.lexicon_sensitivity(data.study.steps, parts, data.study.world, arms=arms)


def _compass(data: Experiments, arms: tuple[str, ...]) -> Figure:
    steps, evals, world = data.study
    return arm_comparisons.compass(steps, evals, data.correlations(), world, arms=arms)


def _each_arm(data: Experiments, told: Told) -> str:
    """Fig. 9's answer: the change of semantic entropy, arm by arm."""
    arms = [arm for arm in GRID if arm in data.arms]
    found = [f"{told.of('semantic_entropy_change', {arm: 1})} under {arm_name(arm)}" for arm in arms]
    return f"The change of semantic entropy, in bits: {'; '.join(found)}."


def _most_frequent(data: Experiments, _: Told) -> str:
    """Fig. 10's answer: what the ten most frequent of a kind make up."""
    counts = occurrences(data.runs_of("grpo"))
    top = {kind: sum(n for _, n in found.most_common(10)) / found.total() for kind, found in counts.items()}
    return (
        "The ten most frequent make up " + " and ".join(f"{x:.0%} of all {k}" for k, x in top.items()) + "."
    )


def _against_each(data: Experiments, told: Told) -> str:
    """Table 1's answer: HICRA against the arms of the paper's table."""
    others = [arm for arm in ("grpo", "high_entropy", "placebo", "entropy_reg") if arm in data.arms]
    quantity, pairs = final_accuracy(told.values), [{"hicra": 1, arm: -1} for arm in others]
    seeds = [len(contrast(told.values, quantity, pair)) for pair in pairs]
    found = (
        f"{told.of(quantity, pair)} for {arm_name(arm)}, {n} seeds"
        for arm, pair, n in zip(others, pairs, seeds, strict=True)
    )
    return f"HICRA's final accuracy minus that of each other arm: {'; '.join(found)}."


GRID = ("grpo", "hicra", "easy-grpo", "easy-hicra")
ENTRIES = (
    Entry(
        "fig01_overview",
        "Fig. 1",
        "reasoning emerges in two phases: procedures become certain, then strategies diverse",
        _all("grpo"),
        lambda data, arms: training_curves.overview(data.study.steps, data.study.world, arm=arms[0]),
        lambda _, told: (
            "Over the run the log perplexity of execution tokens changes by "
            f"{told.of('execution_log_perplexity_change')} nats and semantic entropy by "
            f"{told.of('semantic_entropy_change')} bits."
        ),
    ),
    Entry(
        "fig02_two_phase",
        "Fig. 2",
        "procedures consolidate first, then strategies become more diverse",
        _all("grpo"),
        lambda data, arms: training_curves.two_phase(*data.study, arm=arms[0]),
        lambda _, told: (
            f"Over the run semantic entropy changes by {told.of('semantic_entropy_change')} bits, matched "
            f"for the number of occurrences by {told.of('semantic_entropy_matched_change')}, and length by "
            f"{told.of('length_change')} tokens."
        ),
    ),
    Entry(
        "fig03_errors",
        "Fig. 3",
        "training removes planning errors above all",
        _all("grpo"),
        lambda data, arms: training_curves.errors(*data.study, arm=arms[0]),
        lambda _, told: (
            "On training prompts the change in planning errors minus that in execution errors is "
            f"{told.of('planning_minus_execution_error_change')} of all completions."
        ),
    ),
    Entry(
        "fig04_hicra_vs_grpo",
        "Fig. 4",
        "HICRA keeps strategies more diverse and ends higher",
        _all("grpo", "hicra"),
        lambda data, arms: training_curves.hicra_vs_grpo(*data.study, arms=arms),
        lambda _, told: (
            f"HICRA minus GRPO at the end: {told.of(final_accuracy(told.values), PAIR)} in accuracy and "
            f"{told.of('final_semantic_entropy', PAIR)} bits in semantic entropy, "
            f"{told.of('final_semantic_entropy_matched', PAIR)} where occurrences are matched."
        ),
    ),
    Entry(
        "fig05_entropy_regularization",
        "Fig. 5",
        "an entropy bonus on all tokens raises token entropy and not accuracy",
        _all("grpo", "hicra", "entropy_reg"),
        _curves(
            ("semantic_entropy", "accuracy", "group_solved", "token_entropy"),
            "Is HICRA better than an entropy bonus on all tokens?",
        ),
        lambda _, told: (
            "Against GRPO, the bonus changes the entropy of planning tokens at the end by "
            f"{told.of('final_entropy_planning', {'entropy_reg': 1, 'grpo': -1})} nats; in reward over the "
            f"run HICRA minus the bonus is {told.of('mean_reward', {'hicra': 1, 'entropy_reg': -1})}."
        ),
    ),
    Entry(
        "fig07_drop30_diversity",
        "Fig. 7",
        "leaving out 30 % of the Strategic Grams does not change semantic entropy",
        _all("hicra", "drop30"),
        _sensitivity,
        lambda _, told: (
            "Crediting 70 % of the grams instead of all of them moves the change of semantic entropy by "
            f"{told.of('semantic_entropy_change', {'drop30': 1, 'hicra': -1})} bits."
        ),
    ),
    Entry(
        "fig08_drop30_accuracy",
        "Fig. 8",
        "leaving out 30 % of the Strategic Grams does not change accuracy",
        _all("hicra", "drop30"),
        _curves(
            ("accuracy", "length"),
            "Do accuracy and length change when 30 % of the Strategic Grams are left out?",
        ),
        lambda _, told: (
            "Crediting 70 % of the grams instead of all of them moves final accuracy by "
            f"{told.of('final_accuracy_1', {'drop30': 1, 'hicra': -1})}."
        ),
    ),
    Entry(
        "fig09_grid",
        "Fig. 9",
        "the two phases are seen in every model; here, for both arms from every base policy",
        lambda data: tuple(arm for arm in GRID if arm in data.arms),
        lambda data, arms: arm_comparisons.grid(*data.study, arms=arms),
        _each_arm,
    ),
    Entry(
        "fig10_frequencies",
        "Fig. 10",
        "Strategic Grams are spread out where tokens are concentrated",
        _all("grpo"),
        lambda data, arms: arm_comparisons.frequencies(occurrences(data.runs_of(arms[0])), data.study.world),
        _most_frequent,
    ),
    Entry(
        "fig11_compass",
        "Fig. 11",
        "token entropy collapses and Pass@8 saturates while semantic entropy tells arms apart",
        _all("grpo", "hicra"),
        _compass,
        lambda _, told: (
            "Within runs of GRPO, semantic entropy's rank correlation with later gains, minus that of token "
            f"entropy, is {told.of('semantic_minus_token_prediction')}; minus that of Pass@8 it is "
            f"{told.of('semantic_minus_pass_prediction')}."
        ),
    ),
    Entry(
        "fig12_entropy_overlap",
        "Fig. 12",
        "most planning tokens are high-entropy, most high-entropy tokens are not planning",
        _all("grpo", "hicra"),
        lambda data, arms: training_curves.entropy_overlap(data.study.steps, data.study.world, arms=arms),
        lambda _, told: (
            f"Before RL {told.of('planning_high_entropy')} of the planning tokens are high-entropy, and "
            f"{told.of('high_entropy_planning')} of the high-entropy tokens are planning."
        ),
    ),
    Entry(
        "table1_accuracy",
        "Table 1",
        "HICRA ends higher than GRPO and than every control",
        lambda data: data.one_start if "grpo" in data.arms else (),
        lambda data, arms: arm_comparisons.final_accuracies(data.values, data.study.world, arms=arms),
        _against_each,
    ),
)
