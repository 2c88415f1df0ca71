"""What rollouts of one or more steps show, as sums per problem: every quantity and its interval.

A quantity is computed from sums over problems, each with a weight: 1 for the estimate, and how often the
problem was drawn for a resample. So estimate and interval have one definition.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import sparse, stats

from hicra.dynamics.entropy import chao_shen_entropy, rarefied_entropy, rarefied_terms, shannon_entropy
from hicra.dynamics.step_table import pass_at_k

WITHIN = 8  # occurrences of a problem at which the entropy within it is taken
FINE = 64  # counts up to which the rarefied term of a resample is exact; above it is interpolated
CLASSES = ("planning", "execution")
# quantity: unit, definition
QUANTITIES = {
    "rollouts": ("count", "completions"),
    "length": ("words", "mean length of a completion"),
    "accuracy": ("share", "completions that are right"),
    "reward": ("reward", "mean reward"),
    "planning_share": ("share", "words inside an occurrence of a Strategic Gram"),
    "occurrences": ("count", "occurrences of Strategic Grams"),
    "occurrences_per_1000_words": ("1/1000 words", "the same for a thousand words"),
    "semantic_entropy": ("bits", "plug-in entropy of the grams' frequencies"),
    "semantic_entropy_chao_shen": ("bits", "the same, Chao-Shen estimate"),
    "semantic_entropy_matched": ("bits", "the same, expected of equally many occurrences"),
    "semantic_entropy_length_matched": ("bits", "the same, in equally many first words of each completion"),
    "cluster_entropy": ("bits", "plug-in entropy over the lexicon's clusters"),
    "cluster_entropy_chao_shen": ("bits", "the same, Chao-Shen estimate"),
    "cluster_entropy_matched": ("bits", "the same, expected of equally many occurrences"),
    "semantic_entropy_within": ("bits", "part of the plug-in entropy that lies within problems"),
    "semantic_entropy_between": ("bits", "part of it that lies between problems"),
    "semantic_entropy_within_matched": ("bits", f"entropy of a problem, expected of {WITHIN} occurrences"),
    "conditional_entropy": ("bits", "entropy of the three words behind a gram, given the gram"),
    "conditional_entropy_matched": ("bits", "the same, expected of equally many pairs"),
    **{f"pass_at_{k}": ("share", f"one of {k} completions is right") for k in (2, 4, 8, 16, 32, 64)},
    **{f"perplexity_{c}": ("1", f"of {c} tokens") for c in CLASSES},
    **{f"entropy_{c}": ("nats/token", f"next-token entropy of {c} tokens") for c in CLASSES},
}


class Sizes(NamedTuple):
    """What steps are matched to; 0 where there is nothing to match."""

    occurrences: int = 0
    words: float = 0.0  # of each completion, its first
    short_occurrences: int = 0  # in those
    followers: int = 0


class Sample:
    """Rollouts of some steps, from the columns of a `Store`, sorted: the order of files plays no part."""

    def __init__(self, rows: np.ndarray, found: np.ndarray, membership: np.ndarray) -> None:
        order = np.lexsort([rows[name] for name in ("nll_planning", "reward", "text", "problem")])
        place = np.empty(len(rows), np.int64)
        place[order] = np.arange(len(rows))
        self.rows, self.membership, self.n_grams = rows[order], membership, membership.size
        self.problems, self.of = np.unique(self.rows["problem"], return_inverse=True)  # (P,), (B,)
        self.rollout, self.gram, self.at = place[found["rollout"]], found["gram"].astype(int), found["at"]
        self.follower = found["follower"]
        self.median_words = float(np.median(self.rows["words"]))

    # --- sums over problems, (P,) or sparse (P, K) ---

    def total(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.of, values, minlength=self.problems.size)  # (P,)

    def counts(self, kinds: np.ndarray, n: int, keep: np.ndarray | slice = slice(None)) -> sparse.csr_array:
        """Occurrences of each of `n` kinds, in each problem."""
        problem = self.of[self.rollout][keep]
        ones = np.ones(problem.size, np.int64)
        return sparse.csr_array((ones, (problem, kinds[keep])), shape=(self.problems.size, n))

    def grams(self, first_words: float = math.inf) -> sparse.csr_array:
        return self.counts(self.gram, self.n_grams, self.at < first_words)

    def pairs(self) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Grams that are followed, and (gram, follower) pairs."""
        keep = np.flatnonzero(self.follower)
        mixed = self.follower[keep] * np.uint64(self.n_grams) + self.gram[keep].astype(np.uint64)
        known, pair = np.unique(mixed, return_inverse=True)
        kinds = np.zeros(self.gram.size, np.int64)
        kinds[keep] = pair
        return self.counts(self.gram, self.n_grams, keep), self.counts(kinds, max(1, known.size), keep)

    # --- quantities for weights (R, P), each (R,) ---

    def quantities(self, weights: np.ndarray, sizes: Sizes) -> dict[str, np.ndarray]:
        """Every quantity that the rollouts allow, for each row of weights."""
        return {**self._rates(weights), **self._entropies(weights, sizes), **self._tokens(weights)}

    def _rates(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        rows, w = self.rows, lambda values: weights @ self.total(values)
        n, words = w(np.ones(len(rows))), w(rows["words"])
        hits = w(np.bincount(self.rollout, minlength=len(rows)))
        found = {
            "rollouts": n,
            "length": ratio(words, n),
            "planning_share": ratio(w(rows["planning"]), words),
        }
        found |= {"occurrences": hits, "occurrences_per_1000_words": 1000 * ratio(hits, words)}
        if not np.isnan(rows["reward"]).any():
            found["reward"] = ratio(w(rows["reward"]), n)
        if (rows["correct"] >= 0).all():
            right = self.total(rows["correct"])
            found["accuracy"] = ratio(weights @ right, n)
            found |= self._pass(weights, right, self.total(np.ones(len(rows))))
        return found

    def _pass(self, weights: np.ndarray, right: np.ndarray, n: np.ndarray) -> dict[str, np.ndarray]:
        found = {}
        for k in (2, 4, 8, 16, 32, 64):
            if k <= n.min():
                chances = [pass_at_k(int(m), int(c), k) for m, c in zip(n, right, strict=True)]  # (P,)
                found[f"pass_at_{k}"] = ratio(weights @ chances, weights.sum(1))
        return found

    def _entropies(self, weights: np.ndarray, sizes: Sizes) -> dict[str, np.ndarray]:
        grams = self.grams()
        total = _drawn(weights, grams)  # (R, K)
        found = self._of_counts("semantic_entropy", total, sizes.occurrences)
        if sizes.words:
            short = _drawn(weights, self.grams(sizes.words))  # (R, K)
            found["semantic_entropy_length_matched"] = rarefied(short, sizes.short_occurrences)
        n_clusters = int(self.membership.max()) + 1
        if n_clusters < self.n_grams:
            clusters = _drawn(weights, self.counts(self.membership[self.gram], n_clusters))
            found |= self._of_counts("cluster_entropy", clusters, sizes.occurrences)
        if len(self.rows) > self.problems.size > 1:
            found |= self._parts(weights, grams, found["semantic_entropy"])
        followed, pairs = (_drawn(weights, counts) for counts in self.pairs())
        found["conditional_entropy"] = each(shannon_entropy, pairs) - each(shannon_entropy, followed)
        m = sizes.followers
        found["conditional_entropy_matched"] = rarefied(pairs, m) - rarefied(followed, m)
        return found

    def _of_counts(self, name: str, counts: np.ndarray, m: int) -> dict[str, np.ndarray]:
        return {
            name: each(shannon_entropy, counts),
            f"{name}_chao_shen": each(chao_shen_entropy, counts),
            f"{name}_matched": rarefied(counts, m),
        }

    def _parts(
        self, weights: np.ndarray, grams: sparse.csr_array, total: np.ndarray
    ) -> dict[str, np.ndarray]:
        """H(gram) = H(gram given the problem) + I(gram; problem)."""
        dense = np.split(grams.data, grams.indptr[1:-1])  # P times the counts of a problem's own grams
        n = np.array([c.sum() for c in dense])  # (P,)
        own = np.array([shannon_entropy(c) if c.size else 0.0 for c in dense])  # (P,)
        within = ratio(weights @ (n * own), weights @ n)
        enough = n >= WITHIN  # (P,)
        equal = np.array(
            [rarefied_entropy(c, WITHIN) if e else 0.0 for c, e in zip(dense, enough, strict=True)]
        )
        return {
            "semantic_entropy_within": within,
            "semantic_entropy_between": total - within,
            "semantic_entropy_within_matched": ratio(weights @ equal, weights @ enough),
        }

    def _tokens(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        found = {}
        for kind in CLASSES:
            n, nll, entropy = (
                self.total(self.rows[f"{name}_{kind}"]) for name in ("tokens", "nll", "entropy")
            )
            if np.isfinite(nll).all() and n.sum():
                found[f"perplexity_{kind}"] = np.exp(ratio(weights @ nll, weights @ n))
            if np.isfinite(entropy).all() and n.sum():
                found[f"entropy_{kind}"] = ratio(weights @ entropy, weights @ n)
        return found


def matched(samples: Iterable[Sample]) -> Sizes:
    """The sizes of the smallest sample that has any, by which all of them are compared."""
    samples = list(samples)
    words = min(sample.median_words for sample in samples)
    short = [int((sample.at < words).sum()) for sample in samples]
    followed = [int((sample.follower > 0).sum()) for sample in samples]
    least = [min(filter(None, n), default=0) for n in ([s.gram.size for s in samples], short, followed)]
    return Sizes(least[0], words, least[1], least[2])


def draws(n: int, resamples: int) -> np.ndarray:
    """How often each of `n` problems is drawn in each resample, (R, n); always the same draws."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), resamples)


def interval(
    value: float, resampled: np.ndarray, n: int, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float]:
    """95 % interval of a quantity over `n` problems: Student's t times the resamples' standard deviation.

    It is cut at `bounds`, which no value of the quantity can pass.
    """
    resampled = resampled[np.isfinite(resampled)]
    if n < 2 or resampled.size < 2:
        return math.nan, math.nan
    half = stats.t.ppf(0.975, n - 1) * resampled.std(ddof=1)
    return max(value - half, bounds[0]), min(value + half, bounds[1])


def bounds(quantity: str) -> tuple[float, float]:
    """The least and the greatest value that a quantity can have."""
    unit = QUANTITIES[quantity][0]
    least = {"reward": -math.inf, "1": 1.0}.get(unit, 0.0)  # a perplexity is 1 or more
    return least, 1.0 if unit == "share" else math.inf


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where that is over nothing."""
    return np.divide(part, whole, out=np.full(np.shape(part), math.nan), where=np.asarray(whole) > 0)


def each(estimate, counts: np.ndarray) -> np.ndarray:
    return np.array([estimate(row[row > 0]) for row in counts])


def rarefied(counts: np.ndarray, m: int) -> np.ndarray:
    """`rarefied_entropy` at `m` of one row (1, K); of resamples (R, K) at the same share of each.

    A resample's counts are scaled to the mean total, and a gram's term is read off a curve: exact up to FINE
    occurrences, interpolated above.
    """
    n = counts.sum(1)  # (R,)
    if m < 1 or not n.any() or (len(counts) == 1 and n[0] < m):
        return np.full(len(counts), math.nan)
    if len(counts) == 1:
        return np.array([rarefied_entropy(counts[0][counts[0] > 0], m)])
    mean = max(round(n.mean()), m)
    scale = ratio(np.full(n.size, float(mean)), n)  # (R,)
    top = min(int(np.nanmax(scale * counts.max(1))) + 1, mean)
    nodes = np.unique(np.r_[np.arange(min(FINE, top) + 1), np.geomspace(1, top, 100).astype(int), top])
    curve = np.r_[0.0, rarefied_terms(nodes[1:], mean, m)]  # the first node is 0
    if counts.max() >= counts.shape[1]:
        return np.interp(counts * scale[:, None], nodes, curve).sum(1)
    table = np.interp(np.arange(counts.max() + 1) * scale[:, None], nodes, curve)  # (R, most + 1)
    return np.take_along_axis(table, counts, 1).sum(1)


def _drawn(weights: np.ndarray, counts: sparse.csr_array) -> np.ndarray:
    """Counts of each resample, (R, K)."""
    return np.asarray((counts.T @ weights.T).T)
