"""Loading, saving, matching and thinning a lexicon of Strategic Grams."""

import copy
import json
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hicra.cli import main
from hicra.dynamics.entropy import cluster_counts
from hicra.lexicon.lexicon import Lexicon, LexiconError, Match, shipped
from hicra.words import segments
from tests.fuzz import fuzz


def test_grams_are_normalised_merged_and_sorted():
    lexicon = Lexicon.from_grams(["Wait, no", "hmm,", "wait no?", "## Step"], name="mine")
    assert lexicon.grams == ("## step", "hmm", "wait no")
    assert lexicon.clusters == {"## step": 0, "hmm": 1, "wait no": 2}
    assert (len(lexicon), lexicon.name, lexicon.provenance) == (3, "mine", {})


def test_the_first_of_merged_entries_settles_the_cluster():
    lexicon = Lexicon.from_grams(
        ["wait, no", "so", "wait no"], clusters={"wait no": 9, "wait, no": 7, "so": 7}
    )
    assert lexicon.clusters == {"so": 7, "wait no": 7}


def test_find_gives_every_occurrence_with_offsets_into_the_text():
    lexicon = Lexicon.from_grams(["wait", "wait, no", "we need to", "need to find", "so"])
    text = "Wait — no. So we NEED to find it; so"
    assert lexicon.find(text) == [
        Match(0, 4, "wait"),
        Match(0, 9, "wait no"),
        Match(11, 13, "so"),
        Match(14, 24, "we need to"),
        Match(17, 29, "need to find"),
        Match(34, 36, "so"),
    ]
    assert [text[m.start : m.end] for m in lexicon.find(text)][1] == "Wait — no"


def test_find_crosses_no_boundary_and_no_word_is_matched_in_part():
    lexicon = Lexicon.from_grams(["so after", "let's", "## step", "use the fact"])
    assert lexicon.find("so. after also after let so afterwards") == []
    assert lexicon.find("use $x$ the fact, use \\(the fact") == []
    assert lexicon.find("a ## step\n### step\nstep") == []
    assert lexicon.find("so\nafter\n## Step 1: Let’s") == [
        Match(9, 16, "## step"),
        Match(20, 25, "let's"),
    ]


@fuzz(100)
@given(st.lists(st.sampled_from(["so", "we", "go", "SO", ",", ".", "\n"]), max_size=12))
def test_find_equals_trying_every_gram_at_every_word(pieces):
    text = " ".join(pieces)
    lexicon = Lexicon.from_grams(["so", "so we", "we go", "so we go so", "so so so"])
    expected = {
        (run[i].start, run[i + n - 1].end, gram)
        for run in segments(text)
        for i in range(len(run))
        for gram in lexicon.grams
        if (n := len(gram.split())) <= len(run) - i
        if [word.text for word in run[i : i + n]] == gram.split()
    }
    assert lexicon.find(text) == sorted(expected)


@pytest.mark.parametrize(
    ("grams", "message"),
    [
        ([], "empty"),
        (["so", "?!"], r"'\?!' has no word"),
        (["so. after"], "'so. after' has a boundary"),
        (["so", 3], "entry 3 must be a string"),
        ("so", "must be a list"),
    ],
)
def test_bad_entries_are_named(grams, message):
    with pytest.raises(ValueError, match=message):
        Lexicon.from_grams(grams)


def test_a_missing_or_odd_cluster_is_named():
    for clusters in ({"so": 1}, {"so": 1, "wait": "2"}, {"so": 1, "wait": True}):
        with pytest.raises(ValueError, match="'wait' has cluster"):
            Lexicon.from_grams(["so", "wait"], clusters=clusters)


def test_the_constructor_takes_only_consistent_parts():
    with pytest.raises(ValueError, match="normalised"):
        Lexicon(("Wait, no",), {"Wait, no": 0})
    with pytest.raises(ValueError, match="'wait'"):
        Lexicon(("so",), {"so": 0, "wait": 1})


