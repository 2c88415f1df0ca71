"""Profiles: one dial, checked overrides."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hicra.errors import HicraError
from hicra.study.profiles import PROFILES, Profile, get_profile, recorded_profile
from tests.fuzz import fuzz


def test_a_profile_is_frozen_and_round_trips_through_its_overrides():
    study = get_profile("families", steps=7, seeds=[3, 4], alpha=0.5)
    assert study.overrides() == {"steps": 7, "seeds": [3, 4], "alpha": 0.5}
    assert get_profile("families", **study.overrides()) == study
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.steps = 8


def test_a_recorded_profile_is_the_run_s_even_where_its_files_are_gone():
    made = get_profile(
        "smollm2", steps=7, prompt_template="Q {problem}", problem_set=["math500", "gsm8k_test"]
    )
    settings = {**made.settings(), "problem_set": ["/gone/p.jsonl", "math500"], "arm": "hicra", "seed": 3}
    again = recorded_profile(json.loads(json.dumps(settings)), max_completion_length=5)
    assert again.problem_set == ("/gone/p.jsonl", "math500")
    assert (again.steps, again.prompt_template, again.max_completion_length) == (7, "Q {problem}", 5)
    assert again.world == made.world
    old = {k: v for k, v in settings.items() if k != "steps"}  # from before there was the field
    assert recorded_profile(old).steps == 50
    with pytest.raises(HicraError, match="unknown profile field 'lenth'"):
        recorded_profile(settings, lenth=5)


def test_the_defaults_that_the_paper_prints():
    study = get_profile("families")
    assert (study.alpha, study.epsilon_low, study.epsilon_high, study.kl_beta) == (0.2, 0.2, 0.28, 0)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("laptop", {}, "unknown profile 'laptop'; choose one of: families"),
        (
            "families",
            {"step": 3},
            r"unknown profile field 'step'; did you mean 'steps'\? the fields are: base,",
        ),
        ("families", {"name": "colab"}, "unknown profile field 'name'"),
        ("families", {"steps": "3"}, "steps='3' should be a valid integer"),
        ("families", {"steps": True}, "steps=True should be a valid integer"),
        ("families", {"steps": 2.0}, "steps=2.0 should be a valid integer"),
        ("families", {"steps": 0}, "steps=0 should be greater than or equal to 1"),
        ("families", {"warmup_steps": -1}, "warmup_steps=-1 should be greater than or equal to 0"),
        ("families", {"alpha": 1.0}, "alpha=1.0 should be less than 1"),
        ("families", {"alpha": 1, "steps": "3"}, "steps='3' should be .*; alpha=1 should be less than 1"),
        ("families", {"group_size": 1}, "group_size=1 should be greater than or equal to 2"),
        ("families", {"learning_rate": float("nan")}, "learning_rate=nan should be a finite number"),
        ("families", {"learning_rate": float("inf")}, "learning_rate=inf should be a finite number"),
        ("families", {"dtype": "int8"}, "dtype='int8' should be 'float32', 'bfloat16' or 'float16'"),
        ("families", {"vllm": 1}, "vllm=1 should be a valid boolean"),
        ("families", {"seeds": 3}, "seeds=3 should be a valid list"),
        ("families", {"seeds": []}, "seeds=.. should have at least 1 item$"),
        ("families", {"seeds": [0, -1]}, "seeds=.0, -1. each should be greater than or equal to 0"),
        ("families", {"seeds": [3, 3]}, "seeds=.3, 3. name a seed twice"),
        ("families", {"benchmarks": "math500"}, "benchmarks='math500' should be a valid list"),
        ("families", {"problem_set": 3}, "problem_set=3 should be a valid string or should be a valid list"),
        (
            "families",
            {"report_to": "slate"},
            "report_to='slate' should be '', 'tensorboard', 'trackio' or 'wandb'",
        ),
        ("families", {"report_to": "wandb"}, "report_to='wandb' is not installed; pip install wandb"),
        ("families", {"rows_per_pass": 5}, "rows_per_pass=5 does not divide a process's 128 completions"),
        ("families", {"processes": 3}, "processes=3 cannot share a step's 16 prompts evenly"),
        ("families", {"processes": 0}, "processes=0"),
        ("colab", {"credit_lexicon": "oracle"}, "credit_lexicon='oracle': the true spans of 'gsm8k-train"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(name, overrides, message):
    with pytest.raises(HicraError, match=message):
        get_profile(name, **overrides)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


def test_a_template_that_opens_thinking_is_known():
    assert not get_profile("families").prefilled_think
    assert get_profile("families", prompt_template="{problem}\n<think>\n").prefilled_think


@fuzz(200)
@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Profile)]), VALUES))
def test_any_override_gives_a_profile_or_a_value_error(overrides):
    overrides.pop("name", None)
    try:
        profile = get_profile("families", **overrides)
    except HicraError:
        return
    base = PROFILES["families"].settings()
    changed = {k: v for k, v in profile.settings().items() if v != base[k] and k != "world"}
    assert profile.overrides() == changed  # the world follows from them
    assert get_profile("families", **changed) == profile


def test_a_small_model_on_another_made_set_still_says_that_it_is_none():
    even = get_profile("families", problem_set="families-even").world
    assert even == "families: 0.7 M-parameter Llama on families-even, not a language model"
    even = get_profile("smollm2", problem_set="families-even").world
    assert even == "SmolLM2-135M-Instruct on families-even"
