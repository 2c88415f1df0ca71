"""The parts of a run's record: the reward, a step's row, the guards, the writer."""

import json

import pytest
import torch

from hicra.dynamics.occurrences import GramFinder, gram_counts
from hicra.lexicon.lexicon import Lexicon
from hicra.study.launch import status
from hicra.study.record.run_folder import RunError, RunFolder
from hicra.study.training.gradient_norms import class_gradient_norms
from hicra.study.training.guard import SKIPS_IN_A_ROW, UpdateGuard, unchanged
from hicra.study.training.recorder import Recorder
from hicra.study.training.reward import Graded, VerifiedAnswer
from hicra.study.training.step_row import Tokens, add_rows, rollout_rows, step_row, without_words

GRADED = Graded(
    prompts=["p", "p", "q", "q"],
    texts=["Let us see. \\boxed{1}", "no", "\\boxed{1}", "\\boxed{2}"],
    ended=[True, False, True, True],
    reasons=["right", "truncated", "right", "right"],
    errors=[None, "planning", None, None],
    rewards=torch.tensor([1.0, 0.0, 1.0, 1.0]),
)


# --- the reward ---


def _reward(**changes):
    return VerifiedAnswer(
        **{"group_size": 2, "ends": {1}, "prefilled_think": False, "explain": None, **changes}
    )


def _graded(reward, texts, **columns):
    told = {"prompts": ["p", "p"], "completion_ids": [[1], [1]], "answer": ["5", "5"], "problem": ["", ""]}
    return reward(completions=texts, **{**told, **columns})


def test_a_reward_keeps_what_grading_found_out():
    reward = _reward(explain=lambda problem, text: f"{problem}: {text[:2]}")
    found = _graded(reward, ["\\boxed{5}", "so"], completion_ids=[[7, 1], [7, 7]], problem=["a", "b"])
    assert found == [1.0, 0.0]
    assert reward.graded.ended == [True, False]
    assert reward.graded.reasons == ["right", "truncated"]
    assert reward.graded.errors == [None, "b: so"]
    assert reward.graded.rewards.tolist() == found
    _graded(plain := _reward(), ["\\boxed{5}", "so"])
    assert plain.graded.errors is None


def test_a_reward_keeps_the_choices_that_were_counted():
    reward = _reward(count=lambda problems, texts, right: {"plans": dict(zip(problems, right, strict=True))})
    _graded(reward, ["\\boxed{5}", "so"], problem=["a", "b"])
    assert reward.graded.choices == {"plans": {"a": True, "b": False}}
    graded = GRADED._replace(choices={"neutral": {"and next": 2}})
    row = step_row(
        7,
        graded,
        _tokens(),
        graded.texts,
        finder=GramFinder(Lexicon.from_grams(["let us see"])),
        group_size=2,
    )
    assert row["neutral"] == {"and next": 2}


def test_a_completion_that_starts_inside_thinking_needs_its_end():
    texts = ["perhaps \\boxed{5}? no", "no. </think> \\boxed{5}"]
    assert _graded(_reward(), texts) == [1.0, 1.0]
    assert _graded(_reward(prefilled_think=True), texts) == [0.0, 1.0]


def test_a_part_of_a_group_is_refused():
    with pytest.raises(RunError, match="parts of groups"):
        _graded(_reward(), ["\\boxed{5}"] * 2, prompts=["p", "q"])


# --- a step's row ---


def _tokens():
    """Four completions of 3, 2, 3 and 2 tokens; the first is planning in two of its own."""
    done = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 0]]).bool()  # (4, 3)
    planning = torch.zeros(4, 3, dtype=torch.bool)
    planning[0, :2] = True
    plain = torch.tensor([0.5, -0.5, 0.0, 0.0])  # (4,)
    credited = plain[:, None].repeat(1, 3)  # (4, 3)
    credited[0, :2] += 0.1
    credited[1, 2] = 9.0  # padding
    entropies = torch.tensor([[3.0, 0.1, 2.0], [0.2, 0.3, 9.0], [1.0, 0.4, 0.5], [0.6, 0.7, 9.0]])
    ids = torch.arange(12).view(4, 3)
    return Tokens(ids, done, planning, -entropies / 10, entropies, plain, credited)


def test_a_row_holds_the_sums_and_counts_of_its_tokens():
    row = step_row(
        7,
        GRADED,
        _tokens(),
        GRADED.texts,
        finder=GramFinder(Lexicon.from_grams(["let us see"])),
        group_size=2,
    )
    counts = {"step": 7, "n_completions": 4, "n_groups": 2, "n_zero_variance_groups": 1, "n_solved_groups": 2}
    counts |= {"n_clipped": 1, "n_no_planning": 3, "n_credit_changed": 2, "length_sum": 10}
    counts |= {"n_planning": 2, "n_execution": 8, "n_high_entropy": 3, "n_high_entropy_planning": 1}
    assert {name: row[name] for name in counts} == counts
    groups = {"group_successes": [1, 2], "group_planning": [2, 0], "group_planning_in_successes": [2, 0]}
    assert {name: row[name] for name in groups} == groups
    assert row["reward_sum"] == 3.0
    assert row["reasons"] == {"right": 3, "truncated": 1}
    assert row["errors"] == {"planning": 1}
    assert row["grams"] == {"let us see": 1}
    assert row["entropy_planning"] == pytest.approx(3.1)
    assert row["entropy_execution"] == pytest.approx(5.7)
    assert row["nll_planning"] == pytest.approx(0.31)
    unlabelled = GRADED._replace(errors=None)
    assert (
        step_row(
            7,
            unlabelled,
            _tokens(),
            unlabelled.texts,
            finder=GramFinder(Lexicon.from_grams(["a b c"])),
            group_size=2,
        )["errors"]
        is None
    )


