"""Real runs of the made world's policy, two steps each, through TRL's trainer on Unsloth's CPU backend."""

import bz2
import json
import math
import time
import warnings
from types import SimpleNamespace

import pytest

from hicra.dynamics.entropy import shannon_entropy
from hicra.files import data_root
from hicra.lexicon.lexicon import Lexicon
from hicra.study.launch import run_path, start, train_runs
from hicra.study.problems.prompts import Task
from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunError, RunFolder
from hicra.study.record.run_tables import finished_runs, load_study
from hicra.study.training import run as training
from hicra.study.training.plan import plan_run
from hicra.study.training.reward import VerifiedAnswer
from hicra.study.training.run import _short_rows, train
from tests.benchmarks.soak import numbers

# Third parties warn while they load and train; ours stay errors.
SECRETS = {"HF_TOKEN": "hf_ThisMustNotBeWritten", "WANDB_API_KEY": "wandbThisMustNotBeWritten"}
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    from tests.conftest import SMOKE

    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for name, secret in SECRETS.items():
            patch.setenv(name, secret)
        for arm in ("grpo", "hicra"):
            train_runs(get_profile("families", **SMOKE), arm, root)
    return root / "families"


def _rows(runs, arm, name="steps.jsonl"):
    return RunFolder(runs / f"{arm}-seed0").read(name)


