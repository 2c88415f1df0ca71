"""Intervals and the results table against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hicra.study.verdicts import intervals as v

T2 = 4.302653  # 97.5 % quantile of Student's t with 2 degrees of freedom, from a printed table
T1 = 12.706205  # with 1


def test_interval_by_hand():
    # 1, 2, 3: mean 2, standard deviation 1, standard error 1 / sqrt 3.
    actual = v.interval([1, 2, 3])
    half = T2 / math.sqrt(3)
    assert actual == pytest.approx((2, 2 - half, 2 + half, 3), rel=1e-6)


def test_one_seed_has_no_interval():
    mean, low, high, n = v.interval([0.5])
    assert (mean, n) == (0.5, 1)
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_interval_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError, match="finite values"):
        v.interval(values)


def test_an_interval_over_equal_values_is_a_point():
    # scipy.stats.t.interval with loc and scale gives NaN here, and a warning.
    assert v.interval([2, 2, 2]) == (2, 2, 2, 3)
    assert v.share_interval([0.7, 0.7, 0.7])[:3] == pytest.approx((0.7, 0.7, 0.7))


def test_an_interval_of_shares_by_hand():
    # arcsin(sqrt(x)) of 0, 1/4, 1/2: 0, pi/6, pi/4; mean 5 pi/36, and back by sin(x) ** 2.
    angles = [0, math.pi / 6, math.pi / 4]
    _, low, high, _ = v.interval(angles)
    assert low < 0  # the plain interval on that scale passes 0, and so would one of the shares
    expected = (0.25, 0, math.sin(high) ** 2, 3)
    assert v.share_interval([0, 0.25, 0.5]) == pytest.approx(expected)


@pytest.mark.parametrize("shares", [[1, 1, 1, 1, 0.9375], [0, 0, 0.01], [0, 1], [1, 1 + 1e-12]])
def test_intervals_of_shares_stay_within_0_and_1_and_hold_the_mean(shares):
    mean, low, high, _ = v.share_interval(shares)
    assert 0 <= low <= mean <= high <= 1 + 1e-12


def test_what_is_no_share_is_named():
    with pytest.raises(ValueError, match=r"between 0 and 1, got \[0.5, 1.2\]"):
        v.share_interval([0.5, 1.2])


def test_the_interval_of_shares_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    shares = np.clip(rng.normal(0.95, 0.01, (600, 5)), 0, 1)
    shares = rng.binomial(128, shares) / 128  # five seeds of 128 completions
    found = [v.share_interval(row) for row in shares]
    assert 0.92 < np.mean([i.low <= 0.95 <= i.high for i in found]) < 0.98


def test_power_by_simulation():
    rng = np.random.default_rng(0)
    lows = [v.interval(row).low for row in rng.normal(0.02, 0.0235, (2000, 5))]
    assert v.power(0.0235, 5, 0.02) == pytest.approx(np.mean(np.array(lows) > 0), abs=0.03)
    assert v.power(0.004, 5, 0.02) > 0.999
    assert (v.power(0, 5, 0.02), v.power(0, 5, -0.02)) == (1, 0)
    assert math.isnan(v.power(0.1, 1, 0.02))


def test_the_judged_interval_reaches_to_the_wider_ends():
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    boot, t = v.bootstrap_interval(values), v.interval(values)
    assert v.judged_interval(values) == (t.mean, min(boot[0], t.low), max(boot[1], t.high), 5)
    assert math.isnan(v.judged_interval([0.1]).low)


def test_paired_interval_takes_the_shared_seeds_only():
    ours = pd.Series([0.6, 0.9, 5.0], index=[0, 1, 7])
    theirs = pd.Series([0.5, 0.5, -5.0], index=[1, 0, 8])
    # Differences by seed: 0.6 - 0.5 and 0.9 - 0.5; mean 0.25, standard error 0.15.
    expected = (0.25, 0.25 - T1 * 0.15, 0.25 + T1 * 0.15, 2)
    assert v.paired_interval(ours, theirs) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="no seed is in both"):
        v.paired_interval(ours.iloc[2:], theirs)


def test_results_table_by_hand():
    table = v.results_table(*_runs()).set_index(["arm", "quantity"])
    assert _mean(table, "grpo", "base accuracy (share)") == pytest.approx((0.4, 2))
    assert _mean(table, "grpo", "final accuracy (share)") == pytest.approx((0.55, 2))
    assert _mean(table, "grpo", "accuracy gain (share)") == pytest.approx((0.15, 2))
    assert _mean(table, "hicra", "accuracy gain (share)") == pytest.approx((0.25, 2))
    assert _mean(table, "hicra - grpo", "accuracy gain (share)") == pytest.approx((0.1, 2))
    # Lengths 10, 20, .. 70 for GRPO: the last five average 50. HICRA's are 2 longer.
    assert _mean(table, "grpo", "completion length (tokens)") == pytest.approx((50, 2))
    assert _mean(table, "hicra - grpo", "completion length (tokens)") == pytest.approx((2, 2))
    # Entropy grows by 0.1 a step: the last five of seven steps lie two steps after the first five.
    assert _mean(table, "grpo", "semantic entropy change, plug-in (bits)") == pytest.approx((0.2, 2))


def test_accuracies_of_two_seeds_stay_within_0_and_1():
    rows = v.results_table(*_runs()).set_index(["arm", "quantity"])
    low, high = rows.loc[("grpo", "final accuracy (share)"), ["low", "high"]]
    assert 0 <= low < 0.55 < high <= 1  # Student's t alone would end at 1.8


def test_pairing_removes_what_seeds_share():
    table = v.results_table(*_runs()).set_index(["arm", "quantity"])
    row = table.loc[("hicra - grpo", "final accuracy (share)")]
    # Both seeds differ by 0.1, so the paired interval is a point although seeds differ by 0.2.
    assert (row["low"], row["high"]) == pytest.approx((0.1, 0.1))
    row = table.loc[("grpo", "accuracy gain (share)")]
    assert row["high"] - row["low"] == pytest.approx(2 * T1 * 0.1, rel=1e-6)


def test_a_lone_arm_has_no_differences():
    frame, evals = (table[table["arm"] == "hicra"] for table in _runs())
    assert set(v.results_table(frame, evals)["arm"]) == {"hicra"}


def test_runs_that_cannot_be_compared_are_named():
    frame, evals = _runs()
    with pytest.raises(ValueError, match=r"not evaluated at step 0.*'grpo', 0"):
        v.results_table(frame, evals.iloc[1:])
    with pytest.raises(ValueError, match="different steps"):
        v.results_table(frame, evals.iloc[:-1])
    with pytest.raises(ValueError, match="arm grpo, seed 0 has evaluations but no steps"):
        v.results_table(frame[frame["seed"] == 1], evals)
    with pytest.raises(ValueError, match="no evaluations"):
        v.results_table(frame, evals.iloc[:0])


def _mean(table, arm, quantity):
    row = table.loc[(arm, quantity)]
    return row["mean"], row["seeds"]


def _runs():
    """Two seeds of two arms; accuracy 0.4 before, 0.45 and 0.65 after, HICRA 0.1 above."""
    steps, evals = [], []
    for arm, better, longer in (("grpo", 0.0, 0), ("hicra", 0.1, 2)):
        for seed, final in ((0, 0.45), (1, 0.65)):
            evals += [(arm, seed, 0, 0.4), (arm, seed, 3, final + better)]
            steps += [(arm, seed, s, 10 * (s + 1) + longer, 5 + 0.1 * s, 4.0) for s in range(7)]
    columns = ["length", "semantic_entropy", "semantic_entropy_matched"]
    frame = pd.DataFrame(steps, columns=["arm", "seed", "step", *columns])
    return frame, pd.DataFrame(evals, columns=["arm", "seed", "step", "accuracy"])


def test_power_of_an_equivalence():
    # With a spread known to be next to nothing, all depends on where the truth lies.
    assert v.equivalence_power(1e-9, 5, 0.01) == 1
    assert v.equivalence_power(1e-9, 5, 0.01, effect=0.02) == 0
    # The interval of very many seeds is z = 1.96 standard errors wide: inside by 2 errors more at either side.
    n, z = 10_000, 1.959964
    inside = 2 * stats.norm.cdf(2) - 1
    assert v.equivalence_power(math.sqrt(n), n, z + 2) == pytest.approx(inside, abs=0.01)
    assert math.isnan(v.equivalence_power(1, 1, 0.1))
