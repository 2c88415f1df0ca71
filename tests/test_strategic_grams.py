"""The paper's three steps on a corpus small enough to see through."""

import numpy as np
import pytest

from hicra.lexicon.build import build_lexicon, cluster_table
from hicra.lexicon.corpus import Corpus
from hicra.lexicon.lexicon import Lexicon

PLANS = ["let us try again now", "we should go back here", "let us try once more"]


def _solutions(n=40):
    """Each solution plans once; half of them hold one boilerplate phrase as well, a few a rare one."""
    return [
        f"{PLANS[i % 3]}. {'so it is done' if i % 2 else ''}. {'some very rare words' if i % 10 == 0 else ''}"
        for i in range(n)
    ]


def by_first_letter(texts):
    """An encoder of our own: one axis a first letter."""
    return np.eye(26)[[ord(t[0]) - ord("a") for t in texts]]


def _build(solutions, **options):
    options = {"n_clusters": 4, "top_share": 0.5, "min_df": 2, "encoder": by_first_letter} | options
    return build_lexicon(solutions, **options)


def test_top_clusters_by_cluster_df_make_the_lexicon():
    lexicon = _build(_solutions(), top_share=0.3)
    # first letters l, u, w, s, t, i, g, v: 4 clusters by k-means; the kept ones have the highest Cluster DF
    table = lexicon.provenance["cluster_table"]
    assert [row["cluster_df"] for row in table] == sorted((r["cluster_df"] for r in table), reverse=True)
    assert [row["kept"] for row in table] == [True, True, False, False]  # ceil(0.3 * 4)
    assert set(lexicon.clusters.values()) == {0, 1}
    assert sum(row["ngrams"] for row in table if row["kept"]) == len(lexicon)
    shown = cluster_table(lexicon)
    assert list(shown["cluster_df"]) == [row["cluster_df"] for row in table]


def test_the_order_of_the_solutions_does_not_matter():
    one, two = _build(_solutions()), _build(_solutions()[::-1])
    assert one.sha256 == two.sha256
    assert one.provenance == two.provenance


def test_an_iterator_is_enough():
    assert _build(iter(_solutions())).sha256 == _build(_solutions()).sha256


def test_hdbscan_makes_noise_clusters_of_their_own():
    lexicon = _build(_solutions(), clustering="hdbscan", top_share=1.0)
    assert len(lexicon) == lexicon.provenance["counts"]["embedded_ngrams"]


@pytest.mark.parametrize(
    ("options", "solutions", "message"),
    [
        ({}, [], "no solution"),
        ({}, ["a b c"], "too few"),
        ({"min_df": 1000}, _solutions(), "0 n-grams in 1000 or more"),
        ({"clustering": "ward"}, _solutions(), "clustering='ward' is unknown; use 'kmeans' or 'hdbscan'"),
    ],
)
def test_a_corpus_without_a_lexicon_is_an_error(options, solutions, message):
    with pytest.raises(ValueError, match=message):
        _build(solutions, **options)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_a_corpus_of_one_cluster_is_an_error():
    with pytest.raises(ValueError, match="one cluster"):
        _build(["so it is done"] * 5, n_clusters=2, encoder=lambda texts: np.zeros((len(texts), 2)))


def test_minilm_is_the_encoder_unless_told():
    lexicon = build_lexicon(_solutions(12), n_clusters=3, min_df=2)
    assert lexicon.provenance["settings"]["encoder"] == "all-MiniLM-L6-v2"


LONG = [f"we begin with it. {PLANS[i % 3]}. so it is done. x plus 2 is it. wait" for i in range(40)]
SHORT = ["so it is done. x plus 2 is it. we say so"] * 40


def test_the_hicra_preset_keeps_what_short_solutions_do_without():
    # Small numbers cannot show 7.5 bits of contrast, so the short solutions are many.
    lexicon = _build(LONG, preset="hicra", background=SHORT * 300)
    assert "wait" in lexicon.grams
    assert "let us try" in lexicon.grams
    assert not {g for g in lexicon.grams if "done" in g.split()}  # boilerplate: short ones hold it too
    assert not {g for g in lexicon.grams if "begin" in g.split()}  # the opening
    assert not {g for g in lexicon.grams if {"x", "2"} & set(g.split())}  # what is computed
    assert lexicon.provenance["settings"]["preset"] == "hicra"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "hicro"}, "unknown preset 'hicro'; choose one of: paper, hicra"),
        ({"preset": "hicra"}, "give them as background"),
        ({"background": SHORT}, "uses no background"),
    ],
)
def test_presets_and_backgrounds_belong_together(options, message):
    with pytest.raises(ValueError, match=message):
        _build(LONG, **options)


@pytest.mark.slow
def test_the_shipped_lexicons_are_rebuilt_from_their_traces(shared):
    traces = shared / "traces"
    names = ("skyt1_correct_27b", "skyt1_correct_32b_ckpts_aime24")
    files = [traces / f"{name}.jsonl.gz" for name in names]
    corpus = Corpus(files, correct="correct", one_per="question")
    short = Corpus([traces / "short_cot_controls.jsonl.gz"], boxed_only=False)
    assert build_lexicon(corpus, preset="hicra", background=short).grams == Lexicon.load("skyt1-hicra").grams
