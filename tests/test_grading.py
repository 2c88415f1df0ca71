"""Answer extraction and verification: hand-made pairs, properties, the benchmarks' own answers."""

import asyncio
import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hicra.boxed import extract_boxed
from hicra.study.problems import grading_worker
from hicra.study.problems.grading import REASONS, Grade, Verifier, grade
from tests.fuzz import fuzz

BENCHMARKS = Path(__file__).parents[2] / "shared" / "data" / "benchmarks"
PAIRS = json.loads((Path(__file__).parent / "data" / "answer_pairs.json").read_text())

# Gold answers that math-verify cannot read. A completion is right there only with the same text.
UNREADABLE = {
    "np.arcsin(10/13)": "a function name of numpy",
    "-1./3": "a decimal point without decimals inside a fraction",
    "-3./2": "a decimal point without decimals inside a fraction",
    r"\frac{dM}{dt}=\frac{10^{5} L_{\odot}}{0.007 c^{2} M_{\odot}^{6}} M^{6}": "subscript sun",
    r"\hbar \omega(v+1 / 2)-\frac{E_{0}^{2} e^{2}}{2 m \omega^{2}}": "E with a subscript",
    r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}": "E with a subscript",
    "E_{1},E_{2}": "E with a subscript",
    r"$m_{\max }=n^{2}-n-1$": "a word as subscript",
    r"$f(x)=a x+b$, where $b$ is an arbitrary integer, and $a$ is an arbitrary positive integer "
    r"with $\mho(a)=0$": "prose",
    "$t(0,4]$": "an interval set as a function's argument",
}


def boxed(answer):
    return f"So the answer is $\\boxed{{{answer}}}$."


@pytest.fixture(scope="module")
def verifier():
    with Verifier(timeout=20, workers=2) as one:  # generous: honest answers must not depend on load
        yield one


# --- extraction --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed{}", ""),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\sqrt{\frac{{1}}{2}}}!", r"\sqrt{\frac{{1}}{2}}"),
        (r"\boxed{\left\{1, 2\right.}", r"\left\{1, 2\right."),
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"} } \boxed{5} {", "5"),
        (r"{ open \boxed{5}", "5"),
        ("\\boxed{a\nb}", "a\nb"),
        (r"a \\\boxed{5}", "5"),
        (r"a \\boxed{5}", None),  # a line break and the word "boxed"
        (r"\boxed 5", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\fbox{5}", None),
        (r"boxed{5}", None),
        (r"\boxedtext{5}", None),
        ("", None),
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"<think>\boxed{1}</think> it is 2", None),
        (r"\boxed{1}</think>\boxed{2}", "2"),
        (r"<think>\boxed{1}", None),
        (r"<think>a</think>\boxed{2}<think>hm", None),
        (r"<think>a</think>\boxed{1}<think>b</think>\boxed{2}", "2"),
        (r"<thinking>\boxed{1}</thinking>\boxed{2}", "2"),
        (r"\boxed{</think>5}", None),
        (r"\boxed{1} \text{no tags}", "1"),
    ],
)
def test_the_last_complete_box_after_thinking_counts(completion, answer):
    assert extract_boxed(completion) == answer


def test_a_prefilled_think_tag_means_that_the_completion_starts_inside():
    assert extract_boxed(r"\boxed{1}", prefilled_think=True) is None
    assert extract_boxed(r"\boxed{1}</think>\boxed{2}", prefilled_think=True) == "2"
    assert grade([r"\boxed{1}"], ["1"], prefilled_think=True) == [Grade(0.0, "no_box")]


PIECES = st.lists(
    st.sampled_from(
        [
            "\\boxed{",
            "\\boxed",
            "{",
            "}",
            "\\{",
            "\\}",
            "\\\\",
            "\\",
            "5",
            " ",
            "</think>",
            "<think>",
        ]
    )
    | st.text(max_size=3),
    max_size=40,
).map("".join)


