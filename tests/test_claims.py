"""Claims and verdicts: quantities by hand, rules from both sides, and the shipped file."""

import math

import numpy as np
import pandas as pd
import pytest
import yaml

from hicra.study.experiments import CONDITIONS, DECIDING
from hicra.study.record.run_tables import load_study
from hicra.study.verdicts.claims import (
    CONTRADICTED,
    NOT_TESTED,
    REPLICATED,
    UNDECIDED,
    VERDICTS,
    ClaimError,
    Claims,
    afterwards_table,
    contrast,
    decide,
    load_claims,
    power_table,
    verdict_counts,
    verdict_table,
)
from hicra.study.verdicts.compass import compass_table, prediction
from hicra.study.verdicts.families_quantities import families_quantities
from hicra.study.verdicts.intervals import bootstrap_interval
from hicra.study.verdicts.run_quantities import quantities
from tests.records import write_record


@pytest.fixture
def values(tmp_path):
    runs = [write_record(tmp_path, "grpo", s, accuracy=0.5 + 0.01 * s) for s in range(5)]
    runs += [write_record(tmp_path, "hicra", s, accuracy=0.6 + 0.01 * s) for s in range(5)]
    study = load_study(runs)
    return quantities(study.steps, study.evals).join(families_quantities(runs))


def _claim(**fields):
    told = {"id": "x", "question": "q", "claim": "c", "where": "w", "figures": ["Fig. 4"], "paper": "p"}
    tested = {"quantity": "final_accuracy", "unit": "share", "of": {"hicra": 1, "grpo": -1}}
    return told | tested | {"rule": {"above": 0}} | fields


def _verdict(values, **fields):
    return verdict_table(Claims((_claim(**fields),), 5, {"q": "Is it?"}), values).iloc[0]


def test_power_is_that_of_the_rule_s_own_side_and_bound():
    claims = [
        _claim(id="up", rule={"above": 0.5}, effects=[0.5, 1.0]),
        _claim(id="down", rule={"below": 0}, effects=[-0.5, 0.5]),
        _claim(id="other arm", of={"placebo": 1, "grpo": -1}, effects=[1]),
    ]
    index = pd.MultiIndex.from_product([["hicra", "grpo"], range(3)], names=["arm", "seed"])
    pilots = pd.DataFrame({"final_accuracy": [0.1, 0.3, 0.5, 0, 0, 0]}, index=index)
    table = power_table(Claims(tuple(claims), 5, {"q": "Is it?"}), pilots)
    assert table["id"].tolist() == ["up", "up", "down", "down"]
    assert set(table["spread"].round(9)) == {0.2}
    at_the_bound, up, down, wrong_side = table["power"]
    assert at_the_bound == pytest.approx(0.025)
    assert up == down == pytest.approx(0.99, abs=0.02)
    assert wrong_side < 1e-6


def test_a_claim_may_need_seeds_of_its_own(values):
    assert _verdict(values, seeds=6)["note"] == "5 of 6 seeds have been run"
    fewer = verdict_table(Claims((_claim(seeds=5),), 10, {"q": "Is it?"}), values).iloc[0]
    assert fewer["verdict"] != NOT_TESTED


def test_quantities_are_what_the_table_says(values):
    run = values.loc["grpo", 0]
    assert run["final_accuracy"] == 0.5
    assert run["length_change"] == pytest.approx(15 / 4)  # 0..4 against 15..19, 4 completions
    assert run["execution_log_perplexity_change"] == pytest.approx(-0.15)
    assert run["token_entropy_change"] == 0
    assert run["planning_minus_execution_error_change"] == 0
    assert run["planning_high_entropy"] == 0.6
    assert run["high_entropy_planning"] == 0.5

    assert run["base_accuracy"] == 0.4
    assert run["final_entropy_planning"] == 1.2


def test_the_compass_ranks_within_and_across_runs(tmp_path):
    # Arms that start more diverse gain more: across runs the rank correlation is 1.
    steps, evals = [], []
    for seed in (0, 1, 2):
        for i, arm in enumerate(("a", "b", "c", "d")):
            for s in range(30):
                level = {
                    "semantic_entropy": i + 0.01 * s,
                    "semantic_entropy_matched": -i,
                    "token_entropy": 1.0,
                }
                told = {"arm": arm, "seed": seed, "step": s, "reward": 0.01 * s * s, "group_solved": 0.5}
                steps.append(told | level)
            for at, accuracy in ((0, 0.3), (10, 0.4), (30, 0.4 + 0.1 * i)):
                evals.append({"arm": arm, "seed": seed, "step": at, "accuracy": accuracy})
    table = compass_table(pd.DataFrame(steps), pd.DataFrame(evals), ("a", "b", "c", "d"))
    rho = table.set_index(["metric", "asked"])["rho"]
    assert rho["semantic_entropy", "across runs"] == pytest.approx(1)
    assert rho["semantic_entropy_matched", "across runs"] == pytest.approx(-1)
    assert rho["semantic_entropy", "within runs"] == rho["step", "within runs"] == pytest.approx(1)
    assert math.isnan(rho["token_entropy", "across runs"])  # nothing to rank
    assert ("step", "across runs") not in rho