def _numbers(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_the_record_is_complete_and_finite(runs):
    rows = _rows(runs, "hicra")
    assert [row["step"] for row in rows] == [0, 1]
    assert {row["n_completions"] for row in rows} == {16}
    for row in rows:
        assert sum(row["reasons"].values()) == 16
        assert row["n_planning"] + row["n_execution"] == row["length_sum"]
        assert row["n_high_entropy"] == math.ceil(3 * row["length_sum"] / 10)
        assert sum(row["errors"].values()) == 16 - row["reward_sum"]
        assert row["grams"]
        assert row["n_planning"] > 0
        assert all(math.isfinite(row[k]) for k in ("loss", "grad_norm", "nll_planning"))
    assert [row["step"] for row in _rows(runs, "hicra", "evals.jsonl")] == [0, 1, 2]
    manifest = RunFolder(runs / "hicra-seed0").manifest()
    assert {"settings", "versions", "wall_seconds", "sha256"} <= set(manifest)


def test_the_step_row_s_dynamics_are_in_the_trainer_s_own_logs(runs):
    [state] = (runs / "hicra-seed0").glob("checkpoints/checkpoint-2/trainer_state.json")
    logs = [entry for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]
    for row, log in zip(_rows(runs, "hicra"), logs, strict=True):
        assert log["dynamics/planning_share"] == pytest.approx(row["n_planning"] / row["length_sum"])
        assert log["dynamics/occurrences"] == sum(row["grams"].values())
        assert log["dynamics/semantic_entropy"] == pytest.approx(shannon_entropy([*row["grams"].values()]))
        for kind in ("planning", "execution"):
            n = row[f"n_{kind}"]
            assert log[f"dynamics/entropy_{kind}"] == pytest.approx(row[f"entropy_{kind}"] / n)
            assert log[f"dynamics/perplexity_{kind}"] == pytest.approx(math.exp(row[f"nll_{kind}"] / n))


@pytest.mark.parametrize(
    ("dtype", "flags", "told"),
    [
        ("float32", (True, False), ["float32 weights, trained in bfloat16 mixed precision"]),
        ("float32", (False, True), ["float32 weights, trained in float16 mixed precision"]),
        ("float32", (False, False), []),
        ("bfloat16", (True, False), []),
    ],
)
def test_mixed_precision_that_nobody_asked_for_is_in_the_record(tmp_path, monkeypatch, dtype, flags, told):
    class Stop(Exception):
        pass

    def train_(**_):
        raise Stop

    args = SimpleNamespace(bf16=flags[0], fp16=flags[1])  # as Unsloth's trainer leaves them on a GPU
    told_apart = {"sampler": "vllm", "training_pass": "trl", "float32_products": "highest"}
    made = SimpleNamespace(args=args, train=train_, **told_apart)
    monkeypatch.setattr(training, "_make_trainer", lambda *_: made)
    with pytest.raises(Stop):
        train(plan_run(get_profile("families", dtype=dtype), "grpo", 0), tmp_path)
    assert RunFolder(tmp_path).notices() == told


def test_a_completion_has_ended_on_any_of_its_ends():
    reward = VerifiedAnswer(group_size=3, ends=[1, 5], prefilled_think=False, explain=None)
    ids = [[3, 5], [3, 1], [3, 4]]  # the turn's end, the model's own, neither
    reward(["p"] * 3, ["a", "b", "c"], ids, answer=["4"] * 3, problem=["p"] * 3)
    assert reward.graded.ended == [True, True, False]
    assert reward.graded.reasons == ["no_box", "no_box", "truncated"]


def test_no_token_of_the_user_is_written_anywhere(runs):
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert {"manifest.json", "log.txt"} <= {path.name for path in files}
    for path in files:
        content = bz2.decompress(path.read_bytes()) if path.suffix == ".bz2" else path.read_bytes()
        assert not any(secret.encode() in content for secret in SECRETS.values()), path.name


def test_only_hicra_changes_advantages(runs):
    assert all(row["n_credit_changed"] == 0 for row in _rows(runs, "grpo"))
    assert sum(row["n_credit_changed"] for row in _rows(runs, "hicra")) > 0


def test_arms_of_one_seed_see_the_same_first_rollouts(runs):
    grpo, hicra = _rows(runs, "grpo")[0], _rows(runs, "hicra")[0]
    for key in ("length_sum", "reward_sum", "grams", "nll_planning", "entropy_execution"):
        assert grpo[key] == hicra[key]


def test_alpha_zero_is_grpo_bit_for_bit(runs, tmp_path, smoke):
    train_runs(get_profile("families", **smoke, alpha=0.0), "hicra", tmp_path)
    assert _numbers(_rows(tmp_path / "families", "hicra")) == _numbers(_rows(runs, "grpo"))


def test_the_same_seed_gives_the_same_record(runs, tmp_path, smoke):
    train_runs(get_profile("families", **smoke), "hicra", tmp_path)
    again = tmp_path / "families"
    assert _numbers(_rows(again, "hicra")) == _numbers(_rows(runs, "hicra"))
    for name in ("evals.jsonl", "rollouts.jsonl"):
        assert _rows(again, "hicra", name) == _rows(runs, "hicra", name)


def test_a_killed_run_goes_on_to_the_record_it_would_have_made(tmp_path, smoke):
    study = get_profile("families", **{**smoke, "steps": 4, "checkpoint_every": 2})
    train_runs(study, "hicra", tmp_path / "whole")
    folder = RunFolder(run_path(tmp_path / "killed", study, "hicra", 0))
    process = start(plan_run(study, "hicra", 0), folder.path)
    while process.poll() is None and folder.progress()[0] < 3:  # past the checkpoint of step 2
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not folder.finished
    train_runs(study, "hicra", tmp_path / "killed")
    whole, killed = (RunFolder(run_path(tmp_path / n, study, "hicra", 0)) for n in ("whole", "killed"))
    assert numbers(killed) == numbers(whole)  # records and weights


def test_a_finished_run_is_reused_and_other_settings_are_refused(runs, smoke):
    path = runs / "hicra-seed0"
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    study = get_profile("families", **smoke)
    assert train(plan_run(study, "hicra", 0), path).finished
    with pytest.raises(RunError, match="learning_rate"):
        train_runs(get_profile("families", **smoke, learning_rate=1.0), "hicra", runs.parent)
    assert before == {p: p.stat().st_mtime_ns for p in path.rglob("*")}


def test_what_decides_a_run_is_in_its_settings(smoke):
    study = get_profile("families", **smoke)
    one = plan_run(study, "grpo", 0).settings
    assert json.loads(json.dumps(one)) == one
    assert one["prompts_sha256"] != plan_run(study, "grpo", 1).settings["prompts_sha256"]
    with pytest.raises(ValueError, match="unknown arm 'hicro'"):
        plan_run(study, "hicro", 0)
    with pytest.raises(ValueError, match="'scaled' needs a group_size of 3 or more, not 2"):
        plan_run(get_profile("families", group_size=2), "scaled", 0)
    assert plan_run(study, "grpo", 0).tasks == plan_run(study, "hicra", 0).tasks


def test_prompts_that_are_too_long_are_left_out_and_told(tmp_path, smoke):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data_root() / "families/base")
    study = get_profile("families", **smoke)
    lengths = [
        len(tokenizer(row["prompt"])["input_ids"]) for row in map(Task.row, plan_run(study, "grpo", 0).tasks)
    ]
    short = get_profile("families", **smoke, max_prompt_length=max(lengths) - 1)
    run = RunFolder(tmp_path / "run")
    run.open({"steps": 2}, condition="hicra")
    kept = _short_rows(plan_run(short, "grpo", 0), tokenizer, run)
    assert len(kept) == sum(n < max(lengths) for n in lengths) < len(lengths)
    assert run.notices() == [
        f"{len(lengths) - len(kept)} prompts over max_prompt_length={max(lengths) - 1} left out"
    ]