def slow_boxed(text):
    """The definition, word by word: try each box from the last to the first, in quadratic time."""
    inside, answer = False, text
    rest = text
    while True:
        cut = min(
            ((rest.find(tag), tag) for tag in TAGS if tag in rest),
            default=None,
        )
        if cut is None:
            break
        inside, rest = not cut[1].startswith("</"), rest[cut[0] + len(cut[1]) :]
        answer = rest
    escaped = [False] * len(answer)
    i = 0
    while i < len(answer):
        if answer[i] == "\\" and not answer.startswith("\\boxed", i):
            escaped[i + 1 : i + 2] = [True]
            i += 1
        elif answer[i] == "\\" and not answer[i + 6 :].lstrip(" \t\n").startswith("{"):
            i += 1  # "\b" is a command of its own
        i += 1
    for start in reversed(range(len(answer))):
        if answer.startswith("\\boxed", start) and not escaped[start]:
            content = answer[start + 6 :].lstrip(" \t\n")
            offset = len(answer) - len(content)
            depth = 0
            for position in range(offset, len(answer)):
                if not escaped[position]:
                    depth += (answer[position] == "{") - (answer[position] == "}")
                if depth == 0:
                    break
            if content.startswith("{") and depth == 0:
                return None if inside else answer[offset + 1 : position]
    return None


TAGS = [f"<{slash}{name}>" for slash in ("", "/") for name in ("think", "thinking", "thought")]


@fuzz(300)
@given(PIECES)
def test_extraction_equals_the_quadratic_definition(text):
    assert extract_boxed(text) == slow_boxed(text)


@fuzz(100)
@given(PIECES, st.integers(-(10**30), 10**30))
def test_a_box_appended_to_any_text_outside_thinking_is_found(text, number):
    assert extract_boxed(f"{text}</think> \\boxed{{{number}}}") == str(number)


# --- verdicts ----------------------------------------------------------------------------------


def test_hand_made_pairs(verifier):
    grades = verifier.grade([boxed(p["answer"]) for p in PAIRS], [p["gold"] for p in PAIRS])
    found = [{**p, "reason": g.reason} for p, g in zip(PAIRS, grades, strict=True)]
    assert found == PAIRS
    reasons = [p["reason"] for p in PAIRS]
    assert reasons.count("right") >= 50
    assert reasons.count("wrong") >= 40


def test_reward_is_one_for_right_and_zero_for_every_other_reason(verifier):
    completions = [boxed("5"), boxed("6"), "5", boxed(r"5\\6")]
    expected = [(1.0, "right"), (0.0, "wrong"), (0.0, "no_box"), (0.0, "unparseable")]
    assert verifier.grade(completions, ["5"] * 4) == expected


def test_integers_need_no_worker():
    with Verifier(workers=1) as one:
        assert one.grade([boxed(17), boxed(18), "17"], ["17"] * 3) == [
            (1.0, "right"),
            (0.0, "wrong"),
            (0.0, "no_box"),
        ]
        assert one.workers[0].process is None
        assert one.counts == {"right": 1, "wrong": 1, "no_box": 1, "unparseable": 0, "timeout": 0}


def test_the_function_keeps_one_verifier_and_its_order():
    answers = ["1/2", "3", "x+1", "5"]
    completions = [boxed("0.5"), boxed("4"), boxed("1+x"), "none"]
    reasons = ["right", "wrong", "right", "no_box"]
    assert [g.reason for g in grade(completions, answers, workers=1)] == reasons
    assert [g.reason for g in grade(completions[::-1], answers[::-1], workers=1)] == reasons[::-1]
    assert grade([], []) == []


@pytest.mark.parametrize(
    ("completions", "answers", "message"),
    [
        (["a"], [], "1 completions and 0 answers"),
        ([[{"role": "assistant"}]], ["1"], r"completions\[0\] is a list"),
        (["a", "b"], ["1", 2], r"answers\[1\] is a int"),
        (["a"], [" "], r"answers\[0\] is empty"),
    ],
)
def test_wrong_input_is_named(completions, answers, message):
    with pytest.raises(ValueError, match=message):
        grade(completions, answers)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("nan")}, {"workers": 0}])
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Verifier(**options)