def test_a_kept_rollout_ends_with_its_own_tokens():
    tokenizer = type("Tokenizer", (), {"decode": lambda self, ids: f"t{ids[0]}"})()
    rows = rollout_rows(7, GRADED, _tokens(), tokenizer, 2)
    assert [row["tokens"] for row in rows] == [["t0", "t1", "t2"], ["t3", "t4"]]
    assert rows[0]["planning"] == [1, 1, 0]
    assert (rows[1]["reason"], rows[1]["error"], rows[1]["entropy"]) == ("truncated", "planning", [0.2, 0.3])
    assert rollout_rows(7, GRADED, _tokens(), tokenizer, 0) == []


def test_followers_are_the_words_behind_a_planning_span():
    lexicon = Lexicon.from_grams(["let's try to", "we know that"])
    texts = ["Let's try to add 2 and 3. We know that let's try to add 2 and 3.", "We know that."]
    grams, followers = gram_counts(texts, GramFinder(lexicon))
    assert grams == {"let's try to": 2, "we know that": 2}
    assert followers == {"let's try to": {"add 2 and": 2}}


def test_the_shares_of_a_step_add_up():
    one = {
        "step": 3,
        "n": 2,
        "group_planning": [4, 0],
        "nll": 0.5,
        "reasons": {"right": 1},
        "followers": {"a": {"x": 1}},
        "errors": None,
    }
    two = {
        "step": 3,
        "n": 1,
        "group_planning": [3],
        "nll": 0.25,
        "reasons": {"wrong": 2},
        "followers": {"a": {"x": 1, "y": 1}},
        "errors": None,
    }
    assert add_rows([one]) == one
    assert add_rows([one, two]) == {
        "step": 3,
        "n": 3,
        "group_planning": [4, 0, 3],
        "nll": 0.75,
        "reasons": {"right": 1, "wrong": 2},
        "followers": {"a": {"x": 2, "y": 1}},
        "errors": None,
    }


def test_a_record_counts_followers_without_their_words():
    row = {"step": 3, "followers": {"a": {"x": 1, "y": 2}, "b": {"x": 1}}}
    assert without_words(row) == {"step": 3, "followers": {"a": [2, 1], "b": [1]}}


def test_gradient_norms_by_class():
    """Logits 0, 0: the gradient of log p_0 is (1/2, -1/2), here once for a planning token and twice without."""
    logits = torch.zeros(2, requires_grad=True)
    logps = logits.log_softmax(0)[torch.tensor([[0, 0], [0, 0]])]  # (2, 2)
    planning = torch.tensor([[True, False], [False, True]])
    done = torch.tensor([[True, True], [True, False]])
    norms = class_gradient_norms([logits], logps, torch.tensor([2.0, 1.0]), planning, done)
    unit = 0.5**0.5 / 3  # of an advantage of 1, in a mean over 3 tokens
    assert norms["grad_norm_planning"] == pytest.approx(2 * unit)
    assert norms["grad_norm_execution"] == pytest.approx(3 * unit)


# --- the guards and the writer ---

GOOD = {"loss": 0.1, "grad_norm": 0.2, "learning_rate": 1e-4}
ROW = {"step": 0, "n_credit_changed": 0, "n_planning": 0, "n_zero_variance_groups": 1, "n_groups": 1}


@pytest.fixture
def recorder(tmp_path):
    run = RunFolder(tmp_path / "hicra-seed0")
    run.open({"arm": "hicra", "steps": 3}, condition="hicra")
    made = Recorder(run)
    made.open_step(ROW, GRADED, [])
    return made


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan"])
def test_an_update_that_is_not_finite_stops_the_run_and_keeps_its_rollouts(recorder, name, value):
    recorder.close_step(GOOD)
    with pytest.raises(
        RunError, match=f"step 0 of .* gave {name} (nan|inf); its rollouts are in diverged.json"
    ):
        recorder.close_step({**GOOD, name: value})
    kept = json.loads((recorder.folder.path / "diverged.json").read_text())
    assert kept["rollouts"][1] == {"prompt": "p", "completion": "no", "reward": 0.0}
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


def test_the_guard_names_every_number_that_is_not_finite():
    guard = UpdateGuard()
    assert guard.wrong(GOOD, skipped=False) == []
    assert guard.wrong({"loss": float("nan"), "grad_norm": float("inf"), "x": 1.0}, skipped=False) == [
        "loss",
        "grad_norm",
    ]


def test_an_arm_that_changed_nothing_says_so_once(recorder):
    notice = unchanged(ROW, "hicra")
    assert notice.startswith("hicra changed no advantage in step 0: 0 planning tokens, 1 of 1 groups")
    for _ in range(2):  # also after a resume
        recorder.open_step(ROW, GRADED, [], notice)
    assert recorder.folder.notices() == [notice]
    assert f"hicra-seed0 0/3 ! {notice}" in status([recorder.folder])


def test_an_arm_that_changed_something_is_quiet(recorder):
    assert unchanged({**ROW, "n_credit_changed": 1}, "hicra") == ""
    recorder.open_step(ROW, GRADED, [], "")
    assert recorder.folder.notices() == []
