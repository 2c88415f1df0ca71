"""JSON Lines, problem sets, splits and contamination."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hicra.files import JsonlError, iter_jsonl
from hicra.study.problems.contamination import contamination, refuse_contaminated
from hicra.study.problems.problem_sets import Problem, ProblemError, from_hub, problem_key, read_jsonl, split
from tests.fuzz import fuzz

DATA = Path(__file__).parents[2] / "shared" / "data"
ROWS = [{"problem": "What is 2+3?", "answer": "5"}, {"problem": "And 2-3?", "answer": -1}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def write(path, data):
    path.write_bytes(data)
    return path


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "packed.jsonl"])
def test_plain_and_gzip_give_the_same_problems(tmp_path, name):
    data = LINES if name == "a.jsonl" else gzip.compress(LINES, mtime=0)
    assert list(read_jsonl(write(tmp_path / name, data))) == [
        Problem("What is 2+3?", "5", f"{name}:1"),
        Problem("And 2-3?", "-1", f"{name}:2"),
    ]


def test_blank_lines_are_passed_over_and_still_counted(tmp_path):
    path = write(tmp_path / "a.jsonl", b"\n" + LINES.replace(b"\n", b"\r\n \n"))
    assert [number for number, _ in iter_jsonl(path)] == [2, 4]


def test_reading_is_streamed(tmp_path):
    path = write(tmp_path / "a.jsonl", LINES + b"broken\n")
    rows = iter_jsonl(path)
    assert [next(rows), next(rows)] == [(1, ROWS[0]), (2, ROWS[1])]
    with pytest.raises(JsonlError, match="line 3"):
        next(rows)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"a\.jsonl is empty"),
        (b" \n\n", r"a\.jsonl is empty"),
        (LINES + b'{"problem": "caf\xe9"}\n', r"a\.jsonl, line 3: byte 16 is not valid UTF-8"),
        (LINES + b'{"problem": \n', r"a\.jsonl, line 3: this is not JSON"),
        (LINES + b'{"problem": NaN}', r"line 3: this is not JSON \(NaN"),
        (LINES + b"[" * 100_000, r"line 3: this is not JSON"),
        (LINES + b'{"n": ' + b"9" * 5000 + b"}", r"line 3: this is not JSON"),
        (LINES + b"[1]\n", r"line 3: this is a list"),
        (LINES + rb'{"problem": "\ud800"}', r"line 3: a \\u escape is half a surrogate"),
        (gzip.compress(LINES * 50, mtime=0)[:-9], r"a\.jsonl, after line \d+: the gzip data are truncated"),
        (gzip.compress(LINES, mtime=0)[:-8] + bytes(8), r"a\.jsonl, after line 2: the gzip data"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, data, message):
    with pytest.raises(JsonlError, match=message):
        list(iter_jsonl(write(tmp_path / "a.jsonl", data)))


def test_a_missing_file_and_plain_text_named_gz(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl is not a file"):
        list(iter_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(JsonlError, match="after line 0: the gzip data"):
        list(iter_jsonl(write(tmp_path / "a.jsonl.gz", LINES)))


@fuzz(300)
@given(data=st.binary(max_size=200) | st.text(alphabet='{}[]":,\\u0dnN \n12e', max_size=60))
def test_any_bytes_give_objects_or_the_documented_error(tmp_path_factory, data):
    raw = data.encode() if isinstance(data, str) else data
    path = write(tmp_path_factory.getbasetemp() / "fuzz.jsonl", raw)
    try:
        assert all(isinstance(record, dict) for _, record in iter_jsonl(path))
    except JsonlError as error:
        assert "fuzz.jsonl" in str(error)  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "x"}, r"line 1: field 'answer' is missing \(there are: problem\)"),
        ({"problem": "x", "answer": None}, "field 'answer' is a NoneType"),
        ({"problem": "x", "answer": True}, "field 'answer' is a bool"),
        ({"problem": " ", "answer": "1"}, "field 'problem' is empty"),
        ({"problem": ["x"], "answer": "1"}, "field 'problem' is a list"),
    ],
)
def test_a_bad_field_is_named(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", json.dumps(row).encode())
    with pytest.raises(ProblemError, match=message):
        list(read_jsonl(path))


def test_the_answer_after_a_mark(tmp_path):
    row = {"question": "q", "answer": "2 #### no\n#### 72 "}
    path = write(tmp_path / "a.jsonl", json.dumps(row).encode())
    assert next(read_jsonl(path, "question", answer_mark="####")).answer == "72"
    with pytest.raises(ProblemError, match="no answer after '@@'"):
        next(read_jsonl(path, "question", answer_mark="@@"))


# --- the Hub -----------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", ["main", "v1.0", "", "a" * 39, "A" * 40, "a" * 40 + "\n"])
def test_a_revision_that_can_move_is_refused_before_anything_is_fetched(monkeypatch, revision):
    monkeypatch.setattr("datasets.load_dataset", None)
    with pytest.raises(ProblemError, match="is not a commit"):
        from_hub("openai/gsm8k", revision, "train")


def test_from_hub_asks_for_the_revision_and_reads_the_fields(monkeypatch):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return [{"question": "q", "answer": "so\n#### 72"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    found = from_hub("openai/gsm8k", "a" * 40, "train", "question", config="main", answer_mark="####")
    assert found == [Problem("q", "72", "openai/gsm8k:0", "so\n#### 72")]
    assert asked == [(("openai/gsm8k", "main"), {"split": "train", "revision": "a" * 40})]


# --- splits ------------------------------------------------------------------------------------


def numbered(n):
    return [Problem(f"What is {i} plus {i}?", str(2 * i), f"f:{i}") for i in range(n)]


def test_split_is_disjoint_deterministic_and_blind_to_order():
    problems = numbered(50)
    training, held_out = split(problems, 10, seed=1)
    assert (len(training), len(set(held_out))) == (40, 10)
    assert sorted(training + held_out) == sorted(problems)
    assert split(problems[::-1], 10, seed=1) == (training[::-1], held_out)
    assert split(problems, 10, seed=2)[1] != held_out


def test_split_takes_all_copies_of_a_problem_to_one_side():
    copies = [p._replace(problem=p.problem.upper() + " ", source="copy") for p in numbered(20)]
    training, held_out = split(numbered(20) + copies, 5, seed=0)
    keys = {problem_key(p.problem) for p in held_out}
    assert (len(training), len(held_out), len(keys)) == (30, 5, 5)
    assert not keys & {problem_key(p.problem) for p in training}
    assert all(p.source != "copy" for p in held_out)


@pytest.mark.parametrize("n_eval", [-1, 5, 6])
def test_split_refuses_to_leave_no_training_problem(n_eval):
    with pytest.raises(ProblemError, match=f"n_eval is {n_eval}, but 5"):
        split(numbered(5), n_eval, seed=0)


# --- contamination -----------------------------------------------------------------------------

WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
]


def problem(text, source="t:1"):
    return Problem(text, "1", source)


def found(training, benchmark):
    report = contamination([problem(training)], {"b": [problem(benchmark, "b:1")]})
    return [(o.kind, o.shared) for o in report.overlaps]


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not():
    benchmark = "In all, " + " ".join(WORDS) + "."
    assert found("Zero, " + " ".join(WORDS[:12]) + " and more", benchmark) == []
    thirteen = " ".join(WORDS[:13])
    assert found(f"Zero {thirteen.upper()}!", benchmark) == [("13-gram", thirteen)]
    across = "Zero one, two. Three four -- five six; " + " ".join(WORDS[6:13])
    assert found(across, benchmark) == [("13-gram", thirteen)]


def test_short_problems_are_found_by_exact_match_only():
    assert found("  what is\n$2+3$ ?", "What is 2 + 3?") == [("exact", "")]
    assert found("What is 2-3?", "What is 2+3?") == []
    assert found("What is 2.5?", "What is 25?") == []


def test_planted_contamination_is_refused_unless_allowed_and_reported():
    benchmarks = {"aime": [problem("What is 2 + 3?", "aime:7")], "math": [problem(" ".join(WORDS))]}
    clean = numbered(5)
    exact = problem("what is 2+3", "t:90")
    near = problem("So " + " ".join(WORDS) + " then", "t:91")
    kept, report = refuse_contaminated([exact, *clean, near], benchmarks)
    assert kept == clean
    assert [(o.problem, o.benchmark, o.kind) for o in report.overlaps] == [
        (exact, "aime", "exact"),
        (near, "math", "13-gram"),
    ]
    assert (report.checked, report.removed) == (7, True)
    assert report.counts() == {("aime", "exact"): 1, ("math", "13-gram"): 1}
    assert str(report).startswith("removed 2 of 7 training problems")
    assert "t:90 = aime:7" in str(report)
    kept, report = refuse_contaminated([exact, *clean], benchmarks, allow=True)
    assert kept == [exact, *clean]
    assert str(report).startswith("found 1 of 6")


def test_no_benchmark_or_nothing_left_is_an_error():
    with pytest.raises(ProblemError, match="no benchmark problem"):
        contamination(numbered(1), {"empty": []})
    with pytest.raises(ProblemError, match="all 3 training problems"):
        refuse_contaminated(numbered(3), {"same": numbered(3)})


def shared(path):
    if not (DATA / path).is_file():
        pytest.skip(f"../shared/data/{path} is absent")
    return DATA / path


def test_gsm8k_training_set_against_its_test_set():
    training = read_jsonl(shared("train/gsm8k_train.jsonl.gz"))
    report = contamination(training, {"test": read_jsonl(shared("benchmarks/gsm8k_test.jsonl"))})
    assert report.checked == 7473
    assert report.counts() == {("test", "13-gram"): 4}  # the same story with other numbers


def test_math_training_set_against_math500():
    rows = iter_jsonl(shared("train/math_train.jsonl.gz"))  # two records have no answer
    training = (Problem(r["problem"], str(r["answer"]), f"math:{n}") for n, r in rows)
    benchmark = list(read_jsonl(shared("benchmarks/math500.jsonl")))
    report = contamination([*training, benchmark[0]], {"math500": benchmark})
    assert report.checked == 7475
    assert report.counts() == {("math500", "13-gram"): 154, ("math500", "exact"): 1}
    with pytest.raises(ProblemError, match="line 887: field 'answer' is a NoneType"):
        list(read_jsonl(shared("train/math_train.jsonl.gz")))