# --- the benchmarks ----------------------------------------------------------------------------


def gold_answers():
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are not at ../shared/data/benchmarks")
    files = sorted(BENCHMARKS.glob("*.jsonl"))
    return [json.loads(line)["answer"] for file in files for line in file.read_text().splitlines()]


def test_every_gold_answer_verifies_against_itself():
    gold = gold_answers()
    with Verifier(workers=1) as one:
        assert {g.reason for g in one.grade([boxed(a) for a in gold], gold)} == {"right"}
        assert one.counts["right"] == len(gold) == 2866


def test_math_verify_reads_every_gold_answer_but_the_listed(verifier):
    gold = sorted({a for a in gold_answers() if not a.lstrip("-").isdigit()})
    verdicts = verifier.verify([(a.removesuffix("."), f"{a.removesuffix('.')} ") for a in gold])
    not_right = {a: v for a, v in zip(gold, verdicts, strict=True) if v != "right"}
    assert not_right == dict.fromkeys(UNREADABLE, "unparseable")
    assert set(REASONS) >= set(verdicts)


# --- many callers ------------------------------------------------------------------------------


SURDS = [(f"x+{k}\\sqrt{{3}}", rf"x+{k + k % 2}\sqrt{{3}}") for k in range(2, 62)]  # every other one is right
ONE_BY_ONE = ["right" if gold == answer else "wrong" for gold, answer in SURDS]


def _grade_one(pair):
    return grade([rf"\boxed{{{pair[1]}+0}}"], [pair[0]], workers=2)[0].reason


def _grade_all(_):
    return [_grade_one(pair) for pair in SURDS[:12]]


def test_verdicts_of_concurrent_threads_are_each_their_own():
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(_grade_one, SURDS)) == ONE_BY_ONE


def test_threads_that_come_first_together_share_one_cold_verifier():
    with Verifier(timeout=20, workers=2) as cold, ThreadPoolExecutor(16) as threads:
        asked = threads.map(lambda pair: cold.grade([rf"\boxed{{{pair[1]}+0}}"], [pair[0]])[0].reason, SURDS)
        assert list(asked) == ONE_BY_ONE
        assert sum(cold.counts.values()) == len(SURDS)
        assert len(cold.workers) == 2


def test_forked_processes_get_workers_of_their_own(verifier):
    assert _grade_one(SURDS[0]) == ONE_BY_ONE[0]  # the pool exists before the fork
    with multiprocessing.get_context("fork").Pool(4) as processes:
        for found in processes.map(_grade_all, range(8)):
            assert found == ONE_BY_ONE[:12]
    assert _grade_one(SURDS[1]) == ONE_BY_ONE[1]  # and the parent's goes on


def test_asyncio_tasks_get_their_own_verdicts():
    async def both():
        return await asyncio.gather(*(asyncio.to_thread(_grade_one, pair) for pair in SURDS))

    assert asyncio.run(both()) == ONE_BY_ONE


def test_a_worker_whose_question_is_broken_off_answers_no_later_one(monkeypatch):
    with Verifier(timeout=20, workers=1) as one:
        assert one.verify([("x+1", "1+x")]) == ["right"]
        monkeypatch.setattr("hicra.study.problems.grading.wait", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            one.verify([("x+1", "x+2")])
        monkeypatch.undo()
        assert one.verify([("x+3", "3+x")]) == ["right"]


def _interrupt(*_):
    raise KeyboardInterrupt


def test_what_is_readable_but_cannot_be_compared_is_wrong_not_unreadable(monkeypatch):
    monkeypatch.setattr(grading_worker, "_equal", lambda *_: 1 / 0)
    assert grading_worker.compare("x+1", "x+2") == "wrong"
    monkeypatch.setattr(grading_worker, "parsed", lambda _: 1 / 0)
    assert grading_worker.compare("x+1", "x+2") == "unparseable"
