"""What notebooks show beside figures: answers in a sentence, small tables, readiness, versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from hicra.study.training.preflight import Check

import pandas as pd
from IPython.display import Markdown, Pretty, display
from matplotlib.figure import Figure

from hicra.study.figures.catalogue import Drawing
from hicra.study.record.run_folder import RunFolder
from hicra.study.record.run_tables import Study
from hicra.study.training.settings import PACKAGES
from hicra.study.verdicts.families_quantities import of_steps
from hicra.study.verdicts.intervals import paired_interval
from hicra.study.verdicts.windows import EDGE


def versions() -> pd.DataFrame:
    """The packages that decide the numbers, as a table."""
    return pd.DataFrame({"version": {name: version(name) for name in PACKAGES}})


def live_line() -> Callable[[str], None]:
    """A function that replaces the text it showed before, in the cell that called this."""
    handle = display(Pretty("starting"), display_id=True)
    return lambda line: handle.update(Pretty(line))


def ready(checks: Sequence[Check]) -> Markdown | pd.DataFrame:
    """One line where a machine is ready, else the checks that are not."""
    wrong = [check for check in checks if check.verdict != "ok"]
    if not wrong:
        return Markdown(f"This machine is ready: {len(checks)} checks passed.")
    return pd.DataFrame(wrong).set_index("name")


def answers(verdicts: pd.DataFrame, *ids: str) -> Markdown:
    """The verdicts on these claims, a sentence each with its number and interval."""
    rows = verdicts.set_index("id").loc[list(ids)].itertuples()
    return Markdown("\n".join(f"- **{row.claim}: {row.verdict}.** {_number(row)}" for row in rows))


def observed(verdicts: pd.DataFrame, *ids: str) -> Markdown:
    """The verdicts of real runs on these claims: a line a claim and source, with every lexicon's interval."""
    lines = []
    for _, row in verdicts[verdicts["id"].isin(ids)].iterrows():
        names = [c for c in row.index if f"{c}_low" in row.index and pd.notna(row[c])]
        spans = {c: f"({row[f'{c}_low']:+.2f} to {row[f'{c}_high']:+.2f})" for c in names}
        told = (f"{'change' if c == 'any' else c} {row[c]:+.2f} {spans[c]}" for c in names)
        lines.append(f"- {row['claim']}, {row['source']}: **{row['verdict']}**: {', '.join(told)}")
    return Markdown("\n".join(lines))


def _number(row) -> str:
    if pd.isna(row.ours):
        return f"{row.note}."
    interval = f"95 % interval {row.low:+.3f} to {row.high:+.3f}, {row.seeds:.0f} seeds"
    return f"{row.ours:+.3f} {row.unit} ({interval})."


def phases(study: Study) -> Markdown:
    """What these runs say of the paper's two phases: their last steps against their first."""
    first, last = _ends(study.steps)
    evals = study.evals.sort_values("step").groupby("seed")["accuracy"]
    accuracy = evals.first().mean(), evals.last().mean()
    perplexity = last["perplexity_execution"] / first["perplexity_execution"] - 1
    plain, matched = (last[name] - first[name] for name in ("semantic_entropy", "semantic_entropy_matched"))
    return Markdown(
        f"**Held-out accuracy went from {accuracy[0]:.2f} to {accuracy[1]:.2f}** (mean over {len(evals)} "
        f"seeds). Perplexity of execution tokens changed by {perplexity:+.1%}: the first phase "
        f"{_shows(perplexity < 0)}. Semantic entropy changed by {plain:+.2f} bits, matched for the number of "
        f"occurrences by {matched:+.2f}: the second phase {_shows(min(plain, matched) > 0)}."
    )


def _ends(steps: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Means of the quantities of `phases` over the first and the last steps of all runs."""
    columns = ["perplexity_execution", "semantic_entropy", "semantic_entropy_matched"]
    runs = steps.sort_values("step").groupby("seed")[columns]
    return runs.head(EDGE).mean(), runs.tail(EDGE).mean()


def _shows(holds: bool) -> str:
    return "shows" if holds else "does not show"


def drawn(figures: Mapping[str, Drawing], name: str) -> Figure | Markdown:
    """A figure of `catalogue.drawings`, or that its runs are not all made yet."""
    if name in figures:
        return figures[name].draw()
    return Markdown(f"`{name}` is not drawn: not all of its runs have been made.")


def strategies(runs: Sequence[RunFolder]) -> Markdown:
    """How the entropy of strategies changed from the first steps to the last, in its two parts."""
    ends = _choices(runs)
    if ends is None:
        return Markdown(NOT_MADE)
    first, last = ends.groupby("when").mean().loc[["first", "last"]].to_dict("records")
    told = {name: f"{first[name]:.2f} to {last[name]:.2f}" for name in first}
    return Markdown(
        f"**H(S) went from {told['strategies']} bits**, H(S given X) from {told['within_families']} and "
        f"I(S; X) from {told['specialised']} (means over {len(runs)} seeds). The share of completions "
        f"that take the family's own strategy went from {told['fitting']}."
    )


def phrases(runs: Sequence[RunFolder]) -> pd.DataFrame | Markdown:
    """How marked words that change nothing, planning and length changed, by arm, means over seeds."""
    ends = _choices(runs)
    if ends is None:
        return Markdown(NOT_MADE)
    means = ends.groupby(["arm", "when"])[list(PHRASES)].mean()
    return (means.xs("last", level="when") - means.xs("first", level="when")).rename(columns=PHRASES).round(3)


PHRASES = {
    "marked_connectives": "marked connectives, log odds",
    "planning": "planning tokens, share",
    "looks": "second looks",
    "tokens": "tokens",
}
NOT_MADE = "These problems are not made, so their right strategy and neutral words are not known."


def _choices(runs: Sequence[RunFolder]) -> pd.DataFrame | None:
    """What completions chose in the first and the last EDGE steps of each run; None where it is not known."""
    rows = []
    for run in runs:
        steps = run.read("steps.jsonl")
        if "plans" not in steps[0]:
            return None
        for when, part in (("first", steps[:EDGE]), ("last", steps[-EDGE:])):
            rows.append({"arm": run.condition, "when": when, **of_steps(part)})
    return pd.DataFrame(rows).set_index(["arm", "when"])


def against_grpo(study: Study, arm: str, runs: Sequence[RunFolder]) -> Markdown:
    """`arm` against GRPO on the seeds both have, and how many tokens' credit `runs` of it changed."""
    final = study.evals.sort_values("step").groupby(["arm", "seed"])["accuracy"].last()
    found = paired_interval(final[arm], final["grpo"])
    rows = [row for run in runs for row in run.read("steps.jsonl")]
    n_tokens = sum(row["n_planning"] + row["n_execution"] for row in rows)
    share = sum(row["n_credit_changed"] for row in rows) / n_tokens
    reading = "higher" if found.low > 0 else "lower" if found.high < 0 else "the seeds cannot tell them apart"
    interval = f"95 % interval {found.low:+.3f} to {found.high:+.3f}, {found.n} seeds"
    interval = interval if found.n > 1 else "one seed, no interval"
    return Markdown(
        f"**Final held-out accuracy, {arm} minus GRPO: {found.mean:+.3f}** "
        f"({interval}): {reading}. The credit of {share:.0%} of all "
        "tokens changed; the others do not plan, or stand in groups whose answers all scored alike."
    )
