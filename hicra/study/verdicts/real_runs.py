"""The paper's Takeaways asked of other people's RL runs, by the plan of data/real_runs_claims.yaml.

`measure_real_runs` turns their rollouts, which stay outside of the repository, into the derived numbers of
data/real_runs; `real_run_verdicts` judges by those numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from hicra.dynamics.measure import measure
from hicra.dynamics.readers import Fields
from hicra.files import iter_jsonl, study_data
from hicra.lexicon.lexicon import Lexicon, shipped
from hicra.study.verdicts.claims import ClaimError
from hicra.study.verdicts.intervals import interval

OBSERVED, OPPOSITE = "observed in real runs", "opposite observed in real runs"
HANGS, UNDECIDED = "depends on the lexicon", "undecided in real runs"
LAST = 1 << 30  # the step of a final checkpoint whose step is not known
NUMBERS = "real_runs/changes.csv"
FOLDED = {(True,): OBSERVED, (False,): OPPOSITE, (None,): UNDECIDED}


def load_plan(path: Path | str | None = None) -> dict:
    """The plan: sources, claims, lexicons, and the rule for collapsed runs."""
    plan = yaml.safe_load(Path(path or study_data("real_runs_claims.yaml")).read_text())
    for claim in plan["claims"]:
        if unknown := set(claim["of"]) - set(plan["sources"]):
            raise ClaimError(f"claim {claim['id']}: no source {', '.join(sorted(unknown))} in the plan")
    return plan


def measure_real_runs(
    folder: Path | str, plan: Mapping, lists: Path | str, report: Callable[[str], None] = lambda line: None
) -> pd.DataFrame:
    """Every quantity before and after of every run and lexicon, from the rollouts in `folder`.

    `lists` is a folder with strategic_grams_NAME.txt for lexicons that do not ship. Columns: source, run,
    collapsed, lexicon, quantity, unit, before, after, change, low, high, problems.
    """
    tables = []
    for source, spec in plan["sources"].items():
        logged = _logged(Path(folder), spec, plan["collapsed"])
        for run, (before, after, steps) in _runs(Path(folder), spec).items():
            for name in plan["lexicons"]:
                report(f"{source}, {run}, {name}")
                lexicon = _lexicon(name, Path(lists))
                table = _compare(before, after, steps, lexicon, plan["resamples"])
                tables.append(table.assign(source=source, run=run, lexicon=name, **logged(run)))
            if "metrics" in spec:
                tables.append(
                    _token_entropy(Path(folder), spec, run).assign(source=source, run=run, **logged(run))
                )
    table = pd.concat(tables, ignore_index=True)
    first = ["source", "run", "collapsed", "lexicon"]
    return table[[*first, *(column for column in table if column not in first)]]


def real_run_verdicts(plan: Mapping, table: pd.DataFrame) -> pd.DataFrame:
    """One row a claim and source: value and interval with every lexicon, and the verdict."""
    rows = []
    for claim in plan["claims"]:
        for source in claim["of"]:
            part = table[(table["source"] == source) & ~table["collapsed"]]
            found = {name: _value(claim["quantity"], part, name) for name in _lexicons(claim, part)}
            told = {
                "id": claim["id"],
                "claim": claim["claim"],
                "where": claim["where"],
                "paper": claim["paper"],
            }
            held = {_holds(claim["rule"], low, high) for _, low, high, _ in found.values()}
            verdict = FOLDED.get(tuple(held), HANGS)
            runs = max(n for *_, n in found.values())
            values = {
                f"{n}{end}": v
                for n, f in found.items()
                for end, v in zip(("", "_low", "_high"), f, strict=False)
            }
            rows.append({**told, "source": source, "runs": runs, **values, "verdict": verdict})
    return pd.DataFrame(rows)


def _lexicons(claim: Mapping, part: pd.DataFrame) -> list[str]:
    """The lexicons of a quantity; one name that stands for all where it needs none."""
    if claim["quantity"] in ("accuracy", "length", "token_entropy"):
        return ["any"]
    return list(part["lexicon"].dropna().unique())


def _value(quantity: str, part: pd.DataFrame, lexicon: str) -> tuple[float, float, float, int]:
    """Mean over runs with its interval over runs; of a single run its own interval over problems."""
    chosen = part if lexicon == "any" else part[part["lexicon"] == lexicon]
    if quantity == "diversity_and_gain":
        wide = chosen.pivot(index="run", columns="quantity", values="change")
        both = wide[["semantic_entropy_matched", "accuracy"]].dropna().to_numpy()  # (runs, 2)
        return _correlation(*both.T)
    rows = chosen[chosen["quantity"] == quantity].drop_duplicates("run").dropna(subset="change")
    if rows.empty:
        return math.nan, math.nan, math.nan, 0
    if len(rows) == 1:
        return *rows[["change", "low", "high"]].iloc[0], 1
    return tuple(interval(rows["change"]))


def _correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, int]:
    """Spearman's, with a 95 % percentile bootstrap over runs."""
    picks = np.random.default_rng(0).integers(len(x), size=(2000, len(x)))
    drawn = [stats.spearmanr(x[p], y[p]).statistic for p in picks if np.ptp(x[p]) > 0 and np.ptp(y[p]) > 0]
    return float(stats.spearmanr(x, y).statistic), *map(float, np.quantile(drawn, [0.025, 0.975])), len(x)


