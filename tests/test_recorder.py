"""The recorder's guards: an update that is not finite, an arm that changed nothing."""

import json

import pytest
import torch

from hicra.lexicon.lexicon import Lexicon
from hicra.study.launch import status
from hicra.study.record.run_folder import RunError, RunFolder
from hicra.study.training.recorder import SKIPS_IN_A_ROW, Recorder, add_rows, gram_counts


@pytest.fixture
def recorder(tmp_path):
    run = RunFolder(tmp_path / "hicra-seed0")
    run.open({"arm": "hicra", "steps": 3})
    made = Recorder(
        run,
        lexicon=Lexicon.load("listing1"),
        tokenizer=None,
        temperature=1.0,
        statistics=None,
        explain=None,
        group_size=2,
        rollouts_kept=0,
    )
    made.row = {"step": 0, "n_credit_changed": 0, "n_planning": 0, "n_zero_variance_groups": 1, "n_groups": 1}
    made.prompts, made.texts, made.rewards = ["p", "p"], ["one", "two"], torch.tensor([1.0, 0.0])
    return made


GOOD = {"loss": 0.1, "grad_norm": 0.2, "learning_rate": 1e-4}


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan"])
def test_an_update_that_is_not_finite_stops_the_run_and_keeps_its_rollouts(recorder, name, value):
    recorder.close_step(GOOD)
    with pytest.raises(
        RunError, match=f"step 0 of .* gave {name} (nan|inf); its rollouts are in diverged.json"
    ):
        recorder.close_step({**GOOD, name: value})
    kept = json.loads((recorder.folder.path / "diverged.json").read_text())
    assert kept["rollouts"][1] == {"prompt": "p", "completion": "two", "reward": 0.0}
    assert len((recorder.folder.path / "steps.jsonl").read_text().splitlines()) == 1


def test_a_loss_scale_may_skip_an_update_but_not_for_ever(recorder):
    for _ in range(SKIPS_IN_A_ROW - 1):
        recorder.close_step({**GOOD, "grad_norm": float("inf")}, skipped=True)
    recorder.close_step(GOOD)
    row = json.loads((recorder.folder.path / "steps.jsonl").read_text().splitlines()[0])
    assert (row["skipped"], row["grad_norm"]) == (True, None)
    for _ in range(SKIPS_IN_A_ROW - 1):
        recorder.close_step({**GOOD, "grad_norm": float("inf")}, skipped=True)
    with pytest.raises(RunError, match="grad_norm inf"):
        recorder.close_step({**GOOD, "grad_norm": float("inf")}, skipped=True)


def test_a_completion_that_starts_inside_thinking_needs_its_end(recorder):
    recorder.tokenizer = type("Tokenizer", (), {"eos_token_id": 1})
    told = {"prompts": ["p", "p"], "completion_ids": [[1], [1]], "answer": ["5", "5"], "problem": ["", ""]}
    texts = ["perhaps \\boxed{5}? no", "no. </think> \\boxed{5}"]
    assert recorder(completions=texts, **told) == [1.0, 1.0]
    recorder.prefilled_think = True
    assert recorder(completions=texts, **told) == [0.0, 1.0]


def test_an_arm_that_changed_nothing_says_so_once(recorder):
    recorder.warn_if_unchanged("hicra")
    recorder.warn_if_unchanged("hicra")  # after a resume
    [notice] = recorder.folder.notices()
    assert notice.startswith("hicra changed no advantage in step 0: 0 planning tokens, 1 of 1 groups")
    assert f"hicra-seed0 0/3 ! {notice}" in status([recorder.folder])


def test_an_arm_that_changed_something_is_quiet(recorder):
    recorder.row["n_credit_changed"] = 1
    recorder.warn_if_unchanged("hicra")
    assert recorder.folder.notices() == []


def test_followers_are_the_words_behind_a_planning_span():
    lexicon = Lexicon.from_grams(["let's try to", "we know that"])
    texts = ["Let's try to add 2 and 3. We know that let's try to add 2 and 3.", "We know that."]
    grams, followers = gram_counts(texts, lexicon)
    assert grams == {"let's try to": 2, "we know that": 2}
    assert followers == {"let's try to": {"add 2 and": 2}}


def test_the_shares_of_a_step_add_up():
    one = {
        "step": 3,
        "n": 2,
        "nll": 0.5,
        "reasons": {"right": 1},
        "followers": {"a": {"x": 1}},
        "errors": None,
    }
    two = {
        "step": 3,
        "n": 1,
        "nll": 0.25,
        "reasons": {"wrong": 2},
        "followers": {"a": {"x": 1, "y": 1}},
        "errors": None,
    }
    assert add_rows([one]) == one
    assert add_rows([one, two]) == {
        "step": 3,
        "n": 3,
        "nll": 0.75,
        "reasons": {"right": 1, "wrong": 2},
        "followers": {"a": {"x": 2, "y": 1}},
        "errors": None,
    }
