"""N-gram counts against a slow, obviously right count."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hicra.lexicon import ngram_counts
from hicra.lexicon.build import build_lexicon
from hicra.lexicon.ngram_counts import EncodedCorpus, frequent_ngrams, group_df, occurrences
from hicra.words import segments

TEXTS = st.lists(st.text("abA '.,\n", max_size=40), min_size=1, max_size=8)


def _slow(text):
    """(n-gram, whether it is in the first tenth) of every occurrence; a clause's end counts as a word."""
    runs = segments(text)
    length = 1 + sum(len(run) + 1 for run in runs)
    place = 1
    for run in runs:
        words = [w.text for w in run]
        for size in (3, 4, 5):
            for i in range(len(words) - size + 1):
                yield " ".join(words[i : i + size]), (place + i) / length < 0.1
        place += len(words) + 1


@settings(max_examples=300, deadline=None)
@given(texts=TEXTS, min_df=st.integers(1, 3), block=st.sampled_from([1, 20, 1000]))
def test_counts_equal_the_slow_ones(texts, min_df, block):
    df = Counter(g for t in texts for g in {g for g, _ in _slow(t)})
    tf = Counter(g for t in texts for g, _ in _slow(t))
    early = Counter(g for t in texts for g, first in _slow(t) if first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_counts, "BLOCK", block)
        patch.setattr(ngram_counts, "BUCKETS", 4)  # every bucket is shared: the second look must be exact
        corpus = EncodedCorpus(texts)
        table = frequent_ngrams(corpus, min_df)
        assert table.grams == sorted(g for g in df if df[g] >= min_df)
        for counts, array in ((df, table.df), (tf, table.tf), (early, table.early)):
            assert [counts[g] for g in table.grams] == array.tolist()
        if table.grams:
            labels = np.arange(len(table.grams)) % 2
            grouped = group_df(corpus, table, labels)
            label_of = dict(zip(table.grams, labels, strict=True))
            held = Counter(k for t in texts for k in {label_of[g] for g, _ in _slow(t) if g in label_of})
            assert grouped.tolist() == [held[k] for k in range(labels.max() + 1)]


@given(texts=TEXTS, others=TEXTS)
def test_occurrences_in_another_corpus(texts, others):
    corpus, other = EncodedCorpus(texts), EncodedCorpus(others)
    table = frequent_ngrams(corpus, 1)
    if table.grams:
        tf = Counter(g for t in others for g, _ in _slow(t))
        assert occurrences(other, table).tolist() == [tf[g] for g in table.grams]
    assert set(corpus.words) == {w.text for t in texts for run in segments(t) for w in run}


def test_the_corpus_hash_knows_texts_and_not_their_order():
    orders = [["a b c", "d e f"], ["d e f", "a b c"], ["a b c", "d e g"]]
    one, two, other = map(EncodedCorpus, orders)
    assert one.sha256 == two.sha256 != other.sha256
    assert one.n_words == 6
    with pytest.raises(ValueError, match="no solution"):
        build_lexicon([])
