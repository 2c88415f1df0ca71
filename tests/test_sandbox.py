"""The world's own promises: spans, arithmetic, paraphrases, exact error labels."""

import json
import random

from hicra.study.policy.sandbox_pretraining import train_base

import pandas as pd
import pytest

from hicra.study.problems.sandbox import (
    BACKTRACING,
    BRANCHING,
    DEDUCTION,
    FAMILIES,
    STRATEGIES,
    is_held_out,
    make_problem,
    problems,
    worked_solution,
)
from hicra.study.problems.sandbox_truth import explain_failure, true_spans
from hicra.study.profiles import get_profile

PRODUCT = make_problem("product", (34, 6))
SPLIT = " Let's try to split into tens and ones. 30 times 6 makes 180."


def test_every_intent_has_six_paraphrases():
    assert len(BACKTRACING) >= 6
    assert all(len((*DEDUCTION, *BRANCHING)) * len(set(s.wordings)) >= 6 for s in STRATEGIES)


@pytest.mark.parametrize("seed", range(5))
def test_worked_solutions_know_their_spans_and_their_outcome(seed):
    rng = random.Random(seed)
    for problem in problems(200, seed):
        solution = worked_solution(problem, rng)
        assert list(solution.spans) == true_spans(solution.text)
        failure = explain_failure(problem, solution.text)
        assert (failure is None) == solution.correct
        assert failure is None or failure.kind == "planning"  # the arithmetic is right


def test_planning_phrases_are_marked_to_the_character():
    text = SPLIT + " Hold on, we should go back."
    first, second = true_spans(text)
    assert text[first.start : first.end] == "Let's try to split into tens and ones"
    assert (first.intent, second.intent) == ("split", "backtrace")
    assert text[second.start : second.end] == "Hold on, we should go back"


@pytest.mark.parametrize(
    ("completion", "kind", "word"),
    [
        (SPLIT + " 4 times 6 is 24. 180 plus 24 is 204. So the answer is \\boxed{204}.", None, ""),
        (SPLIT + " 4 times 6 is 26. 180 plus 26 is 206. So the answer is \\boxed{206}.", "execution", "step 2"),
        (SPLIT + " 4 times 6 is 24. 180 plus 24 is 204. So the answer is \\boxed{24}.", "execution", "boxed 24"),
        (SPLIT + " 5 times 6 is 30. 180 plus 30 is 210. So the answer is \\boxed{210}.", "execution", "step 2"),
        (SPLIT + " So the answer is \\boxed{180}.", "planning", "unfinished"),
        (SPLIT + " 4 times 6 is 24. 180 plus 24 is 204.", "planning", "no boxed"),
        (" Let's try to round to the nearest ten. 30 times 6 is 180. So the answer is \\boxed{180}.", "planning", "180, not 204"),
        (" Let's try to look at the digit sum. 3 plus 4 is 7. So the answer is \\boxed{7}.", "planning", "does not fit"),
        (" The answer is \\boxed{7}.", "planning", "no plan"),
    ],
)  # fmt: skip
def test_a_failure_is_labelled_by_replaying_it(completion, kind, word):
    failure = explain_failure(PRODUCT, completion)
    assert (failure and failure.kind) == kind
    assert failure is None or word in failure.detail


def test_the_last_attempt_decides_the_label():
    wrong_plan = " Let's try to round to the nearest ten. 30 times 6 is 180. Hold on, we should go back."
    slip = SPLIT + " 4 times 6 is 26. 180 plus 26 is 206. So the answer is \\boxed{206}."
    assert explain_failure(PRODUCT, wrong_plan + slip).kind == "execution"
    assert explain_failure(PRODUCT, slip[:-30] + wrong_plan).kind == "planning"


def test_a_guess_is_part_of_the_plan():
    problem = make_problem("equation", (3, 5, 26))
    text = " Let's try to test a value for x. Try {g}. 3 times {g} is {p}. {p} plus 5 is {t}. So the answer is \\boxed{{{g}}}."
    assert explain_failure(problem, text.format(g=7, p=21, t=26)) is None
    assert explain_failure(problem, text.format(g=4, p=12, t=17)).kind == "planning"


def test_training_and_held_out_problems_are_disjoint_and_fixed():
    train, held_out = problems(2000, 0), problems(256, 0, held_out=True)
    assert not {p.problem for p in train} & {p.problem for p in held_out}
    assert len(set(held_out)) == 256
    assert all(map(is_held_out, held_out))
    assert train == problems(2000, 0) != problems(2000, 1)
    assert {p.family for p in held_out} == set(FAMILIES)


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="at most 256"):
        problems(257, 0, held_out=True)
    with pytest.raises(ValueError, match="unknown problem family 'prime'"):
        make_problem("prime", (7,))


@pytest.mark.filterwarnings("default")
def test_base_policies_are_reproduced_bit_for_bit(tmp_path):
    small = {"steps": 2, "weak_steps": 1, "batch_size": 2}
    for name in ("one", "two"):
        train_base(tmp_path / name, **small)
    for kind in ("base", "weak"):
        files = [tmp_path / name / kind / "model.safetensors" for name in ("one", "two")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert (tmp_path / "one/base/model.safetensors").read_bytes() != files[0].read_bytes()


def test_the_shipped_base_policies_are_small_and_differ(root):
    sizes = [p.stat().st_size for p in (root / "data" / "sandbox").rglob("*.safetensors")]
    assert len(sizes) == 2
    assert sum(sizes) < 12e6
    notes = [
        json.loads((root / f"data/sandbox/{k}/training.json").read_text())["steps"] for k in ("base", "weak")
    ]
    assert notes == [1400, 600]


def test_the_calibration_holds(root):
    """The table is made by `make calibration`; here its claims are read back."""
    table = pd.read_csv(root / "data" / "sandbox" / "calibration.csv")
    assert list(table["seed"]) == [0, 1, 2]
    assert set(table["steps"]) == {get_profile("sandbox").steps}
    assert table["before"].between(0.30, 0.50).all()
    assert (table["gain"] >= 0.15).all()
