"""The paper's three steps on a corpus small enough to see through."""

import numpy as np
import pytest

from hicra.lexicon import contrast, kinds
from hicra.lexicon.build import build_lexicon, cluster_table
from hicra.lexicon.corpus import Corpus
from hicra.lexicon.lexicon import Lexicon
from tests.benchmarks.lexicon import general_lexicon

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


AWAY = {"a": LONG, "b": [f"{t}. only here they say let us go" for t in LONG]}


def _by_seed(texts):
    """An encoder of our own: what says try, again or check lies with the seeds that steer, the rest apart."""
    steers = np.array([any(word in t.split() for word in ("try", "again", "check", "wait")) for t in texts])
    turned = np.where(
        [len(t) % 2 for t in texts], 0.1, 0.0
    )  # so that there is more than one point to cluster
    return np.stack([steers * np.cos(turned), steers * np.sin(turned), ~steers], axis=1).astype(float)


def _general(**options):
    options = {"background": SHORT * 300, "encoder": _by_seed, "n_clusters": 2} | options
    return build_lexicon(options.pop("solutions", AWAY), preset="general", **options)


def test_general_keeps_what_every_family_thinks_with():
    lexicon = _general()
    assert {"wait", "let us try", "again"} <= set(lexicon.grams)
    assert not {g for g in lexicon.grams if "done" in g.split()}  # short solutions hold it too
    assert not {g for g in lexicon.grams if "only" in g.split()}  # one family alone
    assert _general(solutions=dict(reversed(AWAY.items()))).grams == lexicon.grams


def test_nearness_to_a_seed_outweighs_contrast(monkeypatch):
    monkeypatch.setattr(contrast, "MIN_STEERING", 20.0)  # more bits than a corpus this small can show
    grams = set(_general().grams)
    assert "let us try" in grams
    assert "should go back" not in grams  # as distinctive, but no seed is near


def test_the_kind_is_that_of_the_nearest_seeds_by_cluster():
    checks = {k: ("yes",) for k in kinds.STEERING} | {"checking": ("check",)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "STEERING", checks)
        assert set(_general().kinds.values()) >= {"checking"}
        vectors, labels = _by_seed(["try", "check", "so", "then"]), np.array([0, 0, 1, 1])
        assert kinds.kinds_of_clusters(vectors, labels, _by_seed) == ["checking", "deduction"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solutions": LONG}, "several families of models"),
        ({"solutions": {"a": LONG}}, "two or more"),
        ({"background": None}, "give them as background"),
        ({"solutions": {"a": LONG, "b": ["nothing in common"]}}, "too few"),
    ],
)
def test_general_without_its_parts_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        _general(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "hicro"}, "unknown preset 'hicro'; choose one of: paper, hicra, general"),
        (
            {"preset": "hicra", "background": SHORT, "solutions": AWAY},
            "takes one corpus, not several families",
        ),
        ({"preset": "hicra"}, "give them as background"),
        ({"background": SHORT}, "uses no background"),
    ],
)
def test_presets_and_backgrounds_belong_together(options, message):
    options = dict(options)
    with pytest.raises(ValueError, match=message):
        _build(options.pop("solutions", LONG), **options)


@pytest.mark.slow
def test_the_shipped_lexicons_are_rebuilt_from_their_traces(shared):
    traces = shared / "traces"
    names = ("skyt1_correct_27b", "skyt1_correct_32b_ckpts_aime24")
    files = [traces / f"{name}.jsonl.gz" for name in names]
    corpus = Corpus(files, correct="correct", one_per="question")
    short = Corpus([traces / "short_cot_controls.jsonl.gz"], boxed_only=False)
    assert build_lexicon(corpus, preset="hicra", background=short).grams == Lexicon.load("skyt1-hicra").grams


def test_general_is_rebuilt_from_its_families(shared):
    shipped, again = Lexicon.load("general"), general_lexicon(shared / "traces", name="general")
    assert (again.sha256, again.kinds) == (shipped.sha256, shipped.kinds)
