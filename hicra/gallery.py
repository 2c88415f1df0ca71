"""Every figure and table of the paper that the committed run records can answer, in one call.

`build_gallery` reads run records only: no model, no network. The same records give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from hicra import control_figures, figures
from hicra.claims import load_claims, quantities, verdict_table
from hicra.figure_style import save
from hicra.frames import Study, load_study
from hicra.paths import data_path
from hicra.runs import RunError, RunFolder, write_atomic
from hicra.tables import accuracy_table, learning_table, strategic_table, table_markdown, verdict_markdown
from hicra.viewer import rollout_html, save_html


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


def load_experiments(records: Path | str, order: Sequence[str]) -> Experiments:
    """All finished runs in `records`, arms in the given order. RunError where there are none."""
    runs = [RunFolder(p.parent) for p in sorted(data_path(records).glob("*-seed*/manifest.json"))]
    runs = [run for run in runs if run.finished]
    if not runs:
        raise RunError(f"no finished run in {records}; make them with `make experiments`")
    place = {name: i for i, name in enumerate(order)}
    runs.sort(key=lambda run: (place.get(run.path.name.rpartition("-seed")[0], len(place)), run.path.name))
    study = load_study(runs)
    return Experiments(study, quantities(study.steps, study.evals), tuple(runs))


def _curves(columns: Sequence[str], title: str) -> Callable[[Study, tuple[str, ...]], Figure]:
    return lambda s, arms: control_figures.curves(*s, columns=columns, arms=arms, title=title)


PAIR = ("grpo", "hicra")
GRID = ("grpo", "hicra", "weak-grpo", "weak-hicra")
ENTRIES = (
    Entry(
        "fig02_two_phase",
        "Fig. 2",
        "procedures consolidate first, then strategies become more diverse",
        ("grpo",),
        lambda s, arms: figures.two_phase(*s, arm=arms[0]),
    ),
    Entry(
        "fig03_errors",
        "Fig. 3",
        "training removes planning errors above all",
        ("grpo",),
        lambda s, arms: figures.errors(s.steps, s.world, arm=arms[0]),
    ),
    Entry(
        "fig04_hicra_vs_grpo",
        "Fig. 4",
        "HICRA keeps strategies more diverse and ends higher",
        PAIR,
        lambda s, arms: figures.hicra_vs_grpo(*s, arms=arms),
    ),
    Entry(
        "fig05_entropy_regularization",
        "Fig. 5",
        "an entropy bonus on all tokens raises token entropy and not accuracy",
        (*PAIR, "entropy_reg"),
        _curves(
            ("semantic_entropy", "accuracy", "group_solved", "token_entropy"),
            "HICRA against an entropy bonus",
        ),
    ),
    Entry(
        "fig07_drop30_diversity",
        "Fig. 7",
        "leaving out 30 % of the Strategic Grams changes no curve: semantic entropy",
        ("hicra", "drop30"),
        _curves(("semantic_entropy", "semantic_entropy_matched"), "Sensitivity to the lexicon: diversity"),
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
            ("token_entropy", "group_solved", "semantic_entropy", "accuracy"), "Which metric is a compass?"
        ),
    ),
    Entry(
        "fig12_entropy_overlap",
        "Fig. 12",
        "most planning tokens are high-entropy, most high-entropy tokens are not planning",
        PAIR,
        lambda s, arms: figures.entropy_overlap(s.steps, s.world, arms=arms),
    ),
    Entry(
        "fig14_boundary",
        "Fig. 14",
        "HICRA fails where procedural skill is missing",
        GRID,
        lambda s, arms: control_figures.boundary(
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
    strong = tuple(arm for arm in data.arms if not arm.startswith("weak"))
    rows = tuple(arm for arm in GRID if arm in have)
    if rows:
        found["fig09_grid"] = Drawing(
            "Fig. 9",
            "the two phases are seen in every model; here, for both arms from every base policy",
            rows,
            partial(control_figures.grid, *study, arms=rows),
        )
    if "grpo" in have:
        found["fig01_accuracy"] = Drawing(
            "Fig. 1, right; Table 1",
            "HICRA ends higher than GRPO and than every control",
            strong,
            partial(control_figures.final_accuracies, data.values, study.world, arms=strong),
        )
        found["fig10_frequencies"] = Drawing(
            "Fig. 10",
            "Strategic Grams are spread out where tokens are concentrated",
            ("grpo",),
            lambda: control_figures.frequencies(occurrences(data.runs, "grpo"), study.world),
        )
    return dict(sorted(found.items()))


def occurrences(runs: Sequence[RunFolder], arm: str) -> dict[str, Counter[str]]:
    """How often each token and each Strategic Gram occurs in an arm's kept rollouts and steps."""
    tokens, grams = Counter(), Counter()
    for run in runs:
        if run.path.name.startswith(f"{arm}-seed"):
            for row in run.read("rollouts.jsonl"):
                tokens.update(row["tokens"])
            for row in run.read("steps.jsonl"):
                grams.update(row["grams"])
    return {"tokens": tokens, "Strategic Grams": grams}