def test_questions_asked_afterwards_have_an_interval_and_no_verdict(root, values):
    claims = load_claims(root / "data/families/claims.yaml")
    table = afterwards_table(claims, values)
    asked = [a["question"] for a in claims.afterwards if a["quantity"] in ("planning_high_entropy", "weight")]
    assert len(claims.afterwards) >= 9
    assert asked[0] in set(table["question"]) < {a["question"] for a in claims.afterwards}  # no run, no row
    assert "verdict" not in table
    assert set(table["seeds"]) == {5}


def test_prediction_has_the_sign_of_what_follows():
    reward = pd.Series(np.cumsum(np.cumsum(np.ones(40))))  # gains grow with time
    rising = pd.Series(np.arange(40.0))
    assert prediction(rising, reward) == pytest.approx(1)
    assert prediction(-rising, reward) == pytest.approx(-1)
    assert math.isnan(prediction(rising[:12], reward[:12]))


def test_differences_are_paired_on_shared_seeds(values):
    gap = contrast(values.drop(index=[("hicra", 2)]), "final_accuracy", {"hicra": 1, "grpo": -1})
    assert list(gap.index) == [0, 1, 3, 4]
    np.testing.assert_allclose(gap, 0.1)
    with pytest.raises(ClaimError, match="unknown quantity 'accurcy'"):
        contrast(values, "accurcy", {"hicra": 1})
    assert contrast(values, "final_accuracy", {"oracle": 1, "grpo": -1}).empty


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict", "note"),
    [
        ({"above": 0}, 0.01, 0.2, REPLICATED, ""),
        ({"above": 0}, 0.0, 0.2, UNDECIDED, "holds 0"),
        ({"above": 0}, -0.2, -0.1, CONTRADICTED, "lies below 0"),
        ({"below": 0.5}, 0.1, 0.49, REPLICATED, ""),
        ({"below": 0.5}, 0.4, 0.5, UNDECIDED, "holds 0.5"),
        ({"below": 0.5}, 0.51, 0.6, CONTRADICTED, "lies above 0.5"),
        ({"within": 0.03}, -0.03, 0.02, REPLICATED, ""),
        ({"within": 0.03}, -0.04, 0.02, UNDECIDED, "holds -0.03"),
        ({"within": 0.03}, 0.03, 0.05, UNDECIDED, "holds 0.03"),
        ({"within": 0.03}, 0.04, 0.05, CONTRADICTED, "beyond ±0.03"),
        # A margin fixed before: what lies within it is too small to matter, on either side.
        ({"above": 0, "margin": 0.01}, -0.01, 0.01, CONTRADICTED, "within 0.01 of 0"),
        ({"above": 0, "margin": 0.01}, 0.002, 0.008, CONTRADICTED, "within 0.01 of 0"),
        ({"above": 0, "margin": 0.01}, -0.002, 0.02, UNDECIDED, "holds 0"),
        ({"above": 0, "margin": 0.01}, 0.002, 0.02, REPLICATED, ""),
        ({"below": 0, "margin": 0.01}, -0.02, -0.002, REPLICATED, ""),
    ],
)
def test_a_rule_decides_from_the_interval(rule, low, high, verdict, note):
    found, why = decide(rule, low, high)
    assert found == verdict
    assert (note in why) if note else why == ""


def test_a_verdict_follows_from_the_runs(values):
    row = _verdict(values)
    assert row["ours"] == pytest.approx(0.1)
    assert row["statistic"] == "final_accuracy: +hicra -grpo"
    assert row["verdict"] == REPLICATED
    assert (row["question"], row["figures"], row["unit"]) == ("q", ["Fig. 4"], "share")
    assert _verdict(values, rule={"below": 0})["verdict"] == CONTRADICTED
    assert _verdict(values, of={"grpo": 1}, rule={"above": 0.49})["verdict"] == REPLICATED


