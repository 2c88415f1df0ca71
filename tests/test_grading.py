"""Answer extraction and verification: hand-made pairs, properties, the benchmarks' own answers."""

import asyncio
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hicra.boxed import extract_boxed
from hicra.study.problems import grading
from hicra.study.problems.answers import read
from hicra.study.problems.grading import REASONS, Grade, Verifier, grade, quick
from hicra.study.problems.grading_worker import verdict
from tests.benchmarks.gold_pairs import accidents, gold_answers, right
from tests.fuzz import fuzz

DATA = Path(__file__).parent / "data"
PAIRS = json.loads((DATA / "answer_pairs.json").read_text())
ALIKE = json.loads((DATA / "answers_alike.json").read_text())

# Gold answers that cannot be read as mathematics. A completion is right there only with the same text.
UNREADABLE = {
    "np.arcsin(10/13)": "a function name of numpy",
    "$t(0,4]$": "an interval as a function's argument",
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


LATEX = st.lists(
    st.sampled_from(
        [
            r"\frac",
            r"\sqrt",
            r"\binom",
            r"\choose",
            r"\text{",
            r"\mathrm{",
            r"\pm",
            r"\mp",
            r"\sin",
            r"\log",
            r"\int",
            r"\sum",
            r"\left",
            r"\right",
            r"\begin{pmatrix}",
            r"\end{pmatrix}",
            r"\\",
            r"&",
            r"{",
            r"}",
            r"(",
            r")",
            r"[",
            r"]",
            r"\{",
            r"\}",
            r"^",
            r"_",
            r"'",
            r"=",
            r"<",
            r"\le",
            r"\in",
            r"\cup",
            r"\circ",
            r"\%",
            r"\$",
            r"$",
            r":",
            r"!",
            r"|",
            r"-",
            r"+",
            r"/",
            r".",
            r",",
            r";",
            r"0.",
            r"10",
            r"000",
            r"_8",
            r"x",
            r"ab",
            r"cm",
            r"cat",
            r"and",
            r"e",
            r"i",
            r"I",
            r"d",
            r"HTH",
            r"~",
            r"\!",
            r"\,",
            r"%",
            r"#",
        ]
        + [" "]
    ),
    max_size=40,
).map("".join)


@fuzz(300)
@given(LATEX)
def test_reading_never_raises_and_what_is_read_is_itself(text):
    tree = read(text)
    assert tree is None or quick(text, f"{text} ") in ("right", "unparseable")


@pytest.mark.parametrize(
    "piece", [r"\sqrt", "%", r"\pm1,", "(", "a ", "1,234", "x^-", r"\text{a}", r"\frac1", "'"]
)
def test_reading_takes_a_moment_whatever_repeats(piece):
    started = time.process_time()
    read(f"({piece * 300}"[: grading.MAX_LENGTH - 1] + ")")
    read(f"5 {piece * 300}"[: grading.MAX_LENGTH])
    assert time.process_time() - started < 5


# --- the process that compares -----------------------------------------------------------------


class Failing:
    """A comparison that raises where it is told to."""

    def __init__(self, parse=None, same=None):
        self.errors = {"parse": parse, "same": same}

    def parse(self, tree):
        if self.errors["parse"]:
            raise self.errors["parse"]

    def same(self, gold, answer):
        raise self.errors["same"]


@pytest.mark.parametrize("error", [OverflowError(), RecursionError(), AttributeError(), KeyError()])
def test_an_error_over_an_answer_says_where_it_was_met(error):
    assert verdict(Failing(parse=error), [], []) == "unparseable"
    assert verdict(Failing(same=error), [], []) == "wrong"


def test_running_out_of_memory_is_left_to_the_kernel():
    for failing in (Failing(parse=MemoryError()), Failing(same=MemoryError())):
        with pytest.raises(MemoryError):
            verdict(failing, [], [])


@pytest.mark.parametrize(
    "answer", ["9^{9^{9^{9}}}", r"\binom{10^{6}}{3}", "10^{100000}+1", "10^{10^{9}}", "3000!"]
)
def test_large_numbers_are_decided_in_bounded_time(verifier, answer):
    assert verifier.grade([boxed(f"0+{answer}")] * 2, [answer, "5"])[1].reason == "wrong"
    assert verifier.replaced == 0


# --- threads, processes, asyncio ---------------------------------------------------------------

ROOTS = [(f"x+{k}\\sqrt{{3}}", f"{k + k % 3 // 2}\\sqrt{{3}}+x", k % 3 // 2 == 0) for k in range(2, 62)]


def roots(start=0, **options):
    """One call for each answer, from another one on for each caller; the answers judged otherwise."""
    order = ROOTS[start % 60 :] + ROOTS[: start % 60]
    grades = [grade([boxed(answer)], [gold], workers=2, **options)[0] for gold, answer, _ in order]
    reasons = [("wrong", "right")[right] for _, _, right in order]
    return [g for g, reason in zip(grades, reasons, strict=True) if g != (reason == "right", reason)]


def pools():
    return [v.pools[os.getpid()] for v in grading._SHARED.values() if os.getpid() in v.pools]


def test_threads_that_start_together_share_one_pool_and_mix_no_verdicts():
    before, barrier = len(pools()), threading.Barrier(16)

    def caller(start):
        barrier.wait()
        return roots(7 * start, timeout=21.5)  # a setting of its own: a cold start

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(caller, range(16))) == [[]] * 16
    assert len(pools()) == before + 1


def test_processes_forked_after_the_pool_exists_have_workers_of_their_own():
    assert roots() == []
    mine = [w.process.pid for w in pools()[-1].workers if w.process]
    with multiprocessing.get_context("fork").Pool(4) as processes:
        assert processes.map(roots, range(0, 28, 7)) == [[]] * 4
    assert roots() == []
    assert [w.process.pid for w in pools()[-1].workers if w.process] == mine


def test_asyncio_tasks_may_grade_at_the_same_time():
    async def task(start):
        return await asyncio.to_thread(roots, start)

    async def all_tasks():
        return await asyncio.gather(*map(task, range(0, 56, 7)))

    assert asyncio.run(all_tasks()) == [[]] * 8


def test_a_call_that_is_interrupted_leaves_no_verdict_for_the_next(verifier):
    """As a time limit by signal.alarm does, which reward servers put around their calls."""

    class Interrupted(BaseException):
        pass

    def interrupt(signum, frame):
        raise Interrupted

    with Verifier(timeout=20, workers=1) as one:
        assert one.verify([("x+1", "1+x")]) == ["right"]
        previous = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(Interrupted):
                one.verify([("5", r"\int_0^1 x^{x^{x^{x}}} \sin(\exp(x)) dx")])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        assert one.verify([("x+1", "1+x")]) == ["right"]


def test_a_verifier_that_is_closed_while_threads_wait_finishes_and_leaves_no_process():
    with ThreadPoolExecutor(4) as threads:
        with Verifier(timeout=20, workers=1) as one:
            pool = one.pool
            calls = [threads.submit(one.verify, [(g, a)]) for g, a, _ in ROOTS[:12]]
            calls[0].result()
        found = [call.result()[0] for call in calls]
    assert found == [("wrong", "right")[right] for _, _, right in ROOTS[:12]]
    assert all(worker.process is None for worker in pool.workers)


# --- golds against golds -----------------------------------------------------------------------


def test_different_answers_of_the_fixture_are_never_right_and_each_is_itself():
    """Answers that look alike, or that math-verify takes for one another."""
    for kind, answers in ALIKE.items():
        assert [answer for answer in answers if not right(answer, answer)] == [], kind
        assert accidents(answers, most=10**6)[1] == [], kind


def test_no_gold_of_math_is_right_for_another_by_accident(shared):
    """All pairs of equal length of MATH's test golds; what is equal there is so on purpose."""
    golds = gold_answers(shared)["math500"]
    tried, found = accidents(golds, most=0)
    assert tried == 3725
    assert found == [("-2,1", "1,-2")]  # one list in two orders


# --- the benchmarks ----------------------------------------------------------------------------


def benchmark_golds(shared):
    files = sorted((shared / "benchmarks").glob("*.jsonl"))
    return [json.loads(line)["answer"] for file in files for line in file.read_text().splitlines()]


def test_every_gold_answer_verifies_against_itself(shared):
    gold = benchmark_golds(shared)
    with Verifier(workers=1) as one:
        assert {g.reason for g in one.grade([boxed(a) for a in gold], gold)} == {"right"}
        assert one.counts["right"] == len(gold) == 2866


def test_every_gold_answer_is_read_but_the_listed(shared, verifier):
    gold = sorted({a for a in benchmark_golds(shared) if not a.lstrip("-").isdigit()})
    verdicts = verifier.verify([(a.removesuffix("."), f"{a.removesuffix('.')} ") for a in gold])
    not_right = {a: v for a, v in zip(gold, verdicts, strict=True) if v != "right"}
    assert not_right == dict.fromkeys(UNREADABLE, "unparseable")
    assert set(REASONS) >= set(verdicts)
