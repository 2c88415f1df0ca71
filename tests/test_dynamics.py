"""Dynamics: every metric against a number worked out by hand."""

import copy
import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hicra.dynamics import entropy as e
from hicra.dynamics import step_table as d

COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=8)

# 2 steps of 4 completions in 2 groups. Step 0: a:2, b:1, c:1 -> H = 1.5 bits. Step 1: a:1, b:1.
STEP = {
    "step": 0,
    "n_completions": 4,
    "n_groups": 2,
    "n_zero_variance_groups": 1,
    "n_solved_groups": 2,
    "n_clipped": 1,
    "n_no_planning": 1,
    "reasons": {"right": 1, "wrong": 2, "no_box": 1},
    "errors": {"planning": 2, "execution": 1},
    "length_sum": 40,
    "reward_sum": 1.0,
    "n_planning": 10,
    "n_execution": 30,
    "nll_planning": 10 * math.log(4),
    "nll_execution": 30 * math.log(2),
    "entropy_planning": 12.0,
    "entropy_execution": 6.0,
    "n_high_entropy": 12,
    "n_high_entropy_planning": 6,
    "grams": {"a": 2, "b": 1, "c": 1},
    "followers": {"a": [1, 1], "b": [1]},
    "loss": 0.5,
    "grad_norm": None,
    "learning_rate": 1e-4,
    "seconds": 2.0,
}
LATER = STEP | {
    "step": 1,
    "reasons": {"right": 4},
    "errors": {},
    "nll_planning": 10 * math.log(2),
    "grams": {"a": 1, "b": 1},
    "followers": {"a": [1], "b": [1]},
}
CLUSTERS = {"a": 0, "b": 0, "c": 1}


def test_perplexity_is_the_exponential_of_the_mean_nll():
    assert d.perplexity(6 * math.log(3), 6) == pytest.approx(3)
    assert math.isnan(d.perplexity(0.0, 0))


def test_relative_divides_by_the_first_value():
    assert d.relative([4.0, 2.0, 5.0]).tolist() == [1.0, 0.5, 1.25]
    assert d.relative([math.nan, 4.0, 2.0])[1:].tolist() == [1.0, 0.5]
    assert np.isnan(d.relative([math.nan, math.nan])).all()
    with pytest.raises(ValueError, match="first value"):
        d.relative([0.0, 1.0])


def test_shannon_entropy_by_hand():
    assert e.shannon_entropy([2, 1, 1, 0]) == pytest.approx(1.5)  # 1/2 * 1 + 2 * 1/4 * 2
    assert e.shannon_entropy([1, 1], base=math.e) == pytest.approx(math.log(2))
    assert e.shannon_entropy([7]) == 0
    assert math.isnan(e.shannon_entropy([]))


@pytest.mark.parametrize("counts", [[-1, 2], [0.5, 1]])
def test_counts_must_be_counts(counts):
    for estimate in (e.shannon_entropy, e.chao_shen_entropy):
        with pytest.raises(ValueError, match="whole and not negative"):
            estimate(counts)


def test_chao_shen_by_hand():
    # [2, 1, 1]: n = 4, coverage 1 - 2/4 = 1/2, shrunk p = 1/4, 1/8, 1/8.
    first = 0.25 * 2 / (1 - 0.75**4)
    second = 0.125 * 3 / (1 - 0.875**4)
    assert e.chao_shen_entropy([2, 1, 1]) == pytest.approx(first + 2 * second)
    # Two singletons: coverage 1 - 1/2, p = 1/4 each.
    assert e.chao_shen_entropy([1, 1]) == pytest.approx(2 * 0.25 * 2 / (1 - 0.75**2))
    assert e.chao_shen_entropy([5]) == 0
    assert e.chao_shen_entropy([1]) == 0
    assert math.isnan(e.chao_shen_entropy([]))


def test_rarefied_entropy_by_hand():
    # Draws of 2 from a, a, b: {a, a} once of three (0 bits), {a, b} twice (1 bit).
    assert e.rarefied_entropy([2, 1], 2) == pytest.approx(2 / 3)
    assert e.rarefied_entropy([2, 1], 1) == pytest.approx(0)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