def test_save_and_load_round_trip(tmp_path):
    lexicon = Lexicon.from_grams(
        ["wait, no", "οδός", 'say "so"'],
        "mine",
        provenance={"source": "by hand — §2", "n": [1, None]},
    )
    lexicon.save(tmp_path / "new" / "mine.json")
    again = Lexicon.load(tmp_path / "new" / "mine.json")
    assert again == lexicon
    assert again.provenance == lexicon.provenance
    assert again.sha256 == lexicon.sha256
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine.json"]


def test_copies_are_equal_and_lexicons_are_immutable():
    lexicon = Lexicon.from_grams(["so", "wait"])
    assert copy.deepcopy(lexicon) == pickle.loads(pickle.dumps(lexicon)) == lexicon
    assert hash(lexicon) == hash(Lexicon.from_grams(["wait", "so"]))
    with pytest.raises(AttributeError):
        lexicon.grams = ()


def test_the_hash_depends_on_grams_and_clusters_alone():
    one = Lexicon.from_grams(["so", "wait"], "one", clusters={"so": 1, "wait": 2})
    two = Lexicon.from_grams(["wait", "so"], "two", clusters={"wait": 2, "so": 1})
    assert one.sha256 == two.sha256
    assert one.sha256 != Lexicon.from_grams(["so", "wait"], clusters={"so": 1, "wait": 1}).sha256
    assert one.sha256 != Lexicon.from_grams(["so"], clusters={"so": 1}).sha256


GOOD = {"format": 1, "name": "n", "provenance": {}, "grams": [{"gram": "so", "cluster": 0}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
        ("[]", "is empty"),
        ("[1]", "entry 1 must be a string"),
        ('"so"', "format 'str'"),
        (GOOD | {"format": 2}, "format 2"),
        (GOOD | {"name": 5}, "'name' must be a str, not 5"),
        (GOOD | {"provenance": "x"}, "'provenance' must be a dict"),
        ({k: GOOD[k] for k in ("format", "name", "provenance")}, "'grams' must be a list"),
        (GOOD | {"grams": []}, "empty"),
        (GOOD | {"grams": ["so"]}, r"grams\[0\] is 'so'"),
        (GOOD | {"grams": [{"gram": ["so"], "cluster": 0}]}, r"grams\[0\] has gram \['so'\]"),
        (GOOD | {"grams": [{"gram": "so", "cluster": 0.5}]}, "'so' has cluster 0.5"),
        (GOOD | {"grams": [{"gram": "so", "cluster": 0, "kind": 1}]}, r"grams\[0\] has kind 1"),
        (GOOD | {"grams": [{"gram": "?", "cluster": 0}]}, "'\\?' has no word"),
    ],
)
def test_a_bad_file_is_one_clear_error_with_its_path(tmp_path, content, message):
    path = tmp_path / "bad.json"
    text = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        Lexicon.load(path)
    assert str(path) in str(error.value)


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(FileNotFoundError, match="'listing2'.*listing1"):
        Lexicon.load("listing2")


def test_the_papers_list_is_shipped():
    lexicon = Lexicon.load("listing1")
    assert "listing1" in shipped()
    # 249 entries; "step by step reasoning" stands there twice, once with hyphens
    assert lexicon.provenance["entries"] == 249
    assert len(lexicon) == lexicon.provenance["grams"] == 248
    assert {"## step", "hmm", "wait no", "does this make sense", "let's"} <= set(lexicon.grams)


def test_drop_leaves_the_stated_share_and_depends_on_the_seed_alone():
    lexicon = Lexicon.from_grams(
        [f"gram {i}" for i in range(10)], clusters={f"gram {i}": i // 2 for i in range(10)}
    )
    left = lexicon.drop(0.3, seed=1)
    assert len(left) == 7
    assert left.clusters.items() <= lexicon.clusters.items()
    assert left == lexicon.drop(0.3, seed=1)
    assert left.grams != lexicon.drop(0.3, seed=2).grams
    assert left.provenance["drop"]["fraction"] == 0.3
    assert lexicon.drop(0.0, seed=1).grams == lexicon.grams


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 0.96, float("nan")])
def test_drop_refuses_a_share_that_leaves_nothing(fraction):
    with pytest.raises(ValueError, match="fraction"):
        Lexicon.from_grams(["a b", "c d"]).drop(fraction, seed=0)


