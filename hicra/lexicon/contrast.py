"""Which n-grams steer a solution: the selections behind the presets `hicra` and `general`.

Ours, not the paper's. The paper keeps what is frequent, and boilerplate is frequent too. Here an
n-gram must be frequent in solutions that reason at length and all but absent from short ones, which
compute without deliberating, and it must not belong to the opening, where a solution restates its
problem. No labels and no language model take part. What each condition brings, and what did not, is
measured by `python -m tests.benchmarks.lexicon`.

`general` asks for agreement: the contrast of an n-gram is the least over families of models. To it is added
the n-gram's nearness in meaning to a table of seeds (`kinds`), so that "let me check" needs less contrast
than "so now" does.
"""

from __future__ import annotations

import numpy as np

from hicra.lexicon.ngram_counts import CountedCorpus, NgramTable, group_df, occurrences

SIZES = (1, 2, 3, 4, 5)  # words: "wait" and "another way" steer as well
MIN_SHARE = 0.05  # of the solutions hold the n-gram
MIN_CONTRAST = 7.5  # bits: about 180 times as frequent as in short solutions
MAX_EARLY = 0.25  # of its occurrences stand in the first tenth of a solution
GENERAL_SHARE = 0.005  # of the solutions of every family hold the n-gram
BITS_PER_SIMILARITY = 28.0  # what a cosine nearer by 1 to the steering seeds weighs, in bits of contrast
MIN_STEERING = 9.5  # bits, of contrast and nearness together


def steering(table: NgramTable, corpus: CountedCorpus, background: CountedCorpus) -> np.ndarray:
    """Mask (N,) of the n-grams of `table`, counted in `corpus`, that steer."""
    distinct = contrast(table, corpus, background) >= MIN_CONTRAST
    return distinct & (table.early <= MAX_EARLY * table.tf)


def contrast(table: NgramTable, corpus: CountedCorpus, background: CountedCorpus) -> np.ndarray:
    """How much more frequent each n-gram is than in the background, (N,) bits, half a count added to both."""
    return np.log2((table.tf + 0.5) / corpus.n_words / _rate(table, background))


def agreed_contrast(
    table: NgramTable, families: list[CountedCorpus], background: CountedCorpus
) -> np.ndarray:
    """The least contrast of each n-gram over all families, (N,) bits."""
    least = np.min([_rate(table, corpus) for corpus in families], axis=0)  # (N,)
    return np.log2(least / _rate(table, background))


def in_every_family(table: NgramTable, families: list[CountedCorpus], min_share: float) -> np.ndarray:
    """Mask (N,) of the n-grams that this share of the solutions of each family hold, and at least two."""
    each = np.arange(len(table.grams))
    return np.all(
        [group_df(corpus, table, each) >= max(2, min_share * len(corpus)) for corpus in families], axis=0
    )


def _rate(table: NgramTable, corpus: CountedCorpus) -> np.ndarray:
    """Occurrences a word of each n-gram in another corpus, (N,), half a count added."""
    return (occurrences(corpus, table) + 0.5) / corpus.n_words
