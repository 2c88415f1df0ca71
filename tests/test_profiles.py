"""Profiles: one dial, checked overrides."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hicra.study.profiles import PROFILES, Profile, get_profile
from tests.fuzz import fuzz


def test_a_profile_is_frozen_and_round_trips_through_its_overrides():
    study = get_profile("sandbox", steps=7, seeds=[3, 4], alpha=0.5)
    assert study.overrides() == {"steps": 7, "seeds": [3, 4], "alpha": 0.5}
    assert get_profile("sandbox", **study.overrides()) == study
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.steps = 8


def test_the_defaults_that_the_paper_prints():
    study = get_profile("sandbox")
    assert (study.alpha, study.epsilon_low, study.epsilon_high, study.kl_beta) == (0.2, 0.2, 0.28, 0)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("laptop", {}, "unknown profile 'laptop'; choose one of: sandbox"),
        ("sandbox", {"step": 3}, "unknown profile field 'step'"),
        ("sandbox", {"steps": "3"}, "steps='3' is a str; give a int"),
        ("sandbox", {"steps": True}, "steps=True is a bool"),
        ("sandbox", {"steps": -1}, "steps=-1 must not be negative"),
        ("sandbox", {"alpha": 1.0}, r"alpha=1.0 is outside \[0, 1\)"),
        ("sandbox", {"group_size": 1}, "group_size=1"),
        ("sandbox", {"learning_rate": float("nan")}, "learning_rate=nan"),
        ("sandbox", {"seeds": 3}, "seeds=3"),
        ("sandbox", {"benchmarks": "math500"}, "benchmarks='math500'; give a list of names"),
        ("sandbox", {"report_to": "slate"}, "report_to='slate' is unknown; choose one of: trackio, wandb"),
        ("sandbox", {"report_to": "wandb"}, "report_to='wandb' is not installed; pip install wandb"),
        ("sandbox", {"rows_per_pass": 5}, "rows_per_pass=5 does not divide a process's 128 completions"),
        ("sandbox", {"processes": 3}, "processes=3 cannot share a step's 16 prompts evenly"),
        ("sandbox", {"processes": 0}, "processes=0"),
        ("colab", {"credit_lexicon": "oracle"}, "credit_lexicon='oracle': the true spans of 'gsm8k-train"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        get_profile(name, **overrides)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


def test_a_template_that_opens_thinking_is_known():
    assert not get_profile("sandbox").prefilled_think
    assert get_profile("sandbox", prompt_template="{problem}\n<think>\n").prefilled_think


@fuzz(200)
@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Profile)]), VALUES))
def test_any_override_gives_a_profile_or_a_value_error(overrides):
    overrides.pop("name", None)
    try:
        profile = get_profile("sandbox", **overrides)
    except ValueError:
        return
    base = PROFILES["sandbox"].settings()
    changed = {k: v for k, v in profile.settings().items() if v != base[k] and k != "world"}
    assert profile.overrides() == changed  # the world follows from them
    assert get_profile("sandbox", **changed) == profile
