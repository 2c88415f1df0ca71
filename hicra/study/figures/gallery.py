"""Every figure and table of the paper that the committed run records can answer, in one call.

The same records give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hicra.errors import HicraError
from hicra.files import data_root, write_atomic
from hicra.lexicon.lexicon import Lexicon
from hicra.planning.trace_page import rollout_html, save_html
from hicra.study.figures.catalogue import Drawing, Experiments, Told, drawings, load_experiments
from hicra.study.figures.equation_effects import arm_table, equation_effects
from hicra.study.figures.marked_text import marked_text
from hicra.study.figures.style import ARMS, save
from hicra.study.figures.tables import (
    accuracy_table,
    learning_table,
    measured,
    strategic_table,
    table_markdown,
    verdict_markdown,
)
from hicra.study.verdicts.claims import (
    NOT_TESTED,
    Claims,
    afterwards_table,
    load_claims,
    power_table,
    verdict_counts,
    verdict_table,
)

DIGITS = 6  # in CSV files: enough that rounding them again gives what the page says
# Of a language model's few runs: no grid of base policies.
OF_A_MODEL = (
    *("fig01_overview", "fig02_two_phase", "fig03_errors", "fig04_hicra_vs_grpo"),
    *("fig11_compass", "fig12_entropy_overlap"),
)


def build_gallery(
    records: Path | str,
    claims: Path | str,
    out: Path | str,
    *,
    pilots: Path | str,
    order: Sequence[str] = tuple(ARMS),
    models: Sequence[Path | str] = (),
) -> list[Path]:
    """Draw every figure, write the tables, and the gallery page README.md.

    `models` are folders with the runs of language models; each gets a section of its own, with verdicts where
    the folder holds a claims.yaml. `pilots` holds runs that decide nothing and tell the power.

    Raises RunError where a folder holds no finished run, ClaimError for a claims file it cannot use,
    HicraError for records that are not of the claims' world.
    """
    data, rules, out = load_experiments(records, order), load_claims(claims), Path(out)
    if "marked_connectives" not in data.values:
        raise HicraError(
            f"the runs in {records} are on {data.study.world!r}, whose problems are not made: no claim is of "
            "them; give the folder by --models"
        )
    others = {Path(folder).name: load_experiments(folder, order) for folder in models}
    with_claims = [path for path in map(Path, models) if (path / "claims.yaml").is_file()]
    own_rules = {path.name: load_claims(path / "claims.yaml") for path in with_claims}
    judged = {name: _verdicts(own, others[name].values) for name, own in own_rules.items()}
    verdicts = _verdicts(rules, data.values)
    tables = {
        "arms": arm_table(data.values, order),
        "table1_accuracy": accuracy_table(data.values),
        "table2_strategic": strategic_table(data.completions("grpo"), data.lexicon),
        "compass": data.correlations(),
        "afterwards": afterwards_table(rules, data.values),
        "power": power_table(rules, load_experiments(pilots, order).values),
        "verdicts": _flat(verdicts),
    }
    tables |= {f"{name}_accuracy": learning_table(other.answers()) for name, other in others.items()}
    tables |= {f"{name}_verdicts": _flat(table) for name, table in judged.items()}
    made = {name: other.values for name, other in others.items() if _has_effects(other)}
    tables |= {f"{name}_arms": arm_table(own, order).dropna(axis=1, how="all") for name, own in made.items()}
    written, pages = save(equation_effects(data.values, data.study.world, order), out, "equation_effects"), []
    for name, drawing in drawings(data).items():
        written += save(drawing.draw(), out, name)
        pages.append(_page(name, drawing, Told(data.values), verdicts))
    written += [*_marked_trace(out), *_traces(data, out)]
    sections = []
    for name, other in others.items():
        own = UNJUDGED
        if name in judged:
            shown = {"counts": counts_markdown(judged[name]), "name": name}
            own = JUDGED.format(**shown, verdicts=verdict_markdown(judged[name], own_rules[name].questions))
        if name in made:
            written += save(equation_effects(made[name], other.study.world, order), out, f"{name}_effects")
            own += EFFECTS.format(name=name, table=table_markdown(tables[f"{name}_arms"]))
        page, files = _model_section(name, other, tables[f"{name}_accuracy"], own, out)
        sections.append(page)
        written += files
    for name, frame in tables.items():
        write_atomic(out / f"{name}.csv", frame.round(DIGITS).to_csv(index=False))
        written.append(out / f"{name}.csv")
    shown = {name: table_markdown(frame) for name, frame in tables.items()}
    shown |= {"verdicts": verdict_markdown(verdicts, rules.questions)}
    shown |= {"afterwards": _afterwards(tables["afterwards"]), "counts": counts_markdown(verdicts)}
    elsewhere = len(data.values) - len(data.runs)
    others_told = f", and {elsewhere} of problems of equal difficulty" if elsewhere else ""
    told = {"world": data.study.world, "n": len(data.runs), "others": others_told}
    told |= {"figures": "\n".join(pages), "models": "\n".join(sections)}
    write_atomic(out / "README.md", GALLERY.format(**told, **shown))
    return [*written, out / "README.md"]


def _has_effects(data: Experiments) -> bool:
    """Whether arms can be compared with GRPO by their words, which are known where problems are made."""
    return "marked_connectives" in data.values and "grpo" in data.arms and len(data.one_start) > 1


def _verdicts(rules: Claims, values: pd.DataFrame) -> pd.DataFrame:
    """The table of verdicts, rounded, so that page and CSV file round the same numbers."""
    return verdict_table(rules, values).round(DIGITS)


def counts_markdown(verdicts: pd.DataFrame) -> str:
    """The number of claims and of each verdict, in a sentence."""
    counts = [f"{n} {verdict}" for verdict, n in verdict_counts(verdicts).items()]
    return f"Of {len(verdicts)} claims: {', '.join(counts)}."


def _page(name: str, drawing: Drawing, told: Told, verdicts: pd.DataFrame) -> str:
    """A figure under the paper's claim and what was found, with the verdicts and records behind it."""
    named = verdicts["figures"].map(lambda figures: drawing.number in figures)
    judged = verdicts[named & (verdicts["verdict"] != NOT_TESTED)]
    counts = ", ".join(f"{n} {verdict}" for verdict, n in verdict_counts(judged).items() if n)
    runs = ", ".join(f"`{arm}-seed*`" for arm in drawing.arms)
    command = f"`python -m hicra experiments --conditions {' '.join(drawing.arms)}`"
    parts = [
        f"### {drawing.number}",
        f"The paper: {drawing.claim}.",
        f"Here: {f'**{counts}.** ' if counts else ''}{drawing.answer(told)}",
        f"![{drawing.number}, as measured here]({name}.png)",
        "\n".join(f"- {row.claim}: **{row.verdict}**" for row in judged.itertuples()),
        f"[SVG]({name}.svg), [PDF]({name}.pdf). Run records {runs}, made by {command}.\n",
    ]
    return "\n\n".join(filter(None, parts))


