"""Lexicons and measurements by shards are those of one machine, to the last bit; Ray is not needed for that."""

import dataclasses
import json
import pickle
import platform
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hicra import Lexicon
from hicra.cli import main
from hicra.dynamics.measure import measure
from hicra.dynamics.readers import RolloutError
from hicra.errors import HicraError
from hicra.lexicon import contrast, ngram_counts
from hicra.lexicon.build import build_lexicon
from hicra.lexicon.corpus import Corpus
from hicra.lexicon.ngram_counts import EncodedCorpus, frequent_ngrams, group_df, occurrences
from hicra.lexicon.shards import ShardedCorpus
from hicra.spread import Here, check_node, fingerprint

WORDS = st.lists(st.sampled_from(["a", "b", "c", "a.", "b,", "\n", "\u00e9", "e\u0301"]), max_size=12).map(
    " ".join
)
RECORD = st.tuples(WORDS, st.booleans(), st.integers(0, 5))
FILES = st.lists(st.lists(RECORD, min_size=1, max_size=5), min_size=1, max_size=4)


class Apart(Here):
    """As a cluster does it: everything is pickled on its way, and neighbours are merged in a tree."""

    def map(self, function, items, *common):
        sent = [pickle.loads(pickle.dumps((function, item, common))) for item in items]
        return [pickle.loads(pickle.dumps(f(*item, *shared))) for f, item, shared in sent]

    def keep(self, function, items, *common):
        return tuple(map(list, zip(*self.map(function, items, *common), strict=True))) or ([], [])

    def reduce(self, function, merge, items, *common):
        values = self.map(function, items, *common)
        while len(values) > 1:
            pairs = list(zip(values[::2], values[1::2], strict=False))
            values = self.map(merge, pairs) + values[len(pairs) * 2 :]
        return values[0]


def _write(folder, files):
    paths = []
    for number, records in enumerate(files):
        paths.append(folder / f"{number}.jsonl")
        rows = [dict(zip(("response", "correct", "question"), r, strict=True)) for r in records]
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


@settings(max_examples=150, deadline=None)
@given(files=FILES, min_df=st.integers(1, 3), one_per=st.sampled_from([None, "question"]))
def test_counts_by_shards_are_those_of_one_machine(tmp_path_factory, files, min_df, one_per):
    paths = _write(tmp_path_factory.mktemp("shards"), files)
    make = partial(Corpus, paths, correct="correct", one_per=one_per, boxed_only=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_counts, "BLOCK", 20)
        patch.setattr(ngram_counts, "BUCKETS", 4)
        whole, cut = make(), make()
        one, other = EncodedCorpus(whole), ShardedCorpus(cut, (3, 4, 5), Apart())
        assert (whole.kept, whole.dropped) == (cut.kept, cut.dropped)
        assert (len(one), one.n_words, one.sha256) == (len(other), other.n_words, other.sha256)
        if not len(one):
            return
        tables = [frequent_ngrams(corpus, min_df) for corpus in (one, other)]
        assert pickle.dumps(tables[0]) == pickle.dumps(tables[1])
        if tables[0].grams:
            labels = np.arange(len(tables[0].grams)) % 3
            for count in (lambda c, t: group_df(c, t, labels), occurrences):
                assert count(one, tables[0]).tobytes() == count(other, tables[1]).tobytes()


def _corpus(folder, n=60):
    phrases = ["let us try again now", "we should go back here", "let us check this once more"]
    rows = [(f"{phrases[i % 3]}. number {i % 50} it is so", i % 7 > 0, i % 55) for i in range(n)]
    folder.mkdir()
    cuts = [0, n // 3, n // 3 + 1, 2 * n // 3, n]
    return _write(folder, [rows[i:j] for i, j in pairwise(cuts)])


@pytest.mark.parametrize("preset", ["paper", "hicra", "general"])
def test_a_lexicon_by_shards_is_the_same_file(tmp_path, preset, monkeypatch):
    for name, value in {"MIN_CONTRAST": -99, "MAX_EARLY": 1, "MIN_STEERING": -99}.items():
        monkeypatch.setattr(contrast, name, value)
    paths, short = _corpus(tmp_path / "long"), _write(tmp_path, [[("it is so", True, 1), ("now", True, 2)]])
    made = []
    for spread in (None, Apart()):
        texts = {name: Corpus(paths, boxed_only=False, one_per="question") for name in ("a", "b")}
        lexicon = build_lexicon(
            texts if preset == "general" else texts["a"],
            preset=preset,
            background=None if preset == "paper" else Corpus(short, boxed_only=False),
            n_clusters=3,
            spread=spread,
        )
        lexicon.save(tmp_path / "made.json")
        made.append((tmp_path / "made.json").read_bytes())
    assert made[0] == made[1]


def _rollouts(folder):
    """Two runs in five files, each with steps in several files; no problems named in one row."""
    rng = np.random.default_rng(0)
    for number, run in enumerate("ababa"):
        rows = []
        for i in range(40):
            text = " ".join(rng.choice(["wait", "so", "let me", "it is", "now."], rng.integers(1, 9)))
            rows.append({"step": int(rng.integers(6)), "problem": i % 5, "response": text, "reward": i % 2})
        (folder / run).mkdir(exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / run / f"part-{number}.jsonl").write_text(lines)
    return [folder / "a", folder / "b"]


@pytest.mark.parametrize("named", [True, False])
def test_a_measurement_by_files_and_steps_is_the_same(tmp_path, named):
    lexicon = Lexicon.from_grams(["wait", "so", "let me"], "three")
    paths = _rollouts(tmp_path)
    if not named:
        path = tmp_path / "b" / "part-3.jsonl"
        path.write_text(path.read_text().replace('"problem": 3', '"other": 3'))
    one, other = (measure(paths, lexicon, resamples=20, spread=spread) for spread in (None, Apart()))
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, pd.DataFrame):
            pd.testing.assert_frame_equal(left, right, check_exact=True)
            assert left.to_csv() == right.to_csv()
        else:
            assert left == right
    assert len(one.changes)
    assert len(one.traces)


def test_what_a_cluster_cannot_read_is_refused(tmp_path):
    with pytest.raises(HicraError, match="give a Corpus, by its sources"):
        build_lexicon(["so it is"], spread=Here())
    with pytest.raises(RolloutError, match="reads files, not a dict"):
        measure([{"response": "so"}], spread=Here())
    with pytest.raises(RolloutError, match="a cluster does not score"):
        measure(_rollouts(tmp_path), score=list, spread=Here())


def test_the_first_bad_source_is_named(tmp_path):
    paths = _write(tmp_path, [[("a", True, 0)], [("b", True, 1)]])
    paths[1].write_text('{"response": 3}\n')
    with pytest.raises(HicraError, match="1.jsonl, line 1: field 'response' holds 3"):
        ShardedCorpus(Corpus(paths, boxed_only=False), (3,), Apart())


def test_a_node_with_another_hicra_is_refused_by_name():
    check_node(fingerprint())
    with pytest.raises(HicraError, match=f"node {platform.node()} has Python .*, this machine Python 3.9"):
        check_node("Python 3.9")


@pytest.mark.parametrize("command", ["lexicon --solutions a --out b", "measure a --out b", "experiments"])
def test_without_ray_one_line_names_the_extra(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*command.split(), "--on", "auto"]) == 2
    assert capsys.readouterr().err == "hicra: --on auto needs ray: pip install 'hicra[ray]'\n"
    assert list(tmp_path.iterdir()) == []
