"""What the equation does: every formula against a Monte Carlo that refutes it without its term."""

import math

import numpy as np
import pytest

from hicra.dynamics.step_table import effective_weight
from hicra.study import equation as eq


def _gradient(toy, arm, alpha, group_size):
    return eq.Sampled.of(eq.sampled_gradients(toy, arm, alpha, group_size))


@pytest.mark.parametrize(("size", "alpha", "rate"), [(2, 0.9, 0.3), (8, 0.2, 0.25), (8, 0.9, 0.75)])
def test_hicras_expected_gradient_needs_each_of_its_terms(size, alpha, rate):
    toy = eq.two_tokens(rate)
    found = _gradient(toy, "hicra", alpha, size)
    execution, planning, bonus = eq.parts(toy, size)
    assert found.chi2(eq.expected_gradient(toy, alpha, size)) < 2
    assert found.chi2(execution + eq.planning_factor(alpha, toy.rate) * planning) > 50  # without the bonus
    assert found.chi2(execution + planning + alpha * bonus) > 10  # without the factor
    assert found.chi2(eq.expected_gradient(toy, alpha, 2 * size)) > 10  # without the own sample in the mean


def test_the_bonus_is_nil_where_the_place_decides_what_plans():
    toy = eq.two_tokens(0.5, by_place=True)
    np.testing.assert_allclose(eq.parts(toy, 8).bonus, 0, atol=1e-15)
    assert np.abs(eq.parts(eq.two_tokens(0.5), 8).bonus).max() > 0.05
    assert _gradient(toy, "hicra", 0.9, 8).chi2(eq.expected_gradient(toy, 0.9, 8)) < 2


@pytest.mark.parametrize(("alpha", "rate", "p"), [(0.2, 0.5, 0.5), (0.9, 0.2, 0.2)])
def test_a_loss_up_to_the_break_even_is_adopted(alpha, rate, p):
    found = eq.sampled_break_even(alpha, rate, p)
    assert found.chi2(eq.break_even(alpha, rate, p)) < 9
    for cost, sign in ((0.8, 1), (1.2, -1)):
        toy = eq.one_choice(rate, p, cost * eq.break_even(alpha, rate, p))
        gradient = _gradient(toy, "hicra", alpha, 8)
        assert gradient.mean * sign > 4 * gradient.error
        assert _gradient(toy, "scaled", alpha, 8).mean < 0  # it never pays for a loss


def test_the_break_even_loss_by_hand():
    assert eq.break_even(0.2, 0.5, 0.1) == pytest.approx(0.1)  # a / 2 at V = 1/2, whatever p
    assert eq.break_even(0.2, 0.2, 0.5) == pytest.approx(0.064 / 1.06)


@pytest.mark.parametrize("size", [4, 8])
def test_scaled_needs_its_factor_for_small_groups(size):
    with_it, without = eq.sampled_scaled(0.9, size, 0.25)
    rate = eq.two_tokens(0.25).rate
    assert with_it.chi2(eq.planning_factor(0.9, rate)) < 9
    assert without.chi2(eq.planning_factor(0.9, rate)) > 50
    assert without.chi2(1 + 0.9 * (1 - 2 / size) * (1 - 2 * rate)) < 9


@pytest.mark.parametrize(("weight", "share"), [(2, 0.5), (16, 0.5), (4, 0.2)])
def test_adam_leaves_the_ratio_of_planning_to_execution(weight, share):
    found = eq.sampled_adam_gain(weight, share)
    assert found == pytest.approx(eq.adam_gain(weight, share), rel=0.03)
    assert found[0] / found[1] == pytest.approx(weight, rel=0.03)


def test_a_weight_cancels_on_parameters_of_its_own():
    planning, execution = eq.sampled_adam_gain(4, 1.0)
    assert planning == pytest.approx(1, abs=0.01)
    assert math.isnan(execution)


def test_the_effective_weight_of_a_record():
    row = {"step": 0, "n_completions": 12, "n_groups": 3}
    row |= {"group_successes": [1, 3, 4], "group_planning": [8, 2, 100]}
    # v (1 - v) is 3/16, 3/16 and 0; k = (8 * 1/2 - 2 * 1/2) / 10, and G/(G-2) is 2.
    assert effective_weight([row], 0.5) == pytest.approx(1 + 0.5 * 2 * 0.3)
    easy = row | {"step": 1, "group_successes": [3, 3, 4]}
    assert effective_weight([row, easy], 0.5) == pytest.approx(1 + 0.5 * 2 * (3 - 5) / 20)
    assert math.isnan(effective_weight([row | {"group_successes": [0, 4, 4]}], 0.5))
    pairs = {"n_completions": 4, "n_groups": 2, "group_successes": [0, 1], "group_planning": [5, 5]}
    assert math.isnan(effective_weight([pairs], 0.5))  # G/(G-2) has no value
    with pytest.raises(ValueError, match="step 7.*lacks group_successes, group_planning"):
        effective_weight([{"step": 7, "n_completions": 12, "n_groups": 3}], 0.5)


@pytest.mark.parametrize("size", [4, 8])
def test_the_effective_weight_is_not_that_of_the_mean_rate(size):
    exact, recorded, of_the_mean = eq.sampled_effective_weight(0.9, size)
    assert recorded == pytest.approx(exact, abs=0.01)
    assert abs(of_the_mean - exact) > 0.04


def test_the_note_shows_what_the_command_prints(root):
    note = (root / "docs" / "equation.md").read_text()
    missing = [table for table in eq.tables() if table not in note]
    assert not missing, "run `python -m hicra equation` and put its tables into docs/equation.md"