def _marked_trace(out: Path) -> list[Path]:
    """Fig. 6: the example trace that ships, with the paper's Strategic Grams marked."""
    trace = json.loads((data_root() / "examples/trace.json").read_text())
    spans = [(found.start, found.end) for found in Lexicon.load("listing1").find(trace["text"])]
    figure = marked_text(trace["text"], spans, title=trace["problem"], note=trace["source"])
    return save(figure, out, "marked_trace")


def _traces(data: Experiments, out: Path) -> list[Path]:
    """Fig. 13: the first and the last kept rollout of a HICRA run, where there is one."""
    if not (runs := data.runs_of("hicra")):
        return []
    rows = runs[0].read("rollouts.jsonl")
    title = f"{runs[0].path.name}, first and last kept rollout. {data.study.world}"
    save_html([rollout_html(rows[0]), rollout_html(rows[-1])], out / "fig13_traces.html", title=title)
    return [out / "fig13_traces.html"]


def _afterwards(table: pd.DataFrame) -> str:
    lines = ["| question | statistic | ours | seeds |", "|---|---|---|---|"]
    lines += [f"| {r.question} | `{r.statistic}` | {measured(r)} | {r.seeds} |" for r in table.itertuples()]
    return "\n".join(lines)


def _flat(verdicts: pd.DataFrame) -> pd.DataFrame:
    return verdicts.assign(figures=verdicts["figures"].str.join("; "))


def _model_section(
    name: str, data: Experiments, table: pd.DataFrame, judged: str, out: Path
) -> tuple[str, list[Path]]:
    """The gallery's section on a language model's runs, and the figures that it shows."""
    written, shown = [], []
    for figure, drawing in drawings(data).items():
        if figure in OF_A_MODEL:
            written += save(drawing.draw(), out, f"{name}_{figure}")
            image = f"![{drawing.number}, as measured here]({name}_{figure}.png)"
            answer = drawing.answer(Told(data.values))
            claim = f"The paper: {drawing.claim}."
            files = f"[SVG]({name}_{figure}.svg), [PDF]({name}_{figure}.pdf)."
            shown.append(f"### {drawing.number}, {name}\n\n{claim}\n\nHere: {answer}\n\n{image}\n\n{files}\n")
    told = {"name": name, "world": data.study.world, "n": len(data.runs), "table": table_markdown(table)}
    told["judged"] = judged
    return MODEL.format(**told) + "\n".join(shown), written