def build_gallery(
    records: Path | str,
    claims: Path | str,
    out: Path | str,
    order: Sequence[str],
    models: Sequence[Path | str] = (),
) -> list[Path]:
    """Draw every figure, write the accuracy and verdict tables, and the gallery page README.md.

    `models` are folders with the runs of language models; each gets a section of its own. Raises RunError
    where a folder holds no finished run, ClaimError for a claims file it cannot use.
    """
    data, out = load_experiments(records, order), Path(out)
    table = verdict_table(load_claims(claims), data.values)
    pages, written = [], []
    for name, (number, claim, arms, draw) in drawings(data).items():
        written += save(draw(), out, name)
        pages.append(
            f"## {number}\n\n![{claim}]({name}.png)\n\nThe claim: {claim}. Run records: "
            f"{', '.join(f'`{arm}-seed*`' for arm in arms)}. [SVG]({name}.svg)\n"
        )
    if traced := [run for run in data.runs if run.path.name.startswith("hicra-seed")]:
        rows = traced[0].read("rollouts.jsonl")
        traces = [rollout_html(rows[0]), rollout_html(rows[-1])]
        written.append(out / "fig13_traces.html")
        save_html(traces, written[-1], title=data.study.world)
    tables = {"table1_accuracy": accuracy_table(data.values), "table2_strategic": strategic_table(data.runs)}
    for name, frame in {**tables, "verdicts": table}.items():
        write_atomic(out / f"{name}.csv", frame.round(4).to_csv(index=False))
        written.append(out / f"{name}.csv")
    one, two = map(table_markdown, tables.values())
    told = {"world": data.study.world, "n": len(data.runs), "verdicts": verdict_markdown(table)}
    for folder in models:
        page, files = _model_section(folder, out, order)
        pages.append(page)
        written += files
    text = GALLERY.format(**told, table1=one, table2=two)
    write_atomic(out / "README.md", text + "\n".join(pages))
    return [*written, out / "README.md"]


def _model_section(records: Path | str, out: Path, order: Sequence[str]) -> tuple[str, list[Path]]:
    """The gallery's section on a language model's runs, and the files that it shows."""
    data, name = load_experiments(records, order), Path(records).name
    table, written, shown = learning_table(data.runs), [], []
    for entry in ENTRIES:
        if set(entry.arms) <= set(data.arms):
            written += save(entry.draw(data.study, entry.arms), out, f"{name}_{entry.name}")
            shown.append(f"![{entry.number}: {entry.claim}]({name}_{entry.name}.png)\n")
    write_atomic(out / f"{name}_accuracy.csv", table.round(4).to_csv(index=False))
    told = {"name": name, "world": data.study.world, "n": len(data.runs), "table": table_markdown(table)}
    return MODEL.format(**told) + "\n".join(shown), [*written, out / f"{name}_accuracy.csv"]


GALLERY = """# Gallery

Drawn by `make figures` from the {n} run records in `data/experiments` (made by `make experiments`), with no
model. World: {world}.

Each figure is laid out like the paper's of the same number. Fig. 6 and 13, two marked traces of a HICRA run
(its first and its last), are a page: [fig13_traces.html](fig13_traces.html).

## Verdicts

By the rules of [data/claims.yaml](../data/claims.yaml), written before the runs. "Ours" is the mean over
seeds, in brackets the 95 % paired bootstrap; a verdict asks the t-interval too
([verdicts.csv](verdicts.csv)). A statistic is a quantity of `hicra/claims.py` and the arms it is added and
subtracted over.

{verdicts}

## Table 1

Accuracy at the end on held-out problems, mean and 95 % t-interval over seeds, and the paired difference to
GRPO from the same base. The paper's columns are the mean over its six benchmarks for Qwen2.5-7B-Base, and for
the weak base Llama-3.1-8B-Instruct: another world, for the order of arms alone.
[table1_accuracy.csv](table1_accuracy.csv)

{table1}

## Table 2

Which phrases are strategic? The paper asked people; here the world's exact spans are the judge: a phrase is
strategic where most of its occurrences in GRPO's kept rollouts lie within a planning phrase.
[table2_strategic.csv](table2_strategic.csv)

{table2}

"""

MODEL = """## A language model: {world}

From {n} run records in `data/{name}` (`python -m hicra experiments --profile {name}`). No verdict rests on
them. Intervals are over problems, not over seeds: another seed may end elsewhere.
[{name}_accuracy.csv]({name}_accuracy.csv)

{table}

"""
