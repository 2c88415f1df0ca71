"""Entropies of what Strategic Grams occur and what follows them: plug-in, corrected, and size-matched.

The plug-in entropy grows with the number of occurrences; `rarefied_entropy` compares at equal numbers.

By hand, where scipy.stats has `entropy` and `hypergeom`: the first takes 8 to 30 times as long for the tens
to hundreds of grams of a step, and the second, whose chances differ by 5e-9 bits at 70,000 occurrences, 6 to
1,000 times (tests/test_dynamics.py compares them).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np

from hicra.errors import HicraError


def shannon_entropy(counts: Iterable[int], base: float = 2) -> float:
    """Plug-in entropy of a frequency distribution; bits with `base=2`, NaN without counts.

    Raises ValueError, as do all estimates here, for negative or fractional counts.
    """
    frequencies = _counts(counts)  # (K,)
    if not frequencies.size:
        return math.nan
    p = frequencies / frequencies.sum()  # (K,)
    return float(abs((p * np.log(p)).sum()) / math.log(base))


def chao_shen_entropy(counts: Iterable[int]) -> float:
    """Coverage-adjusted entropy in bits (Chao and Shen, 2003); NaN without counts.

    Frequencies are shrunk by the estimated coverage 1 - singletons / n and weighted by the inverse
    of their chance to be seen. If all are singletons, one counts as seen twice, as is usual.
    """
    frequencies = _counts(counts)  # (K,)
    if not frequencies.size:
        return math.nan
    n, singletons = frequencies.sum(), (frequencies == 1).sum()
    coverage = 1 - min(singletons, n - 1) / n
    p = coverage * frequencies / n  # (K,)
    return float(abs((p * np.log2(p) / (1 - (1 - p) ** n)).sum()))


def rarefied_entropy(counts: Iterable[int], m: int) -> float:
    """Expected plug-in entropy, in bits, of `m` occurrences drawn without replacement.

    Exact: a gram's sightings in the draw are hypergeometric, and expectations add over grams.
    Equals `shannon_entropy` at m = n, never falls as m grows. ValueError unless 1 <= m <= n.
    """
    frequencies = _counts(counts)
    n = int(frequencies.sum())
    if not 1 <= m <= n:
        raise HicraError(f"m={m} must lie in 1..{n}, the number of occurrences")
    kinds, grams = np.unique(frequencies, return_counts=True)  # (U,), (U,)
    return float((grams * rarefied_terms(kinds, n, m)).sum())


def rarefied_terms(counts: np.ndarray, n: int, m: int) -> np.ndarray:
    """What grams with `counts` (U,), each 1 or more of `n`, add to the entropy expected of `m`: (U,) bits."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # (n + 1,)

    def log_choose(a: np.ndarray | int, b: np.ndarray | int) -> np.ndarray:
        return log_factorial[a] - log_factorial[b] - log_factorial[a - b]

    least, most = np.maximum(1, m - n + counts), np.minimum(counts, m)  # sightings that can be, (U,)
    first = np.cumsum(most - least + 1) - (most - least + 1)  # where each gram's begin, (U,)
    c, start = (np.repeat(v, most - least + 1) for v in (counts, first - least))  # (S,), (S,)
    k = np.arange(c.size) - start  # (S,)
    chance = np.exp(log_choose(c, k) + log_choose(n - c, m - k) - log_choose(n, m))  # (S,)
    return np.add.reduceat(chance * k / m * np.log2(m / k), first)


def conditional_entropy(followers: Mapping[str, Sequence[int]]) -> float:
    """Sum over grams g of p(g) * H(follower | g), plug-in, in bits; NaN without followers.

    `followers` says of each gram how often each of its followers occurred.

    **Decision**: p(g) is g's share of the occurrences that have a procedural follower. Others run
    into the next gram or end the completion; counting them would add weight without a choice.
    """
    joint, marginal = _joint_and_marginal(followers)
    return abs(shannon_entropy(joint) - shannon_entropy(marginal))  # H(F|G) = H(G, F) - H(G); 0 is rounded


def matched_conditional_entropy(followers: Mapping[str, Sequence[int]], m: int) -> float:
    """Expected `conditional_entropy`, in bits, of `m` (gram, follower) pairs.

    Exact: both terms of H(G, F) - H(G) can be rarefied. Raises as `rarefied_entropy`.
    """
    joint, marginal = _joint_and_marginal(followers)
    return rarefied_entropy(joint, m) - rarefied_entropy(marginal, m)


def _joint_and_marginal(followers: Mapping[str, Sequence[int]]) -> tuple[list[int], list[int]]:
    """Occurrences of each (gram, follower) pair, and of each gram."""
    return list(chain.from_iterable(followers.values())), list(map(sum, followers.values()))


def cluster_counts(gram_counts: Mapping[str, int], clusters: Mapping[str, int]) -> Counter:
    """Occurrences per cluster. Raises ValueError for a gram without a cluster."""
    missing = sorted(set(gram_counts) - set(clusters))
    if missing:
        raise HicraError(f"no cluster for {missing[:3]} ({len(missing)} grams): another lexicon?")
    totals: Counter = Counter()
    for gram, count in gram_counts.items():
        totals[clusters[gram]] += count
    return totals


def _counts(counts: Iterable[int]) -> np.ndarray:
    values = counts if isinstance(counts, np.ndarray) else np.asarray(list(counts))
    if values.size and (values.dtype.kind not in "iu" or (values < 0).any()):
        raise ValueError(f"counts must be whole and not negative, got {values[:5].tolist()}")
    return values[values > 0]
