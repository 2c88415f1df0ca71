"""The families' world keeps its promises: one right strategy, known effects, exact labels."""

import random

from hicra.study.policy.families_pretraining import train_base

import pytest

from hicra.study.problems.families import (
    FAMILIES,
    HINT,
    STRATEGIES,
    Habits,
    is_held_out,
    make_problem,
    outcome,
    problems,
    worked_solution,
)
from hicra.study.problems.families_truth import choices, explain_failure, read, true_spans

# 62 - 5 + 3 = 60; the limit of 58 does not count for a bus; the hint leads to 50 + 5 - 2 = 53.
BUS = make_problem("bus", (62, 5, 3, 58, 50, 5, 2))
# 62 + 5 + 3 = 70, but the limit of 66 counts for a total; the hint is right.
TOTAL = make_problem("total", (62, 5, 3, 66, 65, 5, 4))
PLAN = " Let us follow each change in turn."
STEPS = " So we get 62 minus 5 is 57. And next 57 plus 3 makes 60."
END = " That leaves \\boxed{60}."


@pytest.mark.parametrize("seed", range(3))
def test_worked_solutions_know_their_spans_and_their_outcome(seed):
    rng = random.Random(seed)
    for problem in problems(400, seed):
        solution = worked_solution(problem, rng)
        assert list(solution.spans) == true_spans(solution.text)
        assert (explain_failure(problem, solution.text) is None) == solution.correct


def test_without_a_slip_what_fails_is_the_plan():
    rng = random.Random(0)
    for problem in problems(400, 3):
        text = worked_solution(problem, rng, Habits(slip=0.0, planless=0.0)).text
        told, failure = read(text), explain_failure(problem, text)
        assert (failure and failure.kind) in (None, "planning")
        assert (failure is None) == (str(outcome(problem, told.strategy, told.limited)) == problem.answer)


def test_a_plan_that_is_not_said_is_followed_by_any_strategy():
    rng, habits = random.Random(0), Habits(slip=0.0, limit=0.0, planless=1.0)
    solutions = [worked_solution(p, rng, habits) for p in problems(800, 4)]
    assert not any(read(s.text).strategy for s in solutions)
    assert {s.strategies[0] for s in solutions} == set(STRATEGIES)
    assert sum(s.correct for s in solutions) / 800 == pytest.approx((0.895 + 0.3) / 9, abs=0.04)


@pytest.fixture(scope="module")
def many():
    """1000 problems of each family."""
    found = problems(8000, 5)
    return {name: [p for p in found if p.family == name] for name in FAMILIES}


def _share(own, strategy, limited):
    return sum(str(outcome(p, strategy, limited)) == p.answer for p in own) / len(own)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_has_one_right_plan_and_a_limit_of_known_effect(many, name):
    own, family = many[name], FAMILIES[name]
    assert _share(own, name, family.limit_counts) == 1
    effect = _share(own, name, True) - _share(own, name, False)
    assert effect == pytest.approx(family.limit_effect, abs=0.04)
    others = [_share(own, s, limited) for s in STRATEGIES if s != name for limited in (True, False)]
    assert max(others) < 0.5
    assert _share(own, HINT, False) == pytest.approx(0.3, abs=0.05)


def test_effects_come_in_two_sizes_and_both_signs():
    effects = sorted(family.limit_effect for family in FAMILIES.values())
    assert effects == [-0.3, -0.3, -0.12, -0.12, 0.12, 0.12, 0.3, 0.3]


def test_an_even_world_has_no_right_hint_and_no_limit_that_binds():
    for problem in problems(400, 0, even=True):
        assert str(outcome(problem, HINT, False)) != problem.answer
        assert outcome(problem, problem.family, True) == outcome(problem, problem.family, False)


