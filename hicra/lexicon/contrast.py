"""Which n-grams steer a solution, from the corpus alone: the selection behind the `hicra` preset.

Ours, not the paper's. The paper keeps what is frequent, and boilerplate is frequent too. Here an
n-gram must be frequent in solutions that reason at length and all but absent from short ones, which
compute without deliberating, and it must not belong to the opening, where a solution restates its
problem. No labels and no language model take part. What each condition brings, and what did not, is
measured by `python -m tests.benchmarks.lexicon`.
"""

from __future__ import annotations

import numpy as np

from hicra.lexicon.ngram_counts import EncodedCorpus, NgramTable, occurrences

SIZES = (1, 2, 3, 4, 5)  # words: "wait" and "another way" steer as well
MIN_SHARE = 0.05  # of the solutions hold the n-gram
MIN_CONTRAST = 7.5  # bits: about 180 times as frequent as in short solutions
MAX_EARLY = 0.25  # of its occurrences stand in the first tenth of a solution


def steering(table: NgramTable, corpus: EncodedCorpus, background: EncodedCorpus) -> np.ndarray:
    """Mask (N,) of the n-grams of `table`, counted in `corpus`, that steer."""
    distinct = contrast(table, corpus, background) >= MIN_CONTRAST
    return distinct & (table.early <= MAX_EARLY * table.tf)


def contrast(table: NgramTable, corpus: EncodedCorpus, background: EncodedCorpus) -> np.ndarray:
    """How much more frequent each n-gram is than in the background, (N,) bits, half a count added to both."""
    ours = (table.tf + 0.5) / corpus.n_words
    theirs = (occurrences(background, table) + 0.5) / background.n_words
    return np.log2(ours / theirs)
