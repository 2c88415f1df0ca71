"""Training dynamics (paper, Fig. 2, 3, 9 and 12): pure functions of a run's recorded statistics.

A row of `steps.jsonl` holds sums over one step's rollouts, sampled at temperature 1 by the policy
after `step` updates; `summarise` turns the rows of a run into one tidy table. Its columns, each
with one definition and one unit ("first" is the run's first value; x = planning or execution):

| column                         | definition                                            | unit       |
|--------------------------------|-------------------------------------------------------|------------|
| step                           | updates made before these rollouts                    | updates    |
| reward                         | mean reward                                           | reward     |
| length                         | mean completion length                                | tokens     |
| clipped                        | completions cut at the length limit                   | share      |
| zero_variance                  | groups whose rewards are all equal                    | share      |
| no_planning                    | completions without a planning token                  | share      |
| group_solved                   | groups with a right completion: Pass@G of G a group   | share      |
| reason_NAME                    | completions whose reward has that reason              | share      |
| planning_share                 | planning tokens among completion tokens               | share      |
| perplexity_x                   | exp(mean negative log-likelihood of the class)        | 1          |
| relative_perplexity_x          | perplexity_x / its first value                        | 1          |
| entropy_x                      | mean full-vocabulary next-token entropy of the class  | nats/token |
| token_entropy                  | the same over all tokens                              | nats/token |
| occurrences                    | occurrences of Strategic Grams                        | count      |
| semantic_entropy               | plug-in entropy of the grams' frequencies             | bits       |
| semantic_entropy_matched       | the same, expected at `matched_occurrences` of them   | bits       |
| semantic_entropy_chao_shen     | the same, Chao-Shen estimate                          | bits       |
| cluster_entropy, .._matched    | the first two over clusters of grams; absent without  | bits       |
| conditional_entropy            | sum over grams g of p(g) H(follower given g)          | bits       |
| conditional_entropy_matched    | the same, expected at `matched_followers` pairs       | bits       |
| (the seven above)_change       | value - its first value                               | bits       |
| matched_occurrences, _followers| size to which the run was matched; constant           | count      |
| planning_high_entropy          | planning tokens that are high-entropy (top 30 %)      | share      |
| high_entropy_planning          | high-entropy tokens that are planning                 | share      |
| error_planning, error_execution| completions that fail for that cause                  | share      |
| error_planning_share           | planning errors among all labelled failures           | share      |
| loss, grad_norm, learning_rate, seconds: as recorded                                   |            |

A quantity over nothing (no planning token, no occurrence, no failure) is NaN, never zero.
The plug-in entropy grows with the number of occurrences, and completions lengthen in training, so
a rise alone may be an artefact. **Decision** (the paper has only the plug-in): every entropy over
occurrences also comes size-matched, by exact rarefaction of each step to the smallest step's size.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from hicra.dynamics.entropy import (
    chao_shen_entropy,
    cluster_counts,
    conditional_entropy,
    matched_conditional_entropy,
    rarefied_entropy,
    shannon_entropy,
)
from hicra.errors import HicraError

COPIED = ("loss", "grad_norm", "learning_rate", "seconds")
FIELDS = (
    "step n_completions n_groups n_zero_variance_groups n_solved_groups n_clipped n_no_planning reasons "
    "errors length_sum reward_sum n_planning n_execution nll_planning nll_execution entropy_planning loss "
    "entropy_execution n_high_entropy n_high_entropy_planning grams followers grad_norm learning_rate seconds"
)


COLLAPSED = 0.1  # of the median run's smallest step


class MatchedSizes(NamedTuple):
    """Sizes to which entropies are rarefied; 0 where no step has anything to count."""

    occurrences: int
    followers: int


def perplexity(nll_sum: float, n: int) -> float:
    """exp(mean negative log-likelihood) of `n` tokens whose NLLs sum to `nll_sum` nats."""
    return math.exp(nll_sum / n) if n else math.nan


def relative(series: Sequence[float]) -> np.ndarray:
    """A series over its first value (Fig. 2); NaN is none. Raises ValueError when that is zero."""
    values = np.asarray(series, dtype=float)  # (S,)
    first = values[~np.isnan(values)][:1]  # (1,), or (0,) where all is NaN
    if first.size and first[0] == 0:
        raise ValueError("the first value of the series is 0; nothing is relative to it")
    return values / first if first.size else values


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that one of `k` samples is right, given `c` right ones among `n`."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"n={n}, c={c}, k={k} must satisfy 0 <= c <= n and 1 <= k <= n")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def overlap_shares(n_both: int, n_planning: int, n_high_entropy: int) -> tuple[float, float]:
    """Share of planning tokens that are high-entropy, and the reverse (Fig. 12)."""
    if not 0 <= n_both <= min(n_planning, n_high_entropy):
        raise ValueError(f"{n_both} tokens are both of {n_planning} and {n_high_entropy}")
    return _share(n_both, n_planning), _share(n_both, n_high_entropy)


def effective_weight(steps: Sequence[Mapping], alpha: float) -> float:
    """The mean factor that HICRA and the arm `scaled` put on planning credit over these steps (no unit).

    1 + alpha * G/(G-2) * k, k = sum n v (1-v) (1-2v) / sum n v (1-v) over groups with n planning tokens and
    the mean reward v (docs/equation.md): a group without variance carries no credit, and so no weight. NaN
    for groups of two, and where no group has variance and a planning token. Raises HicraError for records
    that do not keep successes by group.
    """
    _check_fields(steps, "n_completions n_groups group_successes group_planning")
    size = steps[0]["n_completions"] / steps[0]["n_groups"]
    rates = np.concatenate([row["group_successes"] for row in steps]) / size  # (N,)
    carried = np.concatenate([row["group_planning"] for row in steps]) * rates * (1 - rates)  # (N,)
    if size <= 2 or not carried.sum():
        return math.nan
    k = (carried * (1 - 2 * rates)).sum() / carried.sum()
    return float(1 + alpha * size / (size - 2) * k)


def matched_sizes(*runs: Sequence[Mapping]) -> MatchedSizes:
    """Smallest non-zero number of gram occurrences and of followers in any step of the runs.

    Pass every run of a comparison, so that all of them are rarefied to the same size. **Decision**: a run
    that hardly writes a gram any more, whose smallest step has less than COLLAPSED of the median run's,
    does not decide it: one such run would leave nothing to tell in all the others.
    """
    for run in runs:
        _check_steps(run)
    occurrences = [[sum(row["grams"].values()) for row in run] for run in runs]
    pairs = [[_n_pairs(row["followers"]) for row in run] for run in runs]
    return MatchedSizes(_least(occurrences), _least(pairs))


def _least(sizes: Sequence[Sequence[int]]) -> int:
    """The smallest non-zero size of any run but those that have collapsed; 0 where there is none."""
    smallest = [least for of_run in sizes if (least := min(filter(None, of_run), default=0))]
    return min((n for n in smallest if n >= COLLAPSED * np.median(smallest)), default=0)


def summarise(
    steps: Sequence[Mapping],
    clusters: Mapping[str, int] | None = None,
    *,
    sizes: MatchedSizes | None = None,
) -> pd.DataFrame:
    """One row per step with the columns of the module's table, from the rows of `steps.jsonl`.

    `clusters` maps the lexicon's grams to clusters. `sizes`, from `matched_sizes` over all compared
    runs, defaults to this run's own; a smaller step has NaN. ValueError for rows that lack a field
    or are out of order.
    """
    _check_steps(steps)
    sizes = sizes or matched_sizes(steps)
    reasons = sorted({name for row in steps for name in row["reasons"]})
    frame = pd.DataFrame([_rates(row, reasons) | _entropies(row, clusters, sizes) for row in steps])
    for name in [name for name in frame if name.startswith("perplexity_")]:
        frame[f"relative_{name}"] = relative(frame[name])
    for name in [name for name in frame if name.startswith(("semantic_", "cluster_", "cond"))]:
        frame[f"{name}_change"] = frame[name] - frame[name].bfill().iloc[0]
    return frame


def summarise_evals(evals: Sequence[Mapping]) -> pd.DataFrame:
    """The rows of `evals.jsonl` as a table: step, accuracy (share), length (tokens), pass_at_8."""
    _check_fields(evals, "step accuracy n mean_length pass_at_8 errors")
    frame = pd.DataFrame([{k: row[k] for k in ("step", "accuracy", "n")} for row in evals])
    frame["length"] = [row["mean_length"] for row in evals]
    frame["pass_at_8"] = [_number(row["pass_at_8"]) for row in evals]
    return frame.join(pd.DataFrame([_errors(row["errors"], row["n"]) for row in evals]))


def _rates(row: Mapping, reasons: list[str]) -> dict:
    n, planning, high = row["n_completions"], row["n_planning"], row["n_high_entropy"]
    overlap = overlap_shares(row["n_high_entropy_planning"], planning, high)
    rates = {
        "step": row["step"],
        "reward": _share(row["reward_sum"], n),
        "length": _share(row["length_sum"], n),
        "clipped": _share(row["n_clipped"], n),
        "zero_variance": _share(row["n_zero_variance_groups"], row["n_groups"]),
        "no_planning": _share(row["n_no_planning"], n),
        "group_solved": _share(row["n_solved_groups"], row["n_groups"]),
        "planning_share": _share(planning, planning + row["n_execution"]),
        "planning_high_entropy": overlap[0],
        "high_entropy_planning": overlap[1],
    }
    for kind in ("planning", "execution"):
        rates[f"perplexity_{kind}"] = perplexity(row[f"nll_{kind}"], row[f"n_{kind}"])
        rates[f"entropy_{kind}"] = _share(row[f"entropy_{kind}"], row[f"n_{kind}"])
    both = row["entropy_planning"] + row["entropy_execution"]
    rates["token_entropy"] = _share(both, planning + row["n_execution"])
    rates |= {f"reason_{name}": _share(row["reasons"].get(name, 0), n) for name in reasons}
    return rates | _errors(row["errors"], n) | {name: _number(row[name]) for name in COPIED}


def _errors(errors: Mapping | None, n: int) -> dict:
    kinds = ("planning", "execution")
    planning, execution = (math.nan if errors is None else errors.get(k, 0) for k in kinds)
    return {
        "error_planning": _share(planning, n),
        "error_execution": _share(execution, n),
        "error_planning_share": _share(planning, planning + execution),
    }


def _entropies(row: Mapping, clusters: Mapping[str, int] | None, sizes: MatchedSizes) -> dict:
    grams, followers, (m, m_pairs) = row["grams"], row["followers"], sizes
    kinds = {"semantic_entropy": grams}
    if clusters is not None:
        kinds["cluster_entropy"] = cluster_counts(grams, clusters)
    fits = 1 <= m <= (n := sum(grams.values()))
    values = {"occurrences": n, "matched_occurrences": m, "matched_followers": m_pairs}
    for name, counts in kinds.items():
        values[name] = shannon_entropy(counts.values())
        values[f"{name}_matched"] = rarefied_entropy(counts.values(), m) if fits else math.nan
    values["semantic_entropy_chao_shen"] = chao_shen_entropy(grams.values())
    values["conditional_entropy"] = conditional_entropy(followers)
    fits = 1 <= m_pairs <= _n_pairs(followers)
    matched = matched_conditional_entropy(followers, m_pairs) if fits else math.nan
    return values | {"conditional_entropy_matched": matched}


def _n_pairs(followers: Mapping[str, Sequence[int]]) -> int:
    return sum(map(sum, followers.values()))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _check_steps(steps: Sequence[Mapping]) -> None:
    if not steps:
        raise HicraError("the run has no steps to summarise")
    _check_fields(steps, FIELDS)
    for before, after in pairwise(row["step"] for row in steps):
        if after <= before:
            raise HicraError(f"step {after} follows step {before}: the record is not in order")


def _check_fields(rows: Sequence[Mapping], fields: str) -> None:
    for position, row in enumerate(rows):
        missing = [key for key in fields.split() if key not in row]
        if missing:
            raise HicraError(f"row {position} (step {row.get('step')}) lacks {', '.join(missing)}")
