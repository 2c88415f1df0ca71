"""The paper's claims as rules on run records: data/families/claims.yaml in, a table of verdicts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml

from hicra.errors import HicraError
from hicra.files import data_root
from hicra.study.verdicts.intervals import (
    bootstrap_interval,
    equivalence_power,
    interval,
    judged_interval,
    power,
)

DIRECTIONS, RULES = ("above", "below"), ("above", "below", "within")
VERDICTS = ("replicated", "contradicted", "undecided", "not tested here")
REPLICATED, CONTRADICTED, UNDECIDED, NOT_TESTED = VERDICTS
TOLD = ("id", "question", "claim", "where", "figures", "paper")
TESTED = ("quantity", "unit", "of", "rule")
ASKED = ("question", "quantity", "unit", "of")


class ClaimError(HicraError):
    """A claims file that cannot be judged by; the message names the claim."""


class Claims(NamedTuple):
    """The claims in order, how many seeds a verdict needs where a claim names no other number, the questions
    that group them (key and text), and what was asked after the runs."""

    claims: tuple[dict, ...]
    seeds: int
    questions: dict[str, str]
    afterwards: tuple[dict, ...] = ()


def load_claims(path: Path | str = "") -> Claims:
    """A claims file, or the study's own.

    Raises ClaimError for an unknown rule or question, a missing field, an id given twice, or fewer than
    two seeds.
    """
    path = Path(path) if path else data_root() / "families/claims.yaml"
    if not path.is_file():
        raise ClaimError(f"there is no claims file {path}; name one like data/families/claims.yaml")
    try:
        record = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ClaimError(f"{path} is not YAML ({' '.join(str(error).split())}); restore it") from error
    if not isinstance(record, dict) or not {"claims", "seeds", "questions"} <= set(record):
        raise ClaimError(f"{path} must name `seeds`, `questions` and `claims`; restore it")
    seen: set[str] = set()
    for claim in record["claims"]:
        _check(claim, record["questions"])
        if (n := claim.get("seeds", record["seeds"])) < 2:
            raise ClaimError(f"claim {claim['id']}: seeds {n}; an interval over seeds needs 2 or more")
        if claim["id"] in seen:
            raise ClaimError(f"claim {claim['id']} stands twice; rename one")
        seen.add(claim["id"])
    for asked in record.get("afterwards", ()):
        _check_fields(f"afterwards, {asked.get('question', 'without question')}", asked, ASKED)
    return Claims(
        tuple(record["claims"]), record["seeds"], record["questions"], tuple(record.get("afterwards", ()))
    )


def _check(claim: Mapping, questions: Mapping[str, str]) -> None:
    name = f"claim {claim.get('id', 'without id')}"
    _check_fields(
        name, claim, (*TOLD, *(("not_tested",) if "not_tested" in claim else TESTED)), ("effects", "seeds")
    )
    if claim["question"] not in questions:
        raise ClaimError(f"{name}: question {claim['question']!r}; give one of {', '.join(questions)}")
    rule = claim.get("rule", {"above": 0})
    kinds = [kind for kind in rule if kind in RULES]
    if len(kinds) != 1 or set(rule) - {*kinds, "margin"}:
        raise ClaimError(
            f"{name}: rule {rule}; give one of {', '.join(RULES)}, the first two with a margin or not"
        )
    if kinds == ["within"] and ("margin" in rule or "effects" in claim):
        raise ClaimError(
            f"{name}: margin and effects belong to the rules {' and '.join(DIRECTIONS)}; drop them"
        )


def _check_fields(name: str, found: Mapping, wanted: Sequence[str], optional: Sequence[str] = ()) -> None:
    if set(found) - set(optional) != set(wanted):
        raise ClaimError(f"{name}: fields {sorted(found)}; give {sorted(wanted)}")


def verdict_table(claims: Claims, table: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: statistic, interval, verdict, note and power. `table` is that of `quantities`.

    `low` and `high` are the union of the paired bootstrap and Student's t, by which the verdict is given.
    `power` says for each of the claim's `effects` how likely as many seeds, spread as these are, would have
    replicated the claim if that were the true effect.
    """
    rows = [{k: c[k] for k in TOLD} | _judge(c, table, claims.seeds) for c in claims.claims]
    intervals = ["low", "high", "boot_low", "boot_high", "t_low", "t_high"]
    columns = [*TOLD, "statistic", "unit", "ours", *intervals, "seeds", "verdict", "note", "power"]
    return pd.DataFrame(rows, columns=columns)


def verdict_counts(verdicts: pd.DataFrame) -> dict[str, int]:
    """How many claims got each verdict of VERDICTS, zeros included. `verdicts` is `verdict_table`'s.

    >>> verdict_counts(pd.DataFrame({"verdict": ["undecided", "replicated", "undecided"]}))
    {'replicated': 1, 'contradicted': 0, 'undecided': 2, 'not tested here': 0}
    """
    return {verdict: int((verdicts["verdict"] == verdict).sum()) for verdict in VERDICTS}


