"""Every figure and table of the paper that the committed run records can answer, in one call.

The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hicra.files import write_atomic
from hicra.planning.trace_page import rollout_html, save_html
from hicra.study.figures.catalogue import ENTRIES, Drawing, drawings, load_experiments
from hicra.study.figures.style import save
from hicra.study.figures.tables import (
    accuracy_table,
    learning_table,
    measured,
    strategic_table,
    table_markdown,
    verdict_markdown,
)
from hicra.study.verdicts.claims import NOT_TESTED, afterwards_table, load_claims, verdict_table
from hicra.study.verdicts.compass import compass_table


def build_gallery(
    records: Path | str,
    claims: Path | str,
    out: Path | str,
    order: Sequence[str],
    models: Sequence[Path | str] = (),
) -> list[Path]:
    """Draw every figure, write the tables, and the gallery page README.md.

    `models` are folders with the runs of language models; each gets a section of its own. Raises RunError
    where a folder holds no finished run, ClaimError for a claims file it cannot use.
    """
    data, rules, out = load_experiments(records, order), load_claims(claims), Path(out)
    verdicts = verdict_table(rules, data.values)
    tables = {
        "table1_accuracy": accuracy_table(data.values),
        "table2_strategic": strategic_table(data.runs),
        "compass": compass_table(data.study.steps, data.study.evals, data.strong),
        "afterwards": afterwards_table(rules, data.values),
        "verdicts": verdicts,
    }
    pages, written = [], []
    for name, drawing in drawings(data).items():
        written += save(drawing.draw(), out, name)
        pages.append(_page(name, drawing, verdicts))
    if traced := data.runs_of("hicra"):
        rows = traced[0].read("rollouts.jsonl")
        written.append(out / "fig13_traces.html")
        title = f"{traced[0].path.name}, first and last kept rollout. {data.study.world}"
        save_html([rollout_html(rows[0]), rollout_html(rows[-1])], written[-1], title=title)
    for name, frame in tables.items():
        write_atomic(out / f"{name}.csv", frame.round(4).to_csv(index=False))
        written.append(out / f"{name}.csv")
    for folder in models:
        page, files = _model_section(folder, out, order)
        pages.append(page)
        written += files
    told = {"world": data.study.world, "n": len(data.runs)}
    shown = {name: table_markdown(frame) for name, frame in tables.items()}
    shown |= {"verdicts": verdict_markdown(verdicts), "afterwards": _afterwards(tables["afterwards"])}
    write_atomic(out / "README.md", GALLERY.format(**told, **shown) + "\n".join(pages))
    return [*written, out / "README.md"]


def _page(name: str, drawing: Drawing, verdicts: pd.DataFrame) -> str:
    """A figure with the paper's claim, what became of it, and the records and command behind it."""
    number, claim, arms, _ = drawing
    place = number.partition(",")[0]
    told = verdicts["where"].str.replace("Fig. 7 and 8", "Fig. 7, Fig. 8").str.split(", |; ")
    here = told.map(lambda where: place in where) & (verdicts["verdict"] != NOT_TESTED)
    judged = verdicts[here]
    found = "; ".join(f"{row.claim}: **{row.verdict}**" for row in judged.itertuples())
    runs = ", ".join(f"`{arm}-seed*`" for arm in arms)
    return (
        f"## {number}\n\n![{number}, as measured here]({name}.png)\n\nThe paper: {claim}. "
        f"{f'Judged here: {found}. ' if found else ''}[SVG]({name}.svg); run records {runs}, made by "
        f"`python -m hicra experiments --conditions {' '.join(arms)}`.\n"
    )


def _afterwards(table: pd.DataFrame) -> str:
    lines = ["| question | statistic | ours | seeds |", "|---|---|---|---|"]
    lines += [f"| {r.question} | `{r.statistic}` | {measured(r)} | {r.seeds} |" for r in table.itertuples()]
    return "\n".join(lines)


def _model_section(records: Path | str, out: Path, order: Sequence[str]) -> tuple[str, list[Path]]:
    """The gallery's section on a language model's runs, and the files that it shows."""
    data, name = load_experiments(records, order), Path(records).name
    table, written, shown = learning_table(data.runs), [], []
    for entry in ENTRIES:
        if set(entry.arms) <= set(data.arms):
            written += save(entry.draw(data.study, entry.arms), out, f"{name}_{entry.name}")
            image = f"![{entry.number}, as measured here]({name}_{entry.name}.png)"
            shown.append(f"{image}\n\nThe paper, {entry.number}: {entry.claim}.\n")
    write_atomic(out / f"{name}_accuracy.csv", table.round(4).to_csv(index=False))
    told = {"name": name, "world": data.study.world, "n": len(data.runs), "table": table_markdown(table)}
    return MODEL.format(**told) + "\n".join(shown), [*written, out / f"{name}_accuracy.csv"]


GALLERY = """# Gallery

Drawn by `make figures` from the {n} run records in `data/experiments` (made by `make experiments`), with no
model. World: {world}.

Each figure answers the paper's of the same number, its panels in the same order. Fig. 6 and 13, two marked
traces of a HICRA run, are a page: [fig13_traces.html](fig13_traces.html).

## Verdicts

By the rules of [data/claims.yaml](../data/claims.yaml), written before the runs. "Ours" is the mean over
seeds, in brackets the 95 % interval that the verdict goes by: the wider ends of a paired bootstrap and
Student's t ([verdicts.csv](verdicts.csv) has both). A statistic is a quantity of
`hicra/study/verdicts/run_quantities.py` and the arms it is added and subtracted over.

{verdicts}

### Looked at afterwards

No rule was fixed for these, so there is no verdict: mean and 95 % t-interval over seeds.
[afterwards.csv](afterwards.csv)

{afterwards}

## Takeaway 3: which metric is a compass?

Rank correlation with what is gained later, mean and 95 % t-interval over seeds, over the arms from the
stronger base. Within runs: a metric's mean of 5 steps with the gain in training reward over the next 10 (the
number of the step is the null: whatever falls all along predicts gains that shrink all along). Across runs of
one seed: a metric at step 20 with the held-out accuracy gained from there to the end.
[compass.csv](compass.csv)

{compass}

## Table 1

Accuracy at the end on held-out problems, mean and 95 % t-interval over seeds, and the paired difference to
GRPO from the same base. The paper's columns are the mean over its six benchmarks for Qwen2.5-7B-Base, and for
the weak base Llama-3.1-8B-Instruct: another world, for the order of arms alone.
[table1_accuracy.csv](table1_accuracy.csv)

{table1_accuracy}

## Table 2

Which phrases are strategic? The paper asked people; here the world's exact spans are the judge: a phrase is
strategic where most of its occurrences in GRPO's kept rollouts lie within a planning phrase.
[table2_strategic.csv](table2_strategic.csv)

{table2_strategic}

"""

MODEL = """## A language model: {world}

From {n} run records in `data/{name}` (`python -m hicra experiments --profile {name}`). No verdict rests on
them. Intervals are over problems, not over seeds: another seed may end elsewhere.
[{name}_accuracy.csv]({name}_accuracy.csv)

{table}

"""
