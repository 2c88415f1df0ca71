"""The paper's claims as rules on run records: data/claims.yaml in, a table of verdicts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from hicra.errors import HicraError
from hicra.files import data_root
from hicra.study.verdicts.intervals import interval
from hicra.study.verdicts.run_quantities import unit

RESAMPLES = 10_000
RULES = ("above", "below", "within")
REPLICATED, NOT_REPLICATED, NOT_TESTED = "replicated", "not replicated", "not tested here"


class ClaimError(HicraError):
    """A claims file that cannot be judged by; the message names the claim."""


class Claims(NamedTuple):
    """The claims in order, how many seeds a verdict needs, and questions asked after the runs."""

    claims: tuple[dict, ...]
    seeds: int
    afterwards: tuple[dict, ...] = ()


def load_claims(path: Path | str = "") -> Claims:
    """A claims file, or the study's own.

    Raises ClaimError for an unknown rule, a missing field or an id given twice.
    """
    path = Path(path) if path else data_root() / "claims.yaml"
    if not path.is_file():
        raise ClaimError(f"there is no claims file {path}; name one like data/claims.yaml")
    try:
        record = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ClaimError(f"{path} is not YAML ({' '.join(str(error).split())}); restore it") from error
    if not isinstance(record, dict) or not {"claims", "seeds"} <= set(record):
        raise ClaimError(f"{path} must name `seeds` and `claims`; restore it")
    seen: set[str] = set()
    for claim in record["claims"]:
        name = claim.get("id", "without id")
        wanted = {"id", "claim", "where", "paper"}
        wanted |= {"not_tested"} if "not_tested" in claim else {"quantity", "of", "rule"}
        if set(claim) != wanted:
            raise ClaimError(f"claim {name}: fields {sorted(claim)}; give {sorted(wanted)}")
        if name in seen:
            raise ClaimError(f"claim {name} stands twice; rename one")
        if "rule" in claim and (len(claim["rule"]) != 1 or set(claim["rule"]) - set(RULES)):
            raise ClaimError(f"claim {name}: rule {claim['rule']}; give one of {', '.join(RULES)}")
        seen.add(name)
    return Claims(tuple(record["claims"]), record["seeds"], tuple(record.get("afterwards", ())))


def verdict_table(claims: Claims, table: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: statistic, interval, verdict and note. `table` is `quantities`'.

    `low` and `high` are the union of the paired bootstrap and Student's t, by which the verdict is given.
    """
    told = ("id", "claim", "where", "paper")
    rows = [{k: c[k] for k in told} | _judge(c, table, claims.seeds) for c in claims.claims]
    intervals = ["low", "high", "boot_low", "boot_high", "t_low", "t_high"]
    columns = [*told, "statistic", "unit", "ours", *intervals, "seeds", "verdict", "note"]
    return pd.DataFrame(rows, columns=columns)


def afterwards_table(claims: Claims, table: pd.DataFrame) -> pd.DataFrame:
    """The questions that nobody fixed a rule for before the runs: statistic and t-interval, no verdict."""
    rows = []
    for question in claims.afterwards:
        values = contrast(table, question["quantity"], question["of"])
        if len(values):
            mean, low, high, n = interval(values)
            told = {"question": question["question"], **_statistic(question)}
            rows.append({**told, "ours": mean, "low": low, "high": high, "seeds": n})
    return pd.DataFrame(rows, columns=["question", "statistic", "unit", "ours", "low", "high", "seeds"])


def _judge(claim: Mapping, table: pd.DataFrame, wanted: int) -> dict:
    if "not_tested" in claim:
        return {"seeds": 0, "verdict": NOT_TESTED, "note": claim["not_tested"]}
    values = contrast(table, claim["quantity"], claim["of"])
    told = {**_statistic(claim), "seeds": len(values)}
    if len(values) < wanted:
        return {**told, "verdict": NOT_TESTED, "note": f"{len(values)} of {wanted} seeds have been run"}
    boot_low, boot_high = bootstrap_interval(values)
    mean, t_low, t_high, _ = interval(values)
    low, high = min(boot_low, t_low), max(boot_high, t_high)
    verdict, note = decide(claim["rule"], low, high)
    both = {"boot_low": boot_low, "boot_high": boot_high, "t_low": t_low, "t_high": t_high}
    return {**told, "ours": mean, "low": low, "high": high, **both, "verdict": verdict, "note": note}


def _statistic(claim: Mapping) -> dict[str, str]:
    terms = " ".join(f"{'+' if weight > 0 else '-'}{arm}" for arm, weight in claim["of"].items())
    return {"statistic": f"{claim['quantity']}: {terms}", "unit": unit(claim["quantity"])}


def contrast(table: pd.DataFrame, quantity: str, weights: Mapping[str, float]) -> pd.Series:
    """Sum of weight x quantity over arms, for the seeds that all of them have: (seeds,).

    Raises ClaimError for an unknown quantity.
    """
    if quantity not in table:
        raise ClaimError(f"unknown quantity {quantity!r}; there are: {', '.join(table.columns)}")
    wide = table[quantity].unstack("arm").reindex(columns=list(weights)).dropna()
    return sum(weight * wide[arm] for arm, weight in weights.items())


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over seeds; the draw is fixed, so tables repeat."""
    result = stats.bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def decide(rule: Mapping[str, float], low: float, high: float) -> tuple[str, str]:
    """Verdict and note from the union of both intervals, by the rule of the claims file."""
    (kind, bound), *_ = rule.items()
    if kind == "within":
        inside, outside = -bound <= low and high <= bound, low > bound or high < -bound
        note = f"a difference beyond {bound}" if outside else "too wide an interval"
        return (REPLICATED, "") if inside else (NOT_REPLICATED, note)
    holds, opposite = (low > bound, high < bound) if kind == "above" else (high < bound, low > bound)
    if holds:
        return REPLICATED, ""
    return NOT_REPLICATED, "the opposite was found" if opposite else "the interval decides neither way"