def test_both_intervals_must_hold():
    # Five seeds, 0.1 to 0.5: the bootstrap stays above 0.15, Student's t does not.
    index = pd.MultiIndex.from_product([["hicra"], range(5)], names=["arm", "seed"])
    values = pd.DataFrame({"final_accuracy": [0.1, 0.2, 0.3, 0.4, 0.5]}, index=index)
    row = _verdict(values, of={"hicra": 1}, rule={"above": 0.15})
    assert row["boot_low"] > 0.15 > row["t_low"] == row["low"]
    assert row["verdict"] == UNDECIDED


def test_the_power_of_a_rule_stands_beside_its_verdict():
    # Standard deviation over seeds 0.0235, as in the example of intervals.power.
    index = pd.MultiIndex.from_product([["hicra"], range(5)], names=["arm", "seed"])
    spread = 0.0235 / np.std([-2, -1, 0, 1, 2], ddof=1)
    values = pd.DataFrame({"final_accuracy": np.arange(-2, 3) * spread}, index=index)
    row = _verdict(values, of={"hicra": 1}, effects=[0.02])
    assert (row["verdict"], row["power"]) == (UNDECIDED, "0.31 at 0.02")
    assert _verdict(values, of={"hicra": 1})["power"] == ""


def test_too_few_seeds_decide_nothing(values):
    row = _verdict(values.drop(index=[("hicra", 2)]))
    assert (row["verdict"], row["seeds"]) == (NOT_TESTED, 4)
    assert "4 of 5 seeds" in row["note"]


def test_the_bootstrap_repeats_and_brackets_the_mean():
    low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert 1 < low < 3 < high < 5


def test_the_shipped_claims_can_be_judged(root, values):
    claims = load_claims(root / "data/families/claims.yaml")
    assert len(claims.claims) >= 14
    assert claims.seeds <= len(DECIDING)
    for claim in claims.claims:
        assert set(claim.get("of", {})) <= set(CONDITIONS)
        assert claim.get("quantity", "final_accuracy") in values
    table = verdict_table(claims, values)
    assert set(table["verdict"]) <= set(VERDICTS)
    assert set(table["question"]) == set(claims.questions)


def test_verdicts_are_counted_zeros_included(values):
    table = pd.DataFrame({"verdict": [UNDECIDED, NOT_TESTED, UNDECIDED]})
    assert verdict_counts(table) == {REPLICATED: 0, CONTRADICTED: 0, UNDECIDED: 2, NOT_TESTED: 1}
    assert tuple(verdict_counts(table)) == VERDICTS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": None}, "claim x: fields"),
        ({"unit": None}, "claim x: fields"),
        ({"figures": None}, "claim x: fields"),
        ({"surprise": 1}, "claim x: fields .*surprise"),
        ({"question": "why"}, "claim x: question 'why'; give one of q"),
        ({"rule": {"over": 1}}, "rule .'over': 1.; give one of above"),
        ({"rule": {"above": 0, "below": 1}}, "give one of above"),
        ({"rule": {"within": 0.1, "margin": 0.01}}, "margin and effects belong to the rules above and below"),
        ({"rule": {"within": 0.1}, "effects": [0.1]}, "margin and effects belong"),
        ({"seeds": 1}, "claim x: seeds 1; an interval over seeds needs 2 or more"),
    ],
)
def test_a_claims_file_that_cannot_be_used_is_named(tmp_path, change, message):
    claim = {name: value for name, value in (_claim() | change).items() if value is not None}
    record = {"seeds": 5, "questions": {"q": "Is it?"}, "claims": [claim]}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(ClaimError, match=message):
        load_claims(tmp_path / "claims.yaml")


def test_an_id_that_stands_twice_is_named(tmp_path):
    record = {"seeds": 5, "questions": {"q": "Is it?"}, "claims": [_claim(), _claim()]}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(ClaimError, match="claim x stands twice"):
        load_claims(tmp_path / "claims.yaml")


def test_a_question_asked_afterwards_has_its_fields(tmp_path):
    asked = {"question": "And?", "quantity": "length_change", "of": {"grpo": 1}}
    record = {"seeds": 5, "questions": {"q": "Is it?"}, "claims": [_claim()], "afterwards": [asked]}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(ClaimError, match="afterwards, And.: fields .*unit"):
        load_claims(tmp_path / "claims.yaml")


@pytest.mark.parametrize("text", ["claims: [", "just a text", "claims: []", "{claims: [], seeds: 5}"])
def test_a_torn_claims_file_is_named(tmp_path, text):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ClaimError, match=r"claims.yaml .*restore it"):
        load_claims(tmp_path / "claims.yaml")