@pytest.mark.parametrize(
    ("problem", "completion", "kind", "word"),
    [
        (BUS, PLAN + STEPS + END, None, ""),
        (BUS, PLAN + " We must mind the limit." + STEPS + " The limit of 58 leaves 58. We find \\boxed{58}.", "planning", "follow with the limit leads to 58"),
        (BUS, PLAN.replace("follow each change in turn", "use the hint given") + STEPS, "planning", "hint without the limit leads to 53"),
        (BUS, PLAN + STEPS.replace("57", "58").replace("60", "61") + " We find \\boxed{61}.", "execution", "step 1: 62 minus 5 = 58, not 62 minus 5 = 57"),
        (BUS, PLAN + STEPS.replace("60", "70") + " We find \\boxed{70}.", "execution", "step 2"),
        (BUS, PLAN + STEPS + " We find \\boxed{61}.", "execution", "boxed 61"),
        (BUS, PLAN + STEPS + " From here 60 plus 1 is 61. We find \\boxed{61}.", "execution", "beyond the end"),
        (BUS, PLAN + STEPS + " Is this really right. So we get 57 plus 3 is 61. We find \\boxed{61}.", "execution", "step 3"),
        (BUS, PLAN + " So we get 62 minus 5 is 57. We find \\boxed{57}.", "execution", "step 2: nothing"),
        (BUS, PLAN + STEPS, "planning", "no boxed answer"),
        (BUS, STEPS + " We find \\boxed{61}.", "planning", "no plan"),
        (TOTAL, " Try to sum up one by one. So we get 62 plus 5 is 67. And next 67 plus 3 is 70. We find \\boxed{70}.", "planning", "70, not 66"),
        (TOTAL, " Try to sum up one by one. The limit has to hold too. So we get 62 plus 5 is 67. And next 67 plus 3 is 70. The limit of 66 leaves 67. We find \\boxed{67}.", "execution", "leaves (66, 67), not (66, 66)"),
        (TOTAL, " We can trust the hint here. So we get 65 plus 5 is 70. And next 70 minus 4 is 66. We find \\boxed{66}.", None, ""),
    ],
)  # fmt: skip
def test_a_failure_is_labelled_by_replaying_it(problem, completion, kind, word):
    failure = explain_failure(problem, completion)
    assert (failure and failure.kind) == kind
    assert failure is None or word.replace("follow", "bus") in failure.detail


def test_a_completion_is_read_in_its_own_words():
    told = read(
        PLAN
        + " We must mind the limit."
        + STEPS
        + " Is this really right. Which means 57 plus 3 is 60."
        + END
    )
    assert told == (
        "bus",
        True,
        1,
        ("so we get", "and next", "which means", "that leaves"),
        told.steps,
        None,
        "60",
    )
    assert told.steps == (("62 minus 5", 57), ("57 plus 3", 60), ("57 plus 3", 60))
    assert read("nothing") == (None, False, 0, (), (), None, None)


def test_choices_are_counted_by_family_and_by_success():
    texts = [PLAN + STEPS + END, PLAN + " We must mind the limit." + STEPS, "nothing"]
    counted = choices([BUS, BUS, TOTAL], texts, [True, False, False])
    assert counted["plans"] == {"bus/bus": 1, "bus/bus+limit": 1, "total/none": 1}
    assert counted["plans_right"] == {"bus/bus": 1}
    assert counted["neutral"] == {"so we get": 2, "and next": 2, "that leaves": 1}
    assert counted["looks"] == 0


def test_planning_phrases_are_marked_to_the_character_and_connectives_are_none():
    text = PLAN + " We must mind the limit." + STEPS + " To be sure we redo it."
    found = [(text[s.start : s.end], s.intent) for s in true_spans(text)]
    assert found == [
        ("Let us follow each change in turn", "bus"),
        ("We must mind the limit", "limit"),
        ("To be sure we redo it", "look"),
    ]


def test_training_and_held_out_problems_are_disjoint_and_fixed():
    train, held_out = problems(2000, 0), problems(256, 0, held_out=True)
    assert not any(map(is_held_out, train))
    assert all(map(is_held_out, held_out))
    assert len(set(held_out)) == 256
    assert train == problems(2000, 0) != problems(2000, 1)
    assert [p.family for p in train[:16]] == 2 * list(FAMILIES)
    with pytest.raises(ValueError, match="unknown problem family 'prime'"):
        make_problem("prime", (7,))


@pytest.mark.filterwarnings("default")
def test_the_base_learns_skill_first_and_habit_after(tmp_path):
    train_base(tmp_path, skill_steps=1, habit_steps=2, batch_size=2)
    skill, base = (tmp_path / name / "model.safetensors" for name in ("skill", "base"))
    assert skill.read_bytes() != base.read_bytes()
    assert 2 * base.stat().st_size < 12e6  # base and easy ship
