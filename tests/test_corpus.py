"""Solutions from files: what is used, what is dropped and why, and what is refused."""

import gzip
import json

import pytest

from hicra.cli import main
from hicra.files import JsonlError
from hicra.lexicon.corpus import Corpus, CorpusError, loops
from hicra.lexicon.lexicon import Lexicon

GOOD = "We should try this. So it is \\boxed{4}."


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_is_dropped_is_counted_by_reason(tmp_path):
    loop = "so it is again and again and " * 80 + "\\boxed{1}"
    rows = [
        {"response": GOOD, "correct": True, "question": "a"},
        {"response": GOOD.replace("try", "Try,"), "correct": 1, "question": "b"},  # the same words
        {"response": "Another one: \\boxed{4}", "correct": True, "question": "a"},
        {"response": "wrong \\boxed{5}", "correct": False, "question": "c"},
        {"response": "no box", "correct": True, "question": "d"},
        {"response": loop, "correct": True, "question": "e"},
        {"response": "<think>First</think> this \\boxed{2}", "correct": True, "question": "f"},
    ]
    corpus = Corpus([_write(tmp_path / "a.jsonl", rows)], correct="correct", one_per="question")
    kept = list(corpus)
    assert kept == [GOOD, "\nFirst\n this \\boxed{2}"]  # the markers of a format are no words
    assert corpus.kept == 2
    assert corpus.dropped == {
        "duplicate": 1,
        "another solution of its problem": 1,
        "not correct": 1,
        "no boxed answer": 1,
        "looping tail": 1,
    }
    assert list(corpus) == kept  # it can be read again


def test_a_prompt_before_a_mark_is_cut(tmp_path):
    rows = [{"response": f"Solve it. <think>{GOOD}"}, {"response": f"No mark. {GOOD}"}]
    corpus = Corpus([_write(tmp_path / "a.jsonl", rows)], after="<think>")
    assert list(corpus) == [GOOD, f"No mark. {GOOD}"]


def test_loops_are_long_repetitions_at_the_end():
    words = [str(i) for i in range(400)]
    assert not loops(words)
    assert not loops(["yes"] * 20)  # too short to call
    assert loops(words + [["the", "same", "thing", "again"][i % 4] for i in range(300)])
    assert not loops([*["a", "b"] * 300, *words])  # what repeats is not the end


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"text": "x"}, {}, r"a.jsonl, line 1 has no field 'response'; its fields are: text"),
        ({"response": GOOD}, {"correct": "right"}, "no field 'right'"),
        (
            {"response": GOOD, "right": "yes"},
            {"correct": "right"},
            "holds 'yes', not true, false, 1 or 0; .*correct_above",
        ),
        ({"response": GOOD}, {"one_per": "question"}, "no field 'question'"),
        ({"response": 3}, {}, "holds 3, not a text"),
    ],
)
def test_a_record_that_cannot_be_read_names_its_place(tmp_path, row, options, message):
    with pytest.raises(CorpusError, match=message):
        list(Corpus([_write(tmp_path / "a.jsonl", [row])], **options))


def _solutions(n=30):
    phrases = ["let us try again now", "we should go back here", "let us check this once more"]
    return [{"response": f"{phrases[i % 3]}. number {i} it is \\boxed{{{i}}}"} for i in range(n)]


def test_the_command_builds_a_lexicon_and_says_what_it_dropped(tmp_path, capsys):
    source = _write(tmp_path / "a.jsonl", [*_solutions(), {"response": "no answer here"}])
    out = tmp_path / "made.json"
    assert main(["lexicon", "--solutions", str(source), "--out", str(out), "--n-clusters", "3"]) == 0
    lexicon = Lexicon.load(out)
    assert lexicon.name == "made"
    assert lexicon.provenance["dropped"] == {"solutions": {"no boxed answer": 1}}
    assert lexicon.provenance["counts"]["solutions"] == 30
    assert "solutions dropped: 1 no boxed answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b'{"response": "a"}\n' * 100, mtime=0)[:-20], "gzip"),
        (b'{"response": "\xff"}\n', "UTF-8"),
        (b'{"text": "a"}\n', "no field 'response'"),
        (b"", "empty"),
        (b'{"response": "no box"}\n', "no solution to build a lexicon from"),
        (b'{"response": "a b c \\\\boxed{1}"}\n', "too few"),
    ],
)
def test_bad_input_ends_in_one_error_and_no_lexicon(tmp_path, capsys, content, message):
    source, out = tmp_path / "a.jsonl", tmp_path / "made.json"
    source.write_bytes(content)
    assert main(["lexicon", "--solutions", str(source), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["lexicon", "--solutions", str(tmp_path / "x"), "--out", str(tmp_path / "y")]) == 2
    assert "is not a file" in capsys.readouterr().err
    with pytest.raises(JsonlError):
        list(Corpus([_write(tmp_path / "a.jsonl", [])]))


def test_rewards_are_right_above_a_threshold(tmp_path):
    path = tmp_path / "rewards.jsonl"
    rows = [(0.9, "a"), (-1, "b"), (1, "c"), (0.5, "d"), (True, "e")]
    path.write_text("".join(json.dumps({"response": f"{GOOD} {x}", "reward": r}) + "\n" for r, x in rows))
    options = {"correct": "reward", "boxed_only": False}
    assert [text[-1] for text in Corpus([path], correct_above=0.5, **options)] == ["a", "c", "e"]
    with pytest.raises(CorpusError, match="holds 0.9, not true, false, 1 or 0; .*--correct-above"):
        list(Corpus([path], **options))
    path.write_text(json.dumps({"response": GOOD, "reward": "high"}) + "\n")
    with pytest.raises(CorpusError, match="holds 'high', not a number"):
        list(Corpus([path], correct_above=0.5, **options))


def test_thinking_ends_where_the_answer_begins(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = ["<think>wait</think>so 1", "<|begin_of_thought|>hmm<|end_of_thought|>2", "<think>never ends"]
    path.write_text("".join(json.dumps({"response": t}) + "\n" for t in texts))
    corpus = Corpus([path], boxed_only=False, thinking=True)
    assert [text.strip() for text in corpus] == ["wait", "hmm"]
    assert corpus.dropped == {"no end of thinking": 1}
