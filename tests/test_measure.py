"""Any run's rollouts: values worked out by hand, formats, order of files, hostile text, planted effects."""

import bz2
import gzip
import json
import math
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hicra
from hicra import Lexicon
from hicra.cli import main
from hicra.dynamics.measure import measure
from hicra.dynamics.occurrences import GramFinder, gram_counts
from hicra.dynamics.readers import Fields, RolloutError, read_rollouts
from hicra.dynamics.report import report_html
from hicra.dynamics.sample import rarefied
from hicra.errors import HicraError
from hicra.words import segments

LEXICON = Lexicon.from_grams(["wait", "so", "let me check"], "three")
TEN = [
    (0, "p", "so it is two", 0),
    (0, "p", "wait it is so", 1),
    (0, "q", "it is four", 0),
    (0, "q", "so so", 0),
    (0, "q", "now wait", 1),
    (1, "p", "wait wait", 1),
    (1, "p", "so let me check", 1),
    (1, "q", "it is", 0),
    (1, "q", "wait. let me check it", 1),
    (1, "q", "so", 0),
]
ROWS = [dict(zip(("step", "problem", "response", "reward"), row, strict=True)) for row in TEN]


def _h(*counts):
    return -sum(c / sum(counts) * math.log2(c / sum(counts)) for c in counts)


def test_ten_rollouts_by_hand():
    steps = measure(ROWS, LEXICON).steps.pivot(index="step", columns="quantity", values="value")
    # Step 0: 15 words; so 4, wait 2. Step 1: 14 words; wait 3, so 2, let me check 2 (three words each).
    matched = 3 / 7 * _h(2, 2, 2) + 4 / 7 * _h(3, 1, 2)  # 6 of 7: one occurrence is left out
    expected = {
        "rollouts": (5, 5),
        "length": (3, 2.8),
        "accuracy": (0.4, 0.6),
        "reward": (0.4, 0.6),
        "pass_at_2": ((1 + 2 / 3) / 2, (1 + 2 / 3) / 2),
        "planning_share": (6 / 15, 11 / 14),
        "occurrences": (6, 7),
        "occurrences_per_1000_words": (400, 500),
        "semantic_entropy": (_h(4, 2), _h(3, 2, 2)),
        "semantic_entropy_matched": (_h(4, 2), matched),
        # p: so 2, wait 1; q the same. Then p: wait 2, so 1, check 1; q: wait 1, so 1, check 1.
        "semantic_entropy_within": (_h(2, 1), 4 / 7 * _h(2, 1, 1) + 3 / 7 * _h(1, 1, 1)),
        "semantic_entropy_between": (0, _h(3, 2, 2) - 4 / 7 * _h(2, 1, 1) - 3 / 7 * _h(1, 1, 1)),
        # Followers: so - it is two, wait - it is so: one each. Then: check - it.
        "conditional_entropy": (0, 0),
    }
    for name, values in expected.items():
        assert steps[name].tolist() == pytest.approx(values, abs=1e-9), name
    # The first two words: so 3, wait 2; and all 7 of step 1, of which 5 are drawn.
    assert steps["semantic_entropy_length_matched"][0] == pytest.approx(_h(3, 2))
    assert set(measure(ROWS, LEXICON).steps["problems"]) == {2}


def test_changes_are_those_of_the_ends():
    changes = measure(ROWS, LEXICON).changes.set_index("quantity")
    assert changes.loc["accuracy", "change"] == pytest.approx(0.2)
    assert changes.loc["length", "change"] == pytest.approx(-0.2)
    row = changes.loc["planning_share"]
    assert row["change"] == pytest.approx(11 / 14 - 6 / 15)
    assert row["low"] < row["change"] < row["high"]


TEXT = st.text(
    st.sampled_from("wait so let me check.,\n$'# \u00e9\u0301\u4e2d<|>\u0130\U0001f600ab"), max_size=60
)