def test_the_credit_may_have_a_lexicon_of_its_own(smoke):
    def hashes(seed=0, **overrides):
        settings = plan_run(get_profile("families", **smoke, **overrides), "hicra", seed).settings
        return settings["lexicon_sha256"], settings["credit_sha256"]

    same = Lexicon.load("families").sha256
    assert hashes() == (same, same)
    assert hashes(credit_lexicon="listing1") == (same, Lexicon.load("listing1").sha256)
    assert hashes(credit_lexicon="oracle") == (same, "oracle")
    assert hashes(credit_drop=0.3) == (same, Lexicon.load("families").drop(0.3, 0).sha256)
    assert hashes(credit_drop=0.3) != hashes(seed=1, credit_drop=0.3)
    with pytest.raises(FileNotFoundError, match="no lexicon 'nothing'"):
        hashes(credit_lexicon="nothing")


def test_an_oracle_credits_other_tokens_and_is_observed_alike(runs, tmp_path, smoke):
    train_runs(get_profile("families", **smoke, credit_lexicon="oracle"), "hicra", tmp_path)
    oracle, lexicon = _rows(tmp_path / "families", "hicra")[0], _rows(runs, "hicra")[0]
    for key in ("length_sum", "grams", "n_planning", "nll_planning"):
        assert oracle[key] == lexicon[key]
    assert 0 < oracle["n_credit_changed"] != lexicon["n_credit_changed"] > 0


def test_two_processes_share_a_run_and_one_writes_its_record(tmp_path, smoke):
    study = get_profile("families", **smoke, processes=2)
    train_runs(study, "hicra", tmp_path)
    rows = _rows(tmp_path / "families", "hicra")
    assert [(row["step"], row["n_completions"], row["n_groups"]) for row in rows] == [(0, 16, 4), (1, 16, 4)]
    for row in rows:
        assert sum(row["reasons"].values()) == 16
        assert row["n_planning"] + row["n_execution"] == row["length_sum"]
        assert sum(row["errors"].values()) == 16 - row["reward_sum"]
    assert [row["step"] for row in _rows(tmp_path / "families", "hicra", "evals.jsonl")] == [0, 1, 2]
    assert len(_rows(tmp_path / "families", "hicra", "rollouts.jsonl")) == 2 * study.rollouts_kept


def test_another_number_of_processes_than_the_settings_say_is_refused(tmp_path, smoke, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="2 processes were started for a run with processes=1"):
        train(plan_run(get_profile("families", **smoke), "grpo", 0), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_shows_the_end_of_its_log(tmp_path, smoke):
    broken = tmp_path / "base"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(RunError, match="failed; its log ends"):
        train_runs(get_profile("families", **smoke, base=str(broken)), "grpo", tmp_path / "runs")


def test_records_become_tidy_frames(runs):
    loaded = load_study(finished_runs(runs, ["grpo", "hicra"]))
    assert len(loaded.steps) == 4
    assert set(loaded.evals.groupby(["arm", "seed"]).size()) == {3}
    assert "not a language model" in loaded.world
    with pytest.raises(RunError, match="no finished run of 'released'"):
        finished_runs(runs, ["released"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_study(finished_runs(runs, ["hicra"]))


def test_a_run_in_the_families_world_keeps_what_the_equation_is_judged_by(tmp_path, smoke):
    study = get_profile("families", **{**smoke, "final_samples": 3, "eval_problems": 8}, weights=[1.0, 2.0])
    train_runs(study, "weighted", tmp_path)
    first, second = _rows(tmp_path / "families", "weighted")
    assert first["n_credit_changed"] == 0 < second["n_credit_changed"]  # a weight of 1 is GRPO's
    assert first["grad_norm_planning"] > 0 < first["grad_norm_execution"]
    assert "grad_norm_planning" not in second  # every tenth step
    assert sum(first["plans"].values()) == first["n_completions"] == 16
    final = RunFolder(run_path(tmp_path, study, "weighted", 0)).manifest()["final"]
    assert [(row["temperature"], row["n"], len(row["right"])) for row in final] == [
        (1.0, 24, 8),
        (0.6, 24, 8),
    ]


def test_norms_by_class_are_of_the_step_that_is_made(tmp_path, smoke):
    """With all tokens in one class, the norm is that of the gradient which the trainer clips."""
    Lexicon.from_grams(["never said here"]).save(tmp_path / "absent.json")
    study = get_profile("families", **smoke, lexicon=str(tmp_path / "absent.json"))
    train_runs(study, "grpo", tmp_path)
    row = _rows(tmp_path / "families", "grpo")[0]
    assert row["n_planning"] == 0 == row["grad_norm_planning"]
    assert row["grad_norm_execution"] == pytest.approx(row["grad_norm"], rel=1e-4)
