"""Intervals and the results table against numbers worked out by hand."""

import math

import pandas as pd
import pytest

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


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match=f"confidence={confidence}"):
        v.interval([1, 2], confidence)


def test_paired_interval_takes_the_shared_seeds_only():
    ours = pd.Series([0.6, 0.9, 5.0], index=[0, 1, 7])
    theirs = pd.Series([0.5, 0.5, -5.0], index=[1, 0, 8])
    # Differences by seed: 0.6 - 0.5 and 0.9 - 0.5; mean 0.25, standard error 0.15.
    expected = (0.25, 0.25 - T1 * 0.15, 0.25 + T1 * 0.15, 2)
    assert v.paired_interval(ours, theirs) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="no seed is in both"):
        v.paired_interval(ours.iloc[2:], theirs)


def test_results_table_by_hand():
    table = v.results_table(*_runs(), last=2).set_index(["arm", "quantity"])
    assert _mean(table, "grpo", "base accuracy (share)") == pytest.approx((0.4, 2))
    assert _mean(table, "grpo", "final accuracy (share)") == pytest.approx((0.55, 2))
    assert _mean(table, "grpo", "accuracy gain (share)") == pytest.approx((0.15, 2))
    assert _mean(table, "hicra", "accuracy gain (share)") == pytest.approx((0.25, 2))
    assert _mean(table, "hicra - grpo", "accuracy gain (share)") == pytest.approx((0.1, 2))
    # Lengths 10, 20, 30 for GRPO: the last two average 25. HICRA's are 2 longer.
    assert _mean(table, "grpo", "completion length (tokens)") == pytest.approx((25, 2))
    assert _mean(table, "hicra - grpo", "completion length (tokens)") == pytest.approx((2, 2))


def test_pairing_removes_what_seeds_share():
    table = v.results_table(*_runs()).set_index(["arm", "quantity"])
    row = table.loc[("hicra - grpo", "final accuracy (share)")]
    # Both seeds differ by 0.1, so the paired interval is a point although seeds differ by 0.2.
    assert (row["low"], row["high"]) == pytest.approx((0.1, 0.1))
    row = table.loc[("grpo", "final accuracy (share)")]
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
            steps += [(arm, seed, s, 10 * (s + 1) + longer, 0.1 * s, 0.0) for s in range(3)]
    columns = ["length", "semantic_entropy_change", "semantic_entropy_matched_change"]
    frame = pd.DataFrame(steps, columns=["arm", "seed", "step", *columns])
    return frame, pd.DataFrame(evals, columns=["arm", "seed", "step", "accuracy"])