@given(st.lists(TEXT, max_size=6))
@settings(deadline=None)
def test_many_texts_at_once_are_as_each_by_itself(texts):
    lexicon = Lexicon.from_grams(["wait", "so", "let me", "let me check", "me check so", "## so"])
    found = GramFinder(lexicon)(texts)
    matches = [(i, m.gram) for i, text in enumerate(texts) for m in lexicon.find(text)]
    assert [(i, lexicon.grams[g]) for i, g in zip(found.text, found.gram, strict=True)] == matches
    assert found.n_words.tolist() == [sum(map(len, segments(text))) for text in texts]
    counts, followers = gram_counts(texts, GramFinder(lexicon))
    expected = {}
    for text in texts:
        words, spans = [w for run in segments(text) for w in run], lexicon.find(text)
        for match in spans:
            after = [w for w in words if w.start >= match.end][:3]
            if after and not any(m.start < after[0].end and m.end > after[0].start for m in spans):
                own = expected.setdefault(match.gram, {})
                key = " ".join(w.text for w in after)
                own[key] = own.get(key, 0) + 1
    assert sum(counts.values()) == len(matches)
    assert {g: dict(f) for g, f in followers.items()} == expected


def test_a_letter_is_found_however_it_was_typed():
    finder = GramFinder(Lexicon.from_grams(["d\u00e9j\u00e0 vu", "\uac01 \ub098"]))
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, "D\u00e9j\u00e0 vu, \uac01 \ub098 \ub2e4")
        assert finder([text]).gram.tolist() == [0, 1]
        counts, followers = gram_counts([text], finder)
        assert counts == {"d\u00e9j\u00e0 vu": 1, "\uac01 \ub098": 1}
        assert followers == {"\uac01 \ub098": {"\ub2e4": 1}}