GALLERY = """# Gallery

`make figures` draws all of this from the run records in `data/families/records` (made by
`make experiments`), without a model: {n} runs of the main world{others}.
Model and data: {world}.

**{counts}** Each claim has its row in the [last table](#verdicts); one whose runs are not all made yet is not
tested here.

## What HICRA's equation does

HICRA is a factor on planning credit plus a bonus for every planning token, right or wrong
([docs/equation.md](../docs/equation.md)). What each arm does to words, planning and speed, and HICRA's gain
in parts:

![What each arm does to words, planning and speed, and HICRA's gain in parts](equation_effects.png)

[SVG](equation_effects.svg), [PDF](equation_effects.pdf).

Means over seeds, late in the run unless named otherwise; arms with fewer seeds are not comparable by these
alone. HICRA's factor is the mean one that its equation puts on planning credit; for other arms, the one that
it would have put on theirs. [arms.csv](arms.csv)

{arms}

## Figures

Each answers the paper's figure of the same number. Numbers are means over seeds with a 95 % interval, the
union of a bootstrap's and Student's t; a verdict's own statistic is in the last table. Changes run from the
mean of a run's first five steps to that of its last five.

{figures}
### Fig. 6 and 13

Not a claim, but what a planning token is: a language model's solution with the paper's Strategic Grams
marked.

![A model's reasoning with its Strategic Grams marked](marked_trace.png)

[SVG](marked_trace.svg), [PDF](marked_trace.pdf). Two traces of a HICRA run, with the high-entropy tokens
marked too, are a page: [fig13_traces.html](fig13_traces.html).

{models}
## Tables

### Table 1: accuracy

Accuracy on held-out problems at the end of training and at temperature 1, the mean over seeds with its 95 %
interval, and the difference to GRPO from the same base and problems, paired by seed. The paper's columns are
means over its six benchmarks, for Qwen2.5-7B-Base. That is a different setting: compare only the ranking of
the arms. [table1_accuracy.csv](table1_accuracy.csv); `results_families.csv` is of notebook 04, by the last
evaluation in training.

{table1_accuracy}

### Table 2: which phrases are strategic?

The paper asked people; here the exact spans of a made world are the judge. A phrase is strategic if most of
its occurrences in GRPO's kept rollouts lie within a planning phrase.
[table2_strategic.csv](table2_strategic.csv)

{table2_strategic}

### Takeaway 3: which metric predicts later gains?

Rank correlation with the gains that follow, the mean over seeds with its 95 % interval, over the arms from
one base. Within runs: a metric's mean over 5 steps with the gain in training reward over the next
ten. The number of the step is the null: whatever falls throughout predicts gains that shrink throughout.
Across the runs of one seed: a metric at the first evaluation after the start with the held-out accuracy
gained from there to the end. [compass.csv](compass.csv)

{compass}

### Looked at afterwards

No rule was fixed for these questions before the runs, so they get no verdict: mean and 95 % t-interval over
seeds. [afterwards.csv](afterwards.csv)

{afterwards}

## Power

How likely a claim is to be replicated if that is the true effect, by the spread over the seeds of pilots,
which decide nothing (`data/families/pilots`). [power.csv](power.csv)

{power}

## Verdicts

By the rules of [data/families/claims.yaml](../data/families/claims.yaml), written before the runs. A claim is
replicated if its rule holds for the whole interval, contradicted if the opposite does or if the interval lies
within the margin that the claim names, and undecided if the interval is compatible with both. "Ours" is the
mean over seeds and, in brackets, the 95 % interval that the verdict is based on: it reaches from the lower to
the higher end of a paired bootstrap and Student's t ([verdicts.csv](verdicts.csv) has both). A statistic is a
quantity of `hicra/study/verdicts/families_quantities.py` or `run_quantities.py`, added and subtracted over
arms. Power is the chance that a true effect of that size would have been found with as many seeds, spread as
these are.

{verdicts}
"""

MODEL = """## A language model: {world}

From {n} run records in `data/{name}`. {judged}

### Accuracy, {name}

Intervals are over problems, not over seeds: another seed may end elsewhere.
[{name}_accuracy.csv]({name}_accuracy.csv)

{table}

"""
UNJUDGED = "No verdict rests on them."
JUDGED = """**{counts}** By the rules of [claims.yaml](../data/{name}/claims.yaml), written before the runs,
whose head says by which command they are made ([{name}_verdicts.csv]({name}_verdicts.csv)).

{verdicts}"""
EFFECTS = """

### What each arm does, {name}

What no claim names, or what lacks the seeds of its claim, was looked at and decides nothing.

![What each arm does to words, planning and length]({name}_effects.png)

[SVG]({name}_effects.svg), [PDF]({name}_effects.pdf). Means over seeds ([{name}_arms.csv]({name}_arms.csv)):

{table}"""
