"""Sentence-level scores against numbers worked out by hand."""

import json

import pytest

from hicra.cli import main
from hicra.lexicon.labelled_sentences import (
    LabelError,
    Sentence,
    errors_table,
    read_sentences,
    schemes,
    score_sentences,
    score_table,
)
from hicra.lexicon.lexicon import Lexicon

WAIT = Lexicon.from_grams(["wait", "let me check"], name="wait")
SENTENCES = [
    Sentence("1", "Wait, is that so?", "Verification"),  # marked, planning
    Sentence("1", "Let me check.", "Verification"),  # marked, planning
    Sentence("1", "It is 4.", "Verification"),  # not marked, planning
    Sentence("2", "Wait for 3 hours.", "Deduction"),  # marked, not planning
    Sentence("2", "So it is 5.", "Deduction"),
]


def test_score_by_hand():
    score = score_sentences(WAIT, SENTENCES)
    assert (score.precision, score.recall, score.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (score.n, score.positive) == (5, 0.6)
    rows = {r.label: (r.sentences, r.marked, r.planning) for r in score.classes.itertuples()}
    assert rows == {"Verification": (3, pytest.approx(2 / 3), True), "Deduction": (2, 0.5, False)}


def test_the_bootstrap_draws_problems_not_sentences():
    one = score_sentences(WAIT, SENTENCES)
    # problem 1 alone has precision 1, both or problem 2 alone less: the interval must reach from 0 to 1
    assert one.intervals["precision"] == (0.0, 1.0)
    whole = [s._replace(problem="1") for s in SENTENCES]
    assert score_sentences(WAIT, whole).intervals["precision"] == pytest.approx((2 / 3, 2 / 3))


def test_every_error_stands_under_the_gram_that_explains_most():
    sentences = [*SENTENCES, Sentence("2", "It is 6.", "Verification"), Sentence("2", "Wait.", "Deduction")]
    table = errors_table(WAIT, sentences)
    rows = [tuple(row)[:4] + (row.text,) for row in table.itertuples(index=False)]
    assert rows == [
        ("wrongly marked", "wait", 2, 1, "Wait for 3 hours."),
        ("wrongly marked", "wait", 2, 1, "Wait."),
        # "it is" would mark both missed ones and "So it is 5.": 2 - 1; "it is 4" only its own: 1 - 0
        ("missed", "it is 6", 1, 0, "It is 6."),
        ("missed", "it is 4", 1, 0, "It is 4."),
    ]


def test_a_missed_sentence_without_words_is_told_too():
    table = errors_table(WAIT, [*SENTENCES, Sentence("2", "?!", "Verification")])
    assert dict(zip(table["text"], table["gram"], strict=True))["?!"] == ""


def test_the_command_prints_the_errors_by_gram(tmp_path, capsys):
    path = tmp_path / "labels.jsonl"
    rows = [{"problem_id": s.problem, "text": s.text, "label": s.label} for s in SENTENCES]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(["score-lexicon", "listing1", "--labels", str(path), "--errors", "1"]) == 0
    printed = capsys.readouterr().out
    assert "listing1, scheme -: 2 sentences wrongly marked\n  'wait': in 1 of them and 1 others" in printed
    assert "    [Deduction] Wait for 3 hours." in printed
    assert "listing1, scheme -: 1 sentences missed" in printed


def test_nothing_to_tell_apart_is_an_error():
    with pytest.raises(LabelError, match="0 of 5 sentences are planning; the labels are: Deduction, Verif"):
        score_sentences(WAIT, SENTENCES, {"Planning"})


def test_both_shapes_of_a_label_file(tmp_path):
    flat = tmp_path / "flat.jsonl"
    rows = [{"problem_id": s.problem, "text": s.text, "label": s.label} for s in SENTENCES]
    flat.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert read_sentences(flat) == SENTENCES
    nested = tmp_path / "nested.jsonl"
    chunks = [{"text": "Solve it.", "category": "Prompt"}]
    chunks += [{"text": s.text, "category": s.label} for s in SENTENCES]
    record = {
        "problem_id": 1,
        "chunks_by_taxonomy": {"a": chunks, "b": [{**c, "category": "x"} for c in chunks]},
    }
    nested.write_text(json.dumps(record) + "\n")
    assert schemes(nested) == ["a", "b"]
    assert [s.text for s in read_sentences(nested, "a")] == [s.text for s in SENTENCES]
    table = score_table([WAIT], nested)
    assert list(table["scheme"]) == ["a"]  # b labels nothing as planning
    assert table["precision"][0].startswith("0.67 [")
    with pytest.raises(LabelError, match="choose one of a, b"):
        read_sentences(nested)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem_id": 1, "text": "a"}, "has no field category or label; its fields are: problem_id, text"),
        ({"problem_id": 1, "text": "a", "label": "b"}, "labels no sentence as planning; its labels are: b"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_label_file(tmp_path, capsys, row, message):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert main(["score-lexicon", "listing1", "--labels", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_the_shipped_lexicons_keep_their_score(shared):
    table = score_table(
        [Lexicon.load(name) for name in ("listing1", "skyt1-paper", "skyt1-hicra", "general")],
        shared / "traces" / "math_multi_taxonomy.jsonl.gz",
    )
    scores = table[table["scheme"] == "ss"].set_index("lexicon")
    assert scores.loc["listing1", "f1"].startswith("0.52")
    assert scores.loc["skyt1-paper", "f1"].startswith("0.47")
    assert scores.loc["skyt1-hicra", "precision"].startswith("0.66")
    assert scores.loc["skyt1-hicra", "recall"].startswith("0.52")
    assert scores.loc["general", "f1"].startswith("0.59")