@settings(deadline=None)
def test_rarefied_entropy_equals_the_mean_over_all_subsets(counts, data):
    items = [gram for gram, count in enumerate(counts) for _ in range(count)]
    assume(len(items) <= 11)
    m = data.draw(st.integers(1, len(items)))
    subsets = [[s.count(g) for g in range(len(counts))] for s in combinations(items, m)]
    mean = sum(map(e.shannon_entropy, subsets)) / len(subsets)
    assert e.rarefied_entropy(counts, m) == pytest.approx(mean, abs=1e-9)


@given(COUNTS)
@settings(deadline=None)
def test_rarefied_entropy_ends_at_the_plug_in_and_never_falls(counts):
    n = sum(counts)
    sizes = sorted({1, (n + 1) // 2, max(1, n - 1), n})
    values = [e.rarefied_entropy(counts, m) for m in sizes]
    assert values[-1] == pytest.approx(e.shannon_entropy(counts), abs=1e-9)
    assert all(b >= a - 1e-9 for a, b in pairwise(values))


def test_rarefied_entropy_holds_at_a_large_size():
    counts = [1000, 3000] * 50
    exact = e.shannon_entropy(counts)
    assert e.rarefied_entropy(counts, sum(counts)) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("m", [0, 4])
def test_rarefied_entropy_refuses_an_impossible_size(m):
    with pytest.raises(ValueError, match=rf"m={m} must lie in 1..3"):
        e.rarefied_entropy([2, 1], m)


def test_conditional_entropy_by_hand():
    followers = {"a": [1, 1], "b": [3]}
    assert e.conditional_entropy(followers) == pytest.approx(2 / 5 * 1)
    assert e.conditional_entropy(followers | {"c": []}) == pytest.approx(2 / 5)
    assert math.isnan(e.conditional_entropy({}))


def test_matched_conditional_entropy_by_hand():
    followers = {"a": [1, 1], "b": [1]}
    # At 3 pairs: 2/3 * 1 bit. At 2 of 3 pairs: only {ax, ay} leaves a choice (1 bit of 3 draws).
    assert e.matched_conditional_entropy(followers, 3) == pytest.approx(2 / 3)
    assert e.conditional_entropy(followers) == pytest.approx(2 / 3)
    assert e.matched_conditional_entropy(followers, 2) == pytest.approx(1 / 3)
    assert e.matched_conditional_entropy(followers, 1) == pytest.approx(0)


def test_cluster_counts_add_up_grams():
    assert e.cluster_counts({"a": 2, "b": 1, "c": 1}, CLUSTERS) == {0: 3, 1: 1}
    with pytest.raises(ValueError, match="'zz'"):
        e.cluster_counts({"zz": 1}, CLUSTERS)


def test_pass_at_k_by_hand():
    assert d.pass_at_k(4, 1, 2) == pytest.approx(0.5)  # 3 of 6 pairs hold the right one
    assert d.pass_at_k(4, 0, 2) == 0
    assert d.pass_at_k(4, 3, 2) == 1
    for n, c, k in [(4, 5, 1), (4, 1, 5), (4, 1, 0)]:
        with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}"):
            d.pass_at_k(n, c, k)


def test_overlap_shares_by_hand():
    assert d.overlap_shares(6, 10, 12) == (0.6, 0.5)
    assert math.isnan(d.overlap_shares(0, 0, 3)[0])
    with pytest.raises(ValueError, match="7 tokens are both of 6 and 12"):
        d.overlap_shares(7, 6, 12)


def test_summarise_by_hand():
    first, later = d.summarise([STEP, LATER], CLUSTERS).to_dict("records")
    expected = {
        "step": 0,
        "reward": 0.25,
        "length": 10,
        "clipped": 0.25,
        "zero_variance": 0.5,
        "no_planning": 0.25,
        "reason_right": 0.25,
        "reason_wrong": 0.5,
        "reason_no_box": 0.25,
        "planning_share": 0.25,
        "perplexity_planning": 4,
        "perplexity_execution": 2,
        "relative_perplexity_planning": 1,
        "entropy_planning": 1.2,
        "entropy_execution": 0.2,
        "planning_high_entropy": 0.6,
        "high_entropy_planning": 0.5,
        "error_planning": 0.5,
        "error_execution": 0.25,
        "error_planning_share": 2 / 3,
        "occurrences": 4,
        "matched_occurrences": 2,
        "matched_followers": 2,
        "semantic_entropy": 1.5,
        "semantic_entropy_matched": 5 / 6,  # of 6 pairs one is {a, a}
        "cluster_entropy": e.shannon_entropy([3, 1]),
        "cluster_entropy_matched": 0.5,  # 3 of 6 pairs mix the clusters
        "conditional_entropy": 2 / 3,  # a is 2 of 3 followed occurrences, with 1 bit
        "conditional_entropy_matched": 1 / 3,
        "semantic_entropy_change": 0,
        "loss": 0.5,
        "learning_rate": 1e-4,
        "seconds": 2.0,
    }
    assert {name: first[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(first["grad_norm"])
    expected = {
        "relative_perplexity_planning": 0.5,
        "relative_perplexity_execution": 1,
        "semantic_entropy": 1,
        "semantic_entropy_change": -0.5,
        "semantic_entropy_matched": 1,
        "semantic_entropy_matched_change": 1 / 6,  # the plug-in falls, the matched one rises
        "cluster_entropy_change": -e.shannon_entropy([3, 1]),
        "conditional_entropy_change": -2 / 3,
        "reason_wrong": 0,
    }
    assert {name: later[name] for name in expected} == pytest.approx(expected)
    assert (later["error_planning"], later["error_execution"]) == (0, 0)
    assert math.isnan(later["error_planning_share"])


def test_matched_sizes_span_all_compared_runs():
    assert d.matched_sizes([STEP], [LATER]) == (2, 2)
    many = {**STEP, "grams": {gram: 100 * n for gram, n in STEP["grams"].items()}}
    told = sum(many["grams"].values())
    assert d.matched_sizes([many], [many], [STEP]).occurrences == told  # one that collapsed decides nothing
    frame = d.summarise([STEP], sizes=d.MatchedSizes(1, 1))
    assert frame["semantic_entropy_matched"].item() == pytest.approx(0)
    assert "cluster_entropy" not in frame


def test_steps_without_planning_are_nan_and_do_not_set_the_size():
    empty = LATER | {"grams": {}, "followers": {}, "n_planning": 0, "n_high_entropy_planning": 0}
    frame = d.summarise([STEP, empty | {"errors": None}], CLUSTERS)
    assert frame["matched_occurrences"].tolist() == [4, 4]
    gone = ["perplexity_planning", "semantic_entropy", "semantic_entropy_matched", "error_planning"]
    assert frame.loc[1, [*gone, "conditional_entropy", "cluster_entropy"]].isna().all()
    assert frame["planning_share"].tolist() == [0.25, 0]


def test_summarise_changes_nothing_it_is_given():
    before = copy.deepcopy([STEP, LATER])
    d.summarise([STEP, LATER], CLUSTERS)
    assert before == [STEP, LATER]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "no steps"),
        ([STEP, STEP], "step 0 follows step 0"),
        ([STEP, {k: v for k, v in LATER.items() if k != "grams"}], "row 1 .step 1. lacks grams"),
    ],
)
def test_a_broken_record_is_named(steps, message):
    with pytest.raises(ValueError, match=message):
        d.summarise(steps, CLUSTERS)


def test_an_evaluation_without_a_field_is_named():
    with pytest.raises(ValueError, match="row 0 .step 3. lacks n, mean_length"):
        d.summarise_evals([{"step": 3, "accuracy": 0.5, "pass_at_8": None, "errors": None}])
    with pytest.raises(ValueError, match="lacks grams"):
        d.matched_sizes([STEP], [{k: v for k, v in LATER.items() if k != "grams"}])


def test_summarise_evals():
    errors = {"planning": 3, "execution": 1}
    rows = [
        {"step": 0, "accuracy": 0.5, "n": 8, "mean_length": 9.0, "pass_at_8": None, "errors": None},
        {"step": 5, "accuracy": 0.5, "n": 8, "mean_length": 8.0, "pass_at_8": 1, "errors": errors},
    ]
    frame = d.summarise_evals(rows)
    assert frame["length"].tolist() == [9.0, 8.0]
    assert math.isnan(frame["pass_at_8"][0])
    assert frame.loc[1, ["error_planning", "error_execution"]].tolist() == [0.375, 0.125]
    assert frame["error_planning_share"][1] == 0.75
