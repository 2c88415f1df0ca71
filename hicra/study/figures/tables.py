"""The paper's tables beside ours, and tables as Markdown: tables in, tables or text out."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pandas as pd

from hicra.lexicon.lexicon import Lexicon
from hicra.study.figures.style import ELSEWHERE, arm_name
from hicra.study.problems.families_truth import true_spans
from hicra.study.verdicts.human_annotation import judged_by_truth
from hicra.study.verdicts.intervals import bootstrap_interval, interval, judged_interval, share_interval

# Means over the six benchmarks of the paper's Table 1, Qwen2.5-7B-Base.
PAPER_TABLE_1 = {
    "base": Decimal("0.2742"),
    "grpo": Decimal("0.3845"),
    "hicra": Decimal("0.4223"),
    "high_entropy": Decimal("0.3875"),
    "placebo": Decimal("0.3818"),
    "entropy_reg": Decimal("0.3778"),
}
PAPER_TABLE_2 = {"gram": 0.86, "other": 0.12}  # shares that people called strategic


def final_accuracy(values: pd.DataFrame) -> str:
    """The quantity that is accuracy at the end: the last score of many samples where all runs have one, else
    the last evaluation, both at temperature 1."""
    scored = "final_accuracy_1" in values and values["final_accuracy_1"].notna().all()
    return "final_accuracy_1" if scored else "final_accuracy"


def accuracy_table(values: pd.DataFrame) -> pd.DataFrame:
    """Table 1: held-out accuracy of each arm at the end, and of its base before training; with the paper's.

    Differences to GRPO from the same base and problems are paired by seed. The paper's values are rounded
    here, once, so that they read the same wherever the table is printed.
    """
    wide = values[final_accuracy(values)].unstack("arm")  # (seeds, arms)
    rows = []
    for arm in dict.fromkeys(values.index.get_level_values("arm")):
        place = next((prefix for prefix in ELSEWHERE if arm.startswith(prefix)), "")
        baseline = f"{place}grpo"
        if arm == baseline:
            rows.append(_level(f"{place}base", values["base_accuracy"].unstack("arm")[arm]))
        row = _level(arm, wide[arm])
        if arm != baseline and baseline in wide:
            gap = interval((wide[arm] - wide[baseline]).dropna())
            row |= {"minus GRPO": gap.mean, "minus low": gap.low, "minus high": gap.high}
            if arm in PAPER_TABLE_1:
                row["paper minus GRPO"] = _three_digits(PAPER_TABLE_1[arm] - PAPER_TABLE_1["grpo"])
        rows.append(row)
    return pd.DataFrame(rows)


def _level(arm: str, accuracy: pd.Series) -> dict:
    mean, low, high, n = share_interval(accuracy.dropna())
    told = {"arm": arm_name(arm), "seeds": n, "accuracy": mean, "low": low, "high": high}
    return told | {"paper": _three_digits(PAPER_TABLE_1[arm]) if arm in PAPER_TABLE_1 else None}


def _three_digits(value: Decimal) -> float:
    return float(value.quantize(Decimal("0.001"), ROUND_HALF_UP))


def learning_table(answers: pd.DataFrame, baseline: str = "grpo") -> pd.DataFrame:
    """Held-out accuracy before and after each run, its gain, and the difference to `baseline` of that seed.

    `answers` has one row per run, evaluation and problem: arm, seed, step, problem, and share, that of the
    right answers. For runs too few for intervals over seeds: these are 95 % intervals over problems, by
    bootstrap for accuracies, so that they stay within 0 and 1, and by Student's t for differences, paired
    where two policies answered the same problems. They say nothing of another seed.
    """
    ends, rows = {}, []
    for (arm, seed), run in answers.groupby(["arm", "seed"], sort=False):
        wide = run.pivot(index="problem", columns="step", values="share")  # (problems, evaluations)
        before, after = wide.iloc[:, 0], wide.iloc[:, -1]
        ends[arm, seed] = after
        shown = {"before": before, "after": after, "gain": after - before}
        if arm != baseline and (baseline, seed) in ends:
            shown[f"minus {arm_name(baseline)}, after"] = after - ends[baseline, seed]
        for quantity, shares in shown.items():
            told = {"arm": arm_name(arm), "seed": seed, "accuracy": quantity, "share": shares.mean()}
            of_share = quantity in ("before", "after")
            low, high = bootstrap_interval(shares) if of_share else interval(shares)[1:3]
            rows.append({**told, "low": low, "high": high, "problems": len(shares)})
    return pd.DataFrame(rows)


def strategic_table(completions: pd.Series, lexicon: Lexicon) -> pd.DataFrame:
    """Table 2's counterpart: Strategic Grams and other n-grams of `completions`, by the made world's truth.

    The paper asked people; their answers stand beside ours, which are exact and need nobody.
    """
    table = judged_by_truth(lexicon, completions, true_spans)
    return table.assign(paper=table["kind"].map(PAPER_TABLE_2))


def table_markdown(table: pd.DataFrame) -> str:
    """A table as Markdown: three decimals, nothing where there is no number."""
    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    for row in table.itertuples(index=False):
        cells = ["" if pd.isna(v) else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict_markdown(table: pd.DataFrame, questions: dict[str, str]) -> str:
    """The verdict table as Markdown, one table a question."""
    head = "| claim | paper | statistic | ours | seeds | power | verdict |\n" + "|---" * 7 + "|"
    parts = []
    for question, text in questions.items():
        rows = [_verdict_row(row) for row in table[table["question"] == question].itertuples()]
        parts.append("\n".join([f"**{text}**\n", head, *rows]))
    return "\n\n".join(parts)


def _verdict_row(row) -> str:
    verdict = f"**{row.verdict}**" + (f": {row.note}" if row.note else "")
    statistic = f"`{row.statistic}`" if pd.notna(row.statistic) else ""
    told = (f"{row.claim} ({row.where})", row.paper, statistic, measured(row), row.seeds, row.power, verdict)
    return "| " + " | ".join(map(str, told)) + " |"


def measured(row) -> str:
    """A row's statistic with its interval and unit, to the digits that tell it from zero."""
    if pd.isna(row.ours):
        return ""
    digits = _digits(row.low, row.high)
    mean, low, high = (f"{value:+.{digits}f}" for value in (row.ours, row.low, row.high))
    return f"{mean} [{low}, {high}] {row.unit}"


def spoken(values: pd.Series) -> str:
    """The mean of one value a seed, for a sentence: "0.013 (-0.001 to 0.027)".

    The interval is the one that verdicts are based on; one seed has none.
    """
    if not len(values):
        return "(no value)"
    mean, low, high, n = judged_interval(values)
    if n < 2:
        return f"{mean:.{_digits(mean, mean)}f} (one seed)"
    digits = _digits(low, high)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _digits(low: float, high: float) -> int:
    return 3 if np.maximum(abs(low), abs(high)) >= 0.01 else 4
