"""The paper's tables from run records, with its numbers beside ours, and tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hicra.lexicon.lexicon import Lexicon
from hicra.study.figures.style import arm_name
from hicra.study.problems.sandbox_truth import true_spans
from hicra.study.record.run_folder import RunFolder
from hicra.study.verdicts.human_annotation import judged_by_truth
from hicra.study.verdicts.intervals import interval

# Means over the six benchmarks of the paper's Table 1: Qwen2.5-7B-Base, for weak arms Llama-3.1-8B-Instruct.
PAPER_TABLE_1 = {
    "base": 0.2742,
    "weak-base": 0.1778,
    "grpo": 0.3845,
    "hicra": 0.4223,
    "high_entropy": 0.3875,
    "placebo": 0.3818,
    "entropy_reg": 0.3778,
    "weak-grpo": 0.2248,
    "weak-hicra": 0.2300,
}
PAPER_TABLE_2 = {"gram": 0.86, "other": 0.12}  # shares that people called strategic


def accuracy_table(values: pd.DataFrame) -> pd.DataFrame:
    """Table 1: held-out accuracy of each arm at the end, and of its base before training; with the paper's.

    Differences to GRPO from the same base are paired by seed.
    """
    wide = values["final_accuracy"].unstack("arm")  # (seeds, arms)
    rows = []
    for arm in dict.fromkeys(values.index.get_level_values("arm")):
        weak = "weak-" if arm.startswith("weak-") else ""
        if arm == f"{weak}grpo":
            rows.append(_level(f"{weak}base", values["base_accuracy"].unstack("arm")[arm]))
        row = _level(arm, wide[arm])
        if arm != f"{weak}grpo" and f"{weak}grpo" in wide:
            gap = interval((wide[arm] - wide[f"{weak}grpo"]).dropna())
            row |= {"minus GRPO": gap.mean, "minus low": gap.low, "minus high": gap.high}
            if arm in PAPER_TABLE_1:
                row["paper minus GRPO"] = PAPER_TABLE_1[arm] - PAPER_TABLE_1[f"{weak}grpo"]
        rows.append(row)
    return pd.DataFrame(rows)


def _level(arm: str, accuracy: pd.Series) -> dict:
    mean, low, high, n = interval(accuracy.dropna())
    told = {"arm": arm_name(arm), "seeds": n, "accuracy": mean, "low": low, "high": high}
    return {**told, "paper": PAPER_TABLE_1.get(arm)}


def learning_table(runs: Sequence[RunFolder], baseline: str = "grpo") -> pd.DataFrame:
    """Held-out accuracy before and after each run, its gain, and the difference to `baseline` of that seed.

    For runs too few for intervals over seeds: these are 95 % t-intervals over problems, paired where two
    policies answered the same ones. They say nothing of another seed.
    """
    ends, rows = {}, []
    for run in runs:
        arm, seed = run.condition, run.seed
        before, *_, after = (np.divide(e["right"], e["n"] / len(e["right"])) for e in run.read("evals.jsonl"))
        ends[arm, seed] = after  # (P,), shares of a problem's samples
        shown = {"before": before, "after": after, "gain": after - before}
        if arm != baseline and (baseline, seed) in ends:
            shown[f"minus {arm_name(baseline)}, after"] = after - ends[baseline, seed]
        for quantity, shares in shown.items():
            mean, low, high, n = interval(shares)
            told = {"arm": arm_name(arm), "seed": seed, "accuracy": quantity, "share": mean}
            rows.append({**told, "low": low, "high": high, "problems": n})
    return pd.DataFrame(rows)


def strategic_table(runs: Sequence[RunFolder]) -> pd.DataFrame:
    """Table 2's counterpart: Strategic Grams and other n-grams of GRPO's kept rollouts, judged by the world.

    The paper asked people; their answers stand beside ours, which are exact and need nobody.
    """
    plain = [run for run in runs if run.condition == "grpo"]
    texts = [row["completion"] for run in plain for row in run.read("rollouts.jsonl")]
    lexicons = {run.manifest()["settings"]["lexicon"] for run in plain}
    tables = [judged_by_truth(Lexicon.load(name), texts, true_spans) for name in sorted(lexicons)]
    table = pd.concat(tables) if tables else pd.DataFrame(columns=["kind", "phrases", "strategic"])
    return table.assign(paper=table["kind"].map(PAPER_TABLE_2))


def table_markdown(table: pd.DataFrame) -> str:
    """A table as Markdown: three decimals, nothing where there is no number."""
    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    for row in table.itertuples(index=False):
        cells = ["" if pd.isna(v) else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict_markdown(table: pd.DataFrame) -> str:
    """The verdict table as Markdown, short enough to read."""
    lines = ["| claim | paper | statistic | ours | seeds | verdict |", "|---|---|---|---|---|---|"]
    for row in table.itertuples():
        verdict = f"**{row.verdict}**" + (f": {row.note}" if row.note else "")
        statistic = f"`{row.statistic}`" if pd.notna(row.statistic) else ""
        told = (f"{row.claim} ({row.where})", row.paper, statistic, measured(row), row.seeds, verdict)
        lines.append("| " + " | ".join(map(str, told)) + " |")
    return "\n".join(lines)


def measured(row) -> str:
    """A row's statistic with its interval and unit, to the digits that tell it from zero."""
    if pd.isna(row.ours):
        return ""
    digits = 3 if max(abs(row.low), abs(row.high)) >= 0.01 else 4
    mean, low, high = (f"{value:+.{digits}f}" for value in (row.ours, row.low, row.high))
    return f"{mean} [{low}, {high}] {row.unit}"