def test_kinds_are_saved_and_loaded_dropped_with_their_grams_and_serve_for_entropies(tmp_path):
    kinds = {"so": "stating", "wait": "backtracing", "wait no": "backtracing"}
    lexicon = replace(Lexicon.from_grams(kinds), kinds=kinds)
    lexicon.save(tmp_path / "kinds.json")
    again = Lexicon.load(tmp_path / "kinds.json")
    assert again.kinds == kinds
    assert again.sha256 == lexicon.sha256 == Lexicon.from_grams(kinds).sha256
    left = lexicon.drop(0.3, seed=0)
    assert left.kinds == {gram: kinds[gram] for gram in left.grams}
    assert cluster_counts({"wait": 2, "wait no": 1, "so": 4}, again.kinds) == {"backtracing": 3, "stating": 4}
    assert Lexicon.load("listing1").kinds == {}  # files without kinds still load


def test_kinds_of_some_grams_only_are_an_error():
    with pytest.raises(LexiconError, match="'wait' is not in both grams and kinds"):
        replace(Lexicon.from_grams(["so", "wait"]), kinds={"so": "stating"})


def test_every_shipped_lexicon_has_its_card(root, capsys):
    assert main(["cards"]) == 0
    cards = capsys.readouterr().out.removeprefix("# Lexicons\n\n")
    assert (root / "data" / "lexicons" / "README.md").read_text().endswith(cards)
    assert shipped() == [
        "families",
        "families-placebo",
        "families-recipe0",
        "families-recipe1",
        "general",
        "listing1",
        "released193",
        "skyt1-hicra",
        "skyt1-paper",
    ]
    for name in shipped():
        provenance = Lexicon.load(name).provenance
        assert provenance["source"]
        assert "licence" in provenance["source"] or "Apache-2.0" in provenance["source"]


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "gram": st.text(alphabet="so we.?\n", max_size=9) | st.integers(),
        "cluster": st.integers() | st.none(),
    },
)
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from([1, 1, 1, 0, "1", None]),
        "name": st.text(max_size=3) | st.none(),
        "provenance": st.dictionaries(st.text(max_size=2), st.integers(), max_size=2) | st.integers(),
        "grams": st.lists(ENTRY | st.integers(), max_size=4) | st.text(max_size=3),
    },
)


@fuzz(300)
@given(RECORD | st.lists(st.integers(), max_size=2) | st.none())
def test_any_json_is_a_lexicon_or_the_documented_error(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_text(json.dumps(record))
    try:
        lexicon = Lexicon.load(path)
    except LexiconError as error:
        assert "fuzz.json" in str(error)  # noqa: PT017 (either outcome is right)
    else:
        lexicon.save(path)
        assert Lexicon.load(path) == lexicon


def test_a_plain_list_of_phrases_is_a_lexicon(tmp_path):
    (tmp_path / "mine.txt").write_text("\ufeffLet's check\n\nwait, no\n", encoding="utf-8")
    (tmp_path / "mine.json").write_text('["Let\'s check", "wait, no"]')
    wanted = Lexicon.from_grams(["let's check", "wait no"])
    for name in ("mine.txt", "mine.json"):
        loaded = Lexicon.load(tmp_path / name)
        assert (loaded.grams, loaded.name, loaded.provenance) == (wanted.grams, "mine", {"source": name})
    (tmp_path / "mine.list").write_text("let's check\n")
    with pytest.raises(LexiconError, match="mine.list is not JSON .*one a line, is read from a .txt file"):
        Lexicon.load(tmp_path / "mine.list")
