"""Quantities of a run in the families' world, each by hand; claims that name quantities and conditions that exist."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hicra.dynamics.entropy import shannon_entropy
from hicra.errors import HicraError
from hicra.files import data_root
from hicra.lexicon.lexicon import Lexicon
from hicra.study.experiments import CONDITIONS
from hicra.study.problems.families import CONCLUSIONS, FAMILIES, LONG_CONNECTIVES, STRATEGIES
from hicra.study.verdicts.claims import contrast, load_claims
from hicra.study.verdicts.families_quantities import (
    CONNECTIVES,
    LONG_CONCLUSIONS,
    SMOOTH,
    WINDOW,
    announced,
    families_quantities,
    first_passage,
    log_odds,
    marked_by,
    of_run,
    of_steps,
    strategy_entropies,
)


def _step(i, **other):
    """Eight completions in two groups of four; from the second window on they choose by family."""
    late = i >= WINDOW
    plans = {"total/total": 4, "cost/cost+limit": 4} if late else {"total/hint": 4, "cost/hint": 4}
    return {
        "step": i,
        "n_completions": 8,
        "n_groups": 2,
        "reward_sum": 6.0 if late else 2.0,
        "group_successes": [3, 3] if late else [1, 1],
        "group_planning": [10, 10],
        "plans": plans,
        "plans_right": {"total/total": 3, "cost/cost+limit": 3} if late else {"total/hint": 2},
        "neutral": {"so we get": 6, "from here": 2} if late else {"so we get": 4, "from here": 4},
        "looks": 4 if late else 2,
        "length_sum": 400 if late else 320,
        "n_planning": 100 if late else 64,
    } | other


RUN = [_step(i) for i in range(2 * WINDOW)]
MANIFEST = {
    "settings": {"alpha": 0.2},
    "final": [{"temperature": 1.0, "accuracy": 0.7}, {"temperature": 0.6, "accuracy": 0.8}],
}


def test_a_run_by_hand():
    found = of_run(RUN, MANIFEST)
    assert found["mean_reward"] == 0.5
    assert found["late_reward"] == 0.75
    assert (found["strategies"], found["within_families"], found["specialised"]) == (1, 0, 1)
    assert found["strategies_change"] == found["specialised_change"] == 1
    assert (found["fitting"], found["fitting_change"]) == (1, 1)
    assert found["right_given_fitting"] == 0.75
    assert found["marked_connectives"] == pytest.approx(math.log(60.5 / 20.5))
    assert found["marked_connectives_change"] == pytest.approx(math.log(60.5 / 20.5))
    assert (found["announced_-30"], found["announced_+30"]) == (1, 0)  # cost, total
    assert (found["looks"], found["looks_change"]) == (0.5, 0.25)
    assert (found["planning"], found["planning_change"]) == pytest.approx((0.25, 0.05))
    assert (found["tokens"], found["tokens_change"]) == (50, 10)
    assert (found["final_accuracy_1"], found["final_accuracy_06"]) == (0.7, 0.8)
    # v is 1/4 or 3/4, with as many planning tokens and as much variance: hard and easy prompts cancel
    assert found["weight"] == pytest.approx(1)
    assert math.isnan(found["planning_gradient"])
    # V rises from 1/4 by 1/2 over the SMOOTH steps around the tenth
    assert math.exp(found["steps_to_half"]) == pytest.approx(WINDOW - 0.5)
    assert math.exp(found["steps_above_half"]) == pytest.approx(SMOOTH * 0.2 / 0.5)
    assert found["reached_upper"] == 1


def test_what_a_run_lacks_is_not_a_number():
    never = of_run([_step(i, reward_sum=2.0) for i in range(2 * WINDOW)], {"settings": {"alpha": 0.2}})
    for name in ("steps_to_half", "steps_above_half", "strategies_at_half", "final_accuracy_1"):
        assert math.isnan(never[name]), name
    assert never["reached_upper"] == 0
    halfway = of_run([_step(i, reward_sum=4.8 if i >= WINDOW else 2.0) for i in range(2 * WINDOW)], MANIFEST)
    assert (math.isnan(halfway["steps_to_half"]), halfway["reached_upper"]) == (False, 0)
    assert math.isnan(halfway["steps_above_half"])
    with pytest.raises(HicraError, match="19 steps is too short"):
        of_run(RUN[1:], MANIFEST)


def test_gradients_are_shared_out_over_the_steps_that_have_norms():
    norms = {"grad_norm_planning": 3.0, "grad_norm_execution": 4.0}
    steps = [_step(i, **(norms if i % 10 == 0 else {})) for i in range(2 * WINDOW)]
    assert of_run(steps, MANIFEST)["planning_gradient"] == pytest.approx(9 / 25)


@given(st.floats(0.05, 0.9), st.integers(10, 60))
def test_a_level_is_passed_where_a_straight_line_passes_it(level, n):
    rewards = np.linspace(0, 1, n)
    passed = first_passage(rewards, level)
    if SMOOTH // 2 < level * (n - 1) < n - 1 - SMOOTH // 2:
        assert passed == pytest.approx(level * (n - 1))


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(list(FAMILIES)), st.sampled_from([*STRATEGIES, "none"]), st.booleans()),
        st.integers(1, 50),
        min_size=1,
    )
)
def test_entropies_add_up_and_do_not_see_the_limit(counts):
    plans = {f"{family}/{s}{'+limit' * limit}": n for (family, s, limit), n in counts.items()}
    total, within = strategy_entropies(plans)
    joint, families = {}, {}
    for (family, s, _), n in counts.items():
        joint[family, s] = joint.get((family, s), 0) + n
        families[family] = families.get(family, 0) + n
    assert within == pytest.approx(
        shannon_entropy(joint.values()) - shannon_entropy(families.values()), abs=1e-9
    )
    assert -1e-9 <= within <= total + 1e-9


def test_announcements_are_counted_where_they_have_the_effect():
    plans = {"total/hint+limit": 3, "fence/fence": 1, "birds/hint+limit": 5}
    assert announced(plans, 0.30) == 0.75
    assert announced(plans, -0.30) == 1
    assert math.isnan(announced(plans, 0.12))  # no completion of such a family


def test_announcements_are_selective_where_they_follow_their_worth():
    everywhere = of_steps([_step(0, plans={f"{family}/hint+limit": 1 for family in FAMILIES})])
    assert everywhere["announced_selectively"] == 0
    # one of two families worth +30, both worth +12, one of two worth -12, none worth -30
    limited = {"total": 1, "fence": 0, "left": 1, "seats": 1, "boxes": 1, "bus": 0, "cost": 0, "birds": 0}
    some = of_steps([_step(0, plans={f"{f}/hint{'+limit' * said}": 1 for f, said in limited.items()})])
    assert some["announced_selectively"] == pytest.approx((0.5 + 1 - 0.5 - 0) / 2)


def test_neutral_words_by_hand():
    neutral = {"so we get": 3, "then we have": 2, "from here": 4, "so the answer is": 9, "we find": 2}
    found = of_steps([_step(0, neutral=neutral)])
    assert found["marked_connectives"] == pytest.approx(math.log(5.5 / 4.5))
    assert found["long_conclusions"] == pytest.approx(math.log(9.5 / 2.5))
    assert found["placebo_connectives"] == pytest.approx(math.log(6.5 / 3.5))  # "we have", "from here"
    assert log_odds({}, ["a"], ["a", "b"]) == 0


def test_what_the_lexicons_mark_of_the_words_that_change_nothing():
    assert marked_by("families", CONNECTIVES + CONCLUSIONS) == LONG_CONNECTIVES
    assert marked_by("families-recipe1", CONCLUSIONS) == LONG_CONCLUSIONS
    short = ("and next", "which means", "from here")
    assert marked_by("families-placebo", CONNECTIVES) == ("then we have", *short)


def test_what_marks_one_word_of_a_phrase_marks_it(tmp_path):
    path = tmp_path / "own.json"
    Lexicon.from_grams(["this gives"]).save(path)
    assert marked_by(str(path), CONNECTIVES) == ("this gives us",)


def test_stretches_of_steps_are_counted_together():
    assert of_steps(RUN)["tokens"] == 45
    assert of_steps(RUN)["strategies"] == pytest.approx(1.5)  # half the hint, a quarter each


class _Run:
    def __init__(self, condition, lift):
        self.condition, self.seed, self.lift = condition, 1, lift

    def read(self, name):
        return [_step(i, reward_sum=2.0 + self.lift * i / 10) for i in range(2 * WINDOW)]

    def manifest(self):
        return MANIFEST


def test_the_three_parts_add_up_to_the_whole_in_every_run():
    arms = {"grpo": 0, "yoked": 1, "scaled": 1.5, "hicra": 2.5}
    table = families_quantities([_Run(arm, lift) for arm, lift in arms.items()])
    for quantity in ("mean_reward", "late_reward", "tokens_change"):
        parts = [
            contrast(table, quantity, {more: 1, less: -1})
            for more, less in (("yoked", "grpo"), ("scaled", "yoked"), ("hicra", "scaled"))
        ]
        assert sum(parts).tolist() == pytest.approx(
            contrast(table, quantity, {"hicra": 1, "grpo": -1}).tolist()
        )


def test_claims_name_conditions_and_quantities_that_there_are():
    from hicra.study.verdicts.run_quantities import CHANGED, FINAL

    claims = load_claims(data_root() / "families" / "claims.yaml")
    of_any_run = {f"{name}_change" for name in CHANGED} | {f"final_{name}" for name in FINAL}
    of_any_run |= {"execution_log_perplexity_change", "planning_minus_execution_error_change"}
    known = of_any_run | set(of_run(RUN, MANIFEST))
    for claim in claims.claims:
        if "not_tested" in claim:
            continue
        assert claim["quantity"] in known, claim["id"]
        assert set(claim["of"]) <= set(CONDITIONS), claim["id"]