def _write(folder, kind):
    """The ten rollouts as each trainer would write them; what to give to the command."""
    folder.mkdir()
    if kind == "verl":
        for step in (0, 1):
            rows = [
                {"input": p, "output": t, "gts": "4", "score": float(r), "step": s}
                for s, p, t, r in TEN
                if s == step
            ]
            (folder / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [str(folder)]
    if kind == "trl":
        for step in (0, 1):
            rows = [(s, p, t, float(r), 0.1) for s, p, t, r in TEN if s == step]
            frame = pd.DataFrame(rows, columns=["step", "prompt", "completion", "my_reward", "advantage"])
            frame.to_parquet(folder / f"completions_{step:05d}.parquet")
        return [str(folder)]
    if kind == "chat":
        rows = [
            {
                "step": s,
                "messages": [
                    {"role": "user", "content": p},
                    {"role": "assistant", "content": [{"type": "text", "text": t}]},
                ],
                "score": r,
            }
            for s, p, t, r in TEN
        ]
        (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [str(folder / "chat.jsonl")]
    frame = pd.DataFrame(TEN, columns=["when", "task", "said", "points"])
    fields = [
        "--step-field",
        "when",
        "--problem-field",
        "task",
        "--text-field",
        "said",
        "--reward-field",
        "points",
    ]
    lines = frame.to_json(orient="records", lines=True).encode()
    if kind == "csv":
        frame.to_csv(folder / "all.csv", index=False)
    elif kind == "parquet":
        frame.to_parquet(folder / "all.parquet")
    elif kind == "jsonl.gz":
        (folder / "all.jsonl.gz").write_bytes(gzip.compress(lines))
    elif kind == "jsonl.bz2":
        (folder / "all.jsonl.bz2").write_bytes(bz2.compress(lines))
    else:
        (folder / "all.jsonl.zst").write_bytes(pa.Codec("zstd").compress(lines, asbytes=True))
    return [str(next(folder.iterdir())), *fields]


@pytest.mark.parametrize(
    "kind", ["verl", "trl", "chat", "csv", "parquet", "jsonl.gz", "jsonl.bz2", "jsonl.zst"]
)
def test_every_format_gives_the_same_numbers(tmp_path, kind, capsys):
    given_ = _write(tmp_path / "in", kind)
    LEXICON.save(tmp_path / "three.json")
    arguments = [
        "measure",
        *given_,
        "--lexicon",
        str(tmp_path / "three.json"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    assert "5 files in" in capsys.readouterr().out
    steps = pd.read_csv(tmp_path / "out" / "steps.csv").drop(columns="run")
    expected = measure(ROWS, LEXICON).steps.drop(columns="run")
    pd.testing.assert_frame_equal(steps, expected, rtol=1e-4, check_dtype=False)


def test_the_order_of_files_and_rows_plays_no_part(tmp_path):
    rng = np.random.default_rng(0)
    one, other = (measure([ROWS[i] for i in order], LEXICON) for order in (range(10), rng.permutation(10)))
    pd.testing.assert_frame_equal(one.steps, other.steps, check_exact=True)
    pd.testing.assert_frame_equal(one.changes, other.changes, check_exact=True)
    assert one.traces == other.traces


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"[1, 2]", "a.json", "one JSON array; write one object a line"),
        (b"SQLite format 3\0", "a.db", "an SQLite database, not JSON Lines; export"),
        (b"PAR1broken", "a.parquet", "a damaged parquet file"),
        (b"\x1f\x8bxx", "a.jsonl.gz", "the gzip data are truncated or damaged"),
        (b'{"step": 1}\n', "a.jsonl", "has no text; name its field .* it has: step"),
        (b'{"response": "x", "step": null}\n', "a.jsonl", "step is empty"),
        (b'{"response": "x", "step": 1.5}\n', "a.jsonl", "1.5; a step is a whole number"),
        (b'{"response": "x", "reward": "high"}\n', "a.jsonl", "'high'; give a finite number"),
        (b'{"response": 7}\n', "a.jsonl", "the text is a int; give a string or chat messages"),
        (b'{"response": "x", "correct": "maybe"}\n', "a.jsonl", "'maybe'; give true, false"),
    ],
)
def test_what_cannot_be_read_is_refused_by_what_it_is(tmp_path, content, name, message, capsys):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(HicraError, match=message):
        measure(path, LEXICON)
    assert main(["measure", str(path), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_a_hub_data_set_must_be_pinned(monkeypatch):
    import datasets

    with pytest.raises(RolloutError, match="is not pinned; give hub:OWNER/NAME@COMMIT"):
        list(read_rollouts("hub:owner/name"))
    seen = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **how: seen.update(how, name=name) or ROWS)
    found = list(read_rollouts(f"hub:owner/name@{'a' * 40}:test"))
    assert (len(found), found[0].run, found[0].text) == (10, "owner/name", "so it is two")
    assert seen == {"name": "owner/name", "revision": "a" * 40, "split": "test", "streaming": True}


def test_runs_side_by_side_are_told_apart(tmp_path):
    for name in ("a", "b"):
        _write(tmp_path / name, "csv")
    with pytest.raises(RolloutError, match="two runs are called 'all'; name them: NAME="):
        list(read_rollouts([tmp_path / "a" / "all.csv", tmp_path / "b" / "all.csv"], Fields(text="said")))
    named = [f"one={tmp_path}/a/all.csv", f"two={tmp_path}/b/all.csv"]
    assert {r.run for r in read_rollouts(named, Fields(text="said", step="when"))} == {"one", "two"}


def test_what_cannot_be_computed_is_left_out_and_said():
    found = measure([{"response": "so it goes"}, {"response": "wait so"}], LEXICON)
    said = " ".join(found.notes)
    for part in ("No problem field", "No accuracy", "No reward", "No perplexity", "each run has one step"):
        assert part in said
    assert not {"accuracy", "reward", "perplexity_planning"} & set(found.steps["quantity"])
    assert found.changes.empty


def test_no_interval_passes_what_a_quantity_can_be():
    steps = measure(ROWS, LEXICON).steps.set_index("quantity")
    assert steps.loc["accuracy", "high"].max() == 1.0  # 3 of 5 right, in two problems
    assert (steps[steps["unit"] != "reward"]["low"].dropna() >= 0).all()
    assert (steps[steps["unit"] == "share"]["high"].dropna() <= 1).all()


def test_rewards_need_a_threshold_unless_they_are_0_and_1():
    rows = [row | {"reward": row["reward"] - 0.5} for row in ROWS]
    assert "accuracy" not in set(measure(rows, LEXICON).steps["quantity"])
    found = measure(rows, LEXICON, fields=Fields(correct_above=0)).steps
    assert found[found["quantity"] == "accuracy"]["value"].tolist() == pytest.approx([0.4, 0.6])


def test_tokens_with_their_values_give_perplexity_by_class():
    row = {
        "response": "so a b",
        "tokens": ["so", " a", " b"],
        "logp": [-1.0, -2.0, -4.0],
        "entropy": [0.5, 1.0, 2.0],
    }
    found = measure([row], LEXICON).steps.set_index("quantity")["value"]
    assert found["perplexity_planning"] == pytest.approx(math.e)
    assert found["perplexity_execution"] == pytest.approx(math.exp(3))
    assert (found["entropy_planning"], found["entropy_execution"]) == pytest.approx((0.5, 1.5))
    with pytest.raises(RolloutError, match="has 3 tokens and 2 values"):
        measure([row | {"logp": [0.0, 0.0]}], LEXICON)


@pytest.fixture(scope="module")
def scorer():
    pytest.importorskip("torch")
    from hicra.dynamics.scoring import Scorer

    return Scorer("data/families/base", temperature=0.7)


def test_a_checkpoint_scores_each_rollout_as_it_stands_alone(scorer):
    import torch

    rows = [
        {"prompt": "Start with 31 and add 4.", "response": "Let me try 31 + 4 = 35. So it is 35."},
        {"prompt": "Take 7.", "response": "wait\u00e9 7", "step": 1},
        {"prompt": "Take 7.", "response": "", "step": 1},
    ]
    read = list(read_rollouts(rows))
    scored = scorer(read)
    assert [s.text for s in scored] == [r["response"] for r in rows]
    for one, row in zip(scored[:2], rows, strict=False):
        assert "".join(one.tokens) == row["response"]
        prompt, written = (
            scorer.tokenizer(row[name], add_special_tokens=name == "prompt")["input_ids"]
            for name in ("prompt", "response")
        )
        with torch.no_grad():
            logits = scorer.model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1)  # (T, V)
        assert one.logp == pytest.approx(expected[range(len(written)), written].tolist(), abs=1e-4)
        assert one.entropy == pytest.approx((-expected.exp() * expected).sum(-1).tolist(), abs=1e-4)
    assert scored[2].tokens == scored[2].logp == []
    found = measure(rows[:1], Lexicon.from_grams(["let me try"], "one"), score=scorer)
    assert {"perplexity_planning", "entropy_execution"} <= set(found.steps["quantity"])
    assert not any("perplexity" in note for note in found.notes)


def test_what_cannot_be_scored_is_refused(scorer, tmp_path, capsys):
    with pytest.raises(RolloutError, match="without a prompt cannot be scored; name it: --prompt-field"):
        scorer(list(read_rollouts([{"response": "so"}])))
    with pytest.raises(RolloutError, match="the model reads"):
        scorer(list(read_rollouts([{"prompt": "7", "response": "so it is 2 " * 2000}])))
    path = tmp_path / "rollouts.jsonl"
    path.write_text(json.dumps({"prompt": "7", "response": "so"}))
    assert main(["measure", str(path), "--out", str(tmp_path / "out"), "--score", str(tmp_path)]) == 2
    assert "give a checkpoint's folder or Hub name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_chat_messages_give_the_prompt_they_end_on():
    chat = [{"role": "user", "content": "7?"}, {"role": "assistant", "content": "so"}]
    [one, two] = read_rollouts([{"messages": chat}, {"prompt": chat[:1], "completion": "so"}])
    assert one.prompt == two.prompt == chat[:1]
    [many] = read_rollouts([{"messages": chat * 2}])
    assert many.prompt is None


def _planted(seed, *, up=1.0, pays=0.0):
    """200 problems x 4 completions at two steps: `wait` is `up` times as frequent later, and pays in success."""
    rng, rows = np.random.default_rng(seed), []
    for step in (0, 1):
        for problem in range(200):
            for _ in range(4):
                waits = rng.random() < 0.3 * (up if step else 1)
                words = ["so"] * rng.integers(0, 3) + ["wait"] * int(waits) + ["a"] * rng.integers(5, 20)
                right = bool(rng.random() < 0.4 + pays * waits)
                rows.append(
                    {
                        "step": step,
                        "problem": str(problem),
                        "response": " ".join(rng.permutation(words)),
                        "correct": right,
                    }
                )
    return rows


def test_planted_changes_are_found_and_nothing_else_is():
    found = measure(_planted(0, up=2.0, pays=0.3), LEXICON)
    grams = found.grams.set_index("gram")
    assert grams.loc["wait", "q"] < 1e-6
    assert grams.loc["wait", "change"] > 0
    assert grams.loc["so", "q"] > 0.01
    success = found.success.set_index("gram")
    assert success.loc["wait", "low"] < 0.3 < success.loc["wait", "high"]
    assert success.loc["wait", "q"] < 1e-6
    assert success.loc["so", "q"] > 0.01


def test_without_an_effect_p_values_are_not_small():
    found = [measure(_planted(seed), LEXICON, resamples=2) for seed in range(40)]
    for table in ("grams", "success"):
        p = np.concatenate([getattr(m, table)["p"] for m in found])
        assert p.size == 80
        assert (p < 0.05).mean() < 0.15  # binomial: 0.1 percent of the time above


def test_resamples_are_rarefied_as_by_the_exact_formula():
    from hicra.dynamics.entropy import rarefied_entropy

    counts = np.random.default_rng(0).poisson([400, 120, 60, 9, 3, 1] * 3, (20, 18))
    counts[:, 0] += counts.sum(1).max() - counts.sum(1)  # equal totals: then both are of one size
    exact = [rarefied_entropy(row, 300) for row in counts]
    assert rarefied(counts, 300) == pytest.approx(exact, abs=2e-3)


class _Page(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [
            v for k, v in attrs if k in ("src", "href", "action") and not str(v).startswith("#")
        ]


def test_hostile_text_stays_text(tmp_path):
    evil = '</script><script>document.title="run"</script><img src=x onerror=alert(1)> so "\' \ud800'
    rows = [row | {"response": evil, "run": '"><b>' + evil[:20]} for row in ROWS]
    path = tmp_path / "report.html"
    measure(rows, LEXICON).report(path)
    page = _Page(path.read_text())
    assert page.tags.count("script") == 1
    assert not {"img", "b", "iframe", "link"} & set(page.tags)
    assert [a for a in page.addresses if "xlink" not in str(a)] == []
    assert "&lt;img src=x" in path.read_text()


def test_a_report_has_its_figure_tables_and_marked_traces():
    page = report_html(measure(ROWS, LEXICON))
    tags = _Page(page).tags
    assert tags.count("svg") == 1
    assert tags.count("article") == 6  # three of each step
    assert "<mark>so let me check</mark>" in page or "<mark>wait</mark>" in page


def test_it_works_without_torch():
    code = "import sys, hicra; n = len(hicra.measure([{'response': 'so it is'}]).steps); print(n * ('torch' not in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
    assert hicra.measure is measure
