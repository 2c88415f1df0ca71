"""Which grams rise and fall, and which go with success: one row a gram, corrected for their number.

Intervals and p-values are over problems, by linearisation (a bootstrap over problems without its
noise); `q` is p after Benjamini and Hochberg's correction over the grams of the table.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from hicra.dynamics.sample import Sample, ratio

FEWEST = 10  # problems that must hold a gram, else it is not tested
CHANGE = ["gram", "before", "after", "change", "low", "high", "p", "q", "problems"]
SUCCESS = ["gram", "with_it", "without_it", "difference", "low", "high", "p", "q", "problems"]


def changed_grams(grams: tuple[str, ...], before: Sample, after: Sample) -> pd.DataFrame:
    """Occurrences of each gram a thousand words, before and after, and the change.

    A problem's completions in both samples count as one draw, so the same problems are compared as pairs.
    """
    known = np.union1d(before.problems, after.problems)  # (P,)
    rates, parts, held = [], np.zeros((known.size, len(grams))), np.zeros((known.size, len(grams)), bool)
    for sample, sign in ((before, -1), (after, 1)):
        counts = sample.grams().toarray()  # (P', K)
        words = sample.total(sample.rows["words"])[:, None]  # (P', 1)
        rate = counts.sum(0) / max(words.sum(), 1)  # (K,)
        at = np.searchsorted(known, sample.problems)
        parts[at] += sign * (counts - rate * words) / max(words.sum(), 1)
        held[at] |= counts > 0
        rates.append(1000 * rate)
    table = pd.DataFrame({"gram": grams, "before": rates[0], "after": rates[1]})
    table["change"] = table["after"] - table["before"]
    return _tested(table, "change", 1000 * np.sqrt((parts**2).sum(0)), held.sum(0))[CHANGE]


def successful_grams(grams: tuple[str, ...], strata: pd.DataFrame) -> pd.DataFrame:
    """How much likelier right a completion with each gram is than one without, of the same problem and step.

    `strata` are `success_strata` of every step. The difference is Mantel and Haenszel's, over strata.
    """
    sums = strata.groupby(["gram", "problem"], as_index=False)[["weight", "with_it", "without_it"]].sum()
    rows = []
    for gram, part in sums.groupby("gram"):
        weight, hit, miss = (part[name].to_numpy() for name in ("weight", "with_it", "without_it"))
        one, other = hit.sum() / weight.sum(), miss.sum() / weight.sum()
        error = np.sqrt(((hit - miss - (one - other) * weight) ** 2).sum()) / weight.sum()
        rows.append((grams[gram], one, other, one - other, error, len(part)))
    table = pd.DataFrame(rows, columns=["gram", "with_it", "without_it", "difference", "error", "problems"])
    return _tested(table, "difference", table.pop("error"), table.pop("problems"))[SUCCESS]


def success_strata(sample: Sample) -> pd.DataFrame:
    """Per gram and problem of a step: Mantel and Haenszel's weight n1 n0 / n, and it times both rates."""
    right = sample.rows["correct"].astype(float)  # (B,)
    n, solved = sample.total(np.ones(len(right))), sample.total(right)  # (P,)
    holds = np.unique(sample.rollout * sample.n_grams + sample.gram)  # a completion and a gram of it
    rollout, gram = np.divmod(holds, sample.n_grams)
    keys, pair = np.unique(sample.of[rollout] * sample.n_grams + gram, return_inverse=True)
    problem, gram = np.divmod(keys, sample.n_grams)
    one, hit = np.bincount(pair).astype(float), np.bincount(pair, right[rollout])  # (S,)
    none, miss = n[problem] - one, solved[problem] - hit  # (S,)
    table = pd.DataFrame(
        {"gram": gram, "problem": sample.problems[problem], "weight": one * none / n[problem]}
    )
    table["with_it"] = table["weight"] * hit / one
    table["without_it"] = table["weight"] * ratio(miss, none)
    return table[none > 0]


def _tested(table: pd.DataFrame, name: str, error: np.ndarray, problems: np.ndarray) -> pd.DataFrame:
    """The table with interval, p and q, by q; without the grams of too few problems or without variance."""
    table = table.assign(error=np.asarray(error, float), problems=np.asarray(problems, int))
    table[name] = table[name].astype(float)  # of no row at all, too
    table = table[(table["problems"] >= FEWEST) & (table["error"] > 0)]
    freedom = table["problems"] - 1
    half = stats.t.ppf(0.975, freedom) * table["error"]
    table = table.assign(low=table[name] - half, high=table[name] + half)
    table["p"] = 2 * stats.t.sf(abs(table[name] / table["error"]), freedom)
    table["q"] = stats.false_discovery_control(table["p"]) if len(table) else table["p"]
    return table.sort_values(["p", "gram"], ignore_index=True)