def afterwards_table(claims: Claims, table: pd.DataFrame) -> pd.DataFrame:
    """The questions that nobody fixed a rule for before the runs: statistic and t-interval, no verdict."""
    rows = []
    for asked in claims.afterwards:
        values = contrast(table, asked["quantity"], asked["of"])
        if len(values):
            mean, low, high, n = interval(values)
            told = {"question": asked["question"], **_statistic(asked)}
            rows.append({**told, "ours": mean, "low": low, "high": high, "seeds": n})
    return pd.DataFrame(rows, columns=["question", "statistic", "unit", "ours", "low", "high", "seeds"])


def power_table(claims: Claims, pilots: pd.DataFrame) -> pd.DataFrame:
    """How likely each claim with `effects` is replicated if one of them is true, by runs that decide nothing.

    `pilots` is a table as of `quantities`. Claims whose arms have fewer than two pilot seeds in common are
    left out. Columns: id, effect, unit, spread (standard deviation over the pilots' seeds), seeds, power.
    """
    rows = []
    for claim in claims.claims:
        arms = set(claim.get("of", {}))
        if not arms or not arms <= set(pilots.index.get_level_values("arm")):
            continue
        values, n = contrast(pilots, claim["quantity"], claim["of"]), claim.get("seeds", claims.seeds)
        told = {"id": claim["id"], "unit": claim["unit"], "spread": values.std(), "seeds": n}
        if len(values) > 1:
            for effect in _effects(claim):
                rows.append(told | {"effect": effect, "power": _power(claim, values.std(), n, effect)})
    return pd.DataFrame(rows, columns=["id", "effect", "unit", "spread", "seeds", "power"])


def _effects(claim: Mapping) -> Sequence[float]:
    """The true effects at which power is told: the claim's own, or none at all where that is what it says."""
    return (0,) if "within" in claim["rule"] else claim.get("effects", ())


def _power(claim: Mapping, deviation: float, n: int, effect: float) -> float:
    """Power of the claim's rule if `effect` is the true one."""
    rule = claim["rule"]
    if "within" in rule:
        return equivalence_power(deviation, n, rule["within"], effect)
    return power(deviation, n, effect - rule["above"] if "above" in rule else rule["below"] - effect)


def _judge(claim: Mapping, table: pd.DataFrame, wanted: int) -> dict:
    if "not_tested" in claim:
        return {"seeds": 0, "verdict": NOT_TESTED, "note": claim["not_tested"], "power": ""}
    values = contrast(table, claim["quantity"], claim["of"])
    told = {**_statistic(claim), "seeds": len(values), "power": ""}
    wanted = claim.get("seeds", wanted)
    if len(values) < wanted:
        return {**told, "verdict": NOT_TESTED, "note": f"{len(values)} of {wanted} seeds have been run"}
    mean, low, high, n = judged_interval(values)
    verdict, note = decide(claim["rule"], low, high)
    both = dict(zip(("boot_low", "boot_high"), bootstrap_interval(values), strict=True))
    both |= dict(zip(("t_low", "t_high"), interval(values)[1:3], strict=True))
    chances = (f"{_power(claim, values.std(), n, effect):.2f} at {effect:g}" for effect in _effects(claim))
    found = {"ours": mean, "low": low, "high": high, **both, "verdict": verdict, "note": note}
    return {**told, **found, "power": ", ".join(chances)}


def _statistic(claim: Mapping) -> dict[str, str]:
    terms = " ".join(f"{'+' if weight > 0 else '-'}{arm}" for arm, weight in claim["of"].items())
    return {"statistic": f"{claim['quantity']}: {terms}", "unit": claim["unit"]}


def contrast(table: pd.DataFrame, quantity: str, weights: Mapping[str, float]) -> pd.Series:
    """Sum of weight x quantity over arms, for the seeds that all of them have: (seeds,).

    Raises ClaimError for an unknown quantity.
    """
    if quantity not in table:
        raise ClaimError(f"unknown quantity {quantity!r}; there are: {', '.join(table.columns)}")
    wide = table[quantity].unstack("arm").reindex(columns=list(weights)).dropna()
    return sum(weight * wide[arm] for arm, weight in weights.items())


def decide(rule: Mapping[str, float], low: float, high: float) -> tuple[str, str]:
    """Verdict and note from the union of both intervals, by the rule of the claims file.

    A claim is contradicted by an interval on the other side of the rule's bound, or inside the rule's margin
    around it: what is there is too small to matter. Where the interval is compatible with the claim and with
    its opposite, the claim is undecided.

    >>> decide({"above": 0}, -0.01, 0.02)
    ('undecided', 'the interval holds 0')
    >>> decide({"above": 0, "margin": 0.03}, -0.01, 0.02)
    ('contradicted', 'the interval lies within 0.03 of 0')
    """
    kind = next(kind for kind in RULES if kind in rule)
    bound, margin = rule[kind], rule.get("margin", 0)
    if kind == "within":
        if -bound <= low and high <= bound:
            return REPLICATED, ""
        if low > bound or high < -bound:
            return CONTRADICTED, f"the interval lies beyond ±{bound}"
        return UNDECIDED, f"the interval holds {bound if high > bound else -bound}"
    if margin and bound - margin <= low and high <= bound + margin:
        return CONTRADICTED, f"the interval lies within {margin} of {bound}"
    if low <= bound <= high:
        return UNDECIDED, f"the interval holds {bound}"
    side = "above" if low > bound else "below"
    return (REPLICATED, "") if side == kind else (CONTRADICTED, f"the interval lies {side} {bound}")