def _holds(rule: Mapping[str, float], low: float, high: float) -> bool | None:
    """Whether the rule holds, its opposite does (False), or neither (None)."""
    (kind, bound), *_ = rule.items()
    above, below = low > bound, high < bound
    if kind not in ("above", "below"):
        raise ClaimError(f"rule {dict(rule)}; give above or below")
    holds, opposite = (above, below) if kind == "above" else (below, above)
    return True if holds else False if opposite else None


# --- from rollouts to numbers ---


def _compare(before: list, after: list, steps: list, lexicon: Lexicon, resamples: int) -> pd.DataFrame:
    """The changes of one run, and how the grams' rise goes with success."""
    fields = Fields(text="response", step="at", problem="problem_id", correct="correct", run="one")
    ends = [row | {"at": at, "one": "run"} for at, rows in ((0, before), (1, after)) for row in rows]
    found = measure(ends, lexicon, fields=fields, resamples=resamples)
    whole = measure([row | {"one": "run"} for row in steps], lexicon, fields=fields, resamples=2)
    return pd.concat([found.changes.drop(columns="run"), _rise_and_success(found.grams, whole.success)])


def _rise_and_success(grams: pd.DataFrame, success: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation over grams, interval by Fisher's z (for a source of one run)."""
    both = grams.merge(success, on="gram", suffixes=("", "_success"))
    rho = stats.spearmanr(both["change"], both["difference"]).statistic if len(both) > 3 else math.nan
    half = 1.96 * math.sqrt(1.06 / (len(both) - 3)) if len(both) > 3 else math.nan
    low, high = np.tanh([np.arctanh(rho) - half, np.arctanh(rho) + half])
    row = {"quantity": "rise_and_success", "unit": "correlation", "change": rho, "low": low, "high": high}
    return pd.DataFrame([row | {"problems": len(both)}])  # here: grams


def _runs(folder: Path, spec: Mapping) -> dict[str, tuple[list, list, list]]:
    """Rows before, after, and all, of each run of a source; `at` is the step."""
    rows = [row for _, row in iter_jsonl(folder / spec["file"])]
    rows = [row for row in rows if all(row.get(k) in v for k, v in spec.get("keep", {}).items())]
    for row in rows:
        row["at"] = LAST if row["step"] is None else row["step"]
    if "shared_base" not in spec:
        names = sorted({row[spec["run"]] for row in rows}) if "run" in spec else ["ppo"]
        parts = {n: [row for row in rows if "run" not in spec or row[spec["run"]] == n] for n in names}
    else:
        base = [row for row in rows if _inside(row, spec["before"])]
        children = [row for row in rows if _inside(row, spec["after"])]
        parts = {}
        for name in sorted({row[spec["run"]] for row in children}):
            own = [row for row in children if row[spec["run"]] == name]
            shared = {row[spec["shared_base"]] for row in own}
            parts[name] = [row for row in base if row[spec["shared_base"]] in shared] + own
    return {
        name: (
            [r for r in part if _inside(r, spec["before"])],
            [r for r in part if _inside(r, spec["after"])],
            part,
        )
        for name, part in parts.items()
    }


def _inside(row: Mapping, where: Mapping) -> bool:
    """Whether a row lies in a window: a step within [first, last], or a field with one of the values."""
    for name, values in where.items():
        if name == "step" and None not in values:
            if row["step"] is None or not values[0] <= row["step"] <= values[1]:
                return False
        elif row[name] not in values:
            return False
    return True


def _lexicon(name: str, lists: Path) -> Lexicon:
    if name in shipped():
        return Lexicon.load(name)
    return Lexicon.from_grams((lists / f"strategic_grams_{name}.txt").read_text().splitlines(), name)


def _metrics(folder: Path, spec: Mapping, run: str) -> pd.DataFrame:
    """What the run's trainer logged, by step."""
    table = pd.read_csv(folder / spec["metrics"])
    table = table[(table["run"] == run) & (table["grpo_step"] > 0)]
    return table.assign(step=table["grpo_step"] - 1).set_index("step").sort_index()


def _logged(folder: Path, spec: Mapping, rule: Mapping) -> Callable[[str], dict[str, bool]]:
    if "metrics" not in spec:
        return lambda run: {"collapsed": False}
    return lambda run: {"collapsed": collapsed(_metrics(folder, spec, run), rule)}


def collapsed(logged: pd.DataFrame, rule: Mapping) -> bool:
    """The plan's rule: the reward has fallen from its best, or length doubled or halved for no reward."""
    n = rule["steps"]
    reward, tokens = logged["rollout_accuracy"], logged["rollout_tokens"]
    late, early = reward.iloc[-n:].mean(), reward.loc[20:59].mean()
    fallen = late < rule["share_of_best"] * reward.rolling(n).mean().max()
    factor = tokens.iloc[-n:].mean() / tokens.loc[20:59].mean()
    changed = factor > rule["length_factor"] or factor < 1 / rule["length_factor"]
    return bool(fallen or (changed and late <= early))


def _token_entropy(folder: Path, spec: Mapping, run: str) -> pd.DataFrame:
    logged = _metrics(folder, spec, run)["token_entropy"]
    before, after = (logged.loc[slice(*spec[end]["step"])].mean() for end in ("before", "after"))
    row = {"quantity": "token_entropy", "unit": "nats/token", "before": before, "after": after}
    return pd.DataFrame([row | {"change": after - before}])
