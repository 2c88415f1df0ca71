"""A finished run on benchmarks: protocol, table, and what is refused."""

import json

from hicra.study.policy import evaluation, generation, unsloth_models
from hicra.study.policy.evaluation import score_run
from hicra.study.policy.own_process import in_own_process

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hicra.cli import main
from hicra.files import data_root
from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunError
from hicra.study.training.plan import plan_run
from hicra.study.training.run import train

pytestmark = pytest.mark.filterwarnings("default")
SMOKE = {
    "steps": 1,
    "prompts_per_step": 2,
    "group_size": 2,
    "rows_per_pass": 2,
    "max_completion_length": 12,
    "eval_problems": 2,
    "eval_every": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(
        plan_run(get_profile("families", **SMOKE), "grpo", 0), tmp_path_factory.mktemp("run") / "grpo"
    )


def test_a_finished_policy_is_scored_with_the_sets_samples(run, tmp_path, capsys):
    path = tmp_path / "amc23.jsonl"
    path.write_text(json.dumps({"problem": "Compute 3 times 4.", "answer": "12"}) + "\n")
    arguments = ["evaluate", str(run.path), "--overrides", json.dumps({"benchmarks": [str(path)]})]
    assert main(arguments) == 0
    assert "amc23" in capsys.readouterr().out
    [row] = json.loads((run.path / "benchmarks.json").read_text())
    assert (row["problems"], row["samples"], row["n"]) == (1, 4, 4)
    assert 0 <= row["accuracy"] <= 1


def test_nothing_to_score_is_an_error(run, tmp_path):
    (run.path / "benchmarks.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="names no benchmark"):
        score_run(run.path, use_vllm=False)
    with pytest.raises(RunError, match="not a finished run"):
        score_run(tmp_path / "none", use_vllm=False)
    assert not (run.path / "benchmarks.json").exists()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA policy as a run saves it, whose adapter changes what the model says."""
    folder = tmp_path_factory.mktemp("policy")
    model, tokenizer = unsloth_models.load_policy(data_root() / "families/base", lora_rank=2, seed=0)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = torch.arange(2, 12)[None]  # (1, 10)
    with torch.no_grad():
        return folder, ids, model(ids).logits


def test_an_adapter_is_merged_in_a_process_of_its_own_before_vllm_starts(adapter, monkeypatch):
    folder, ids, logits = adapter
    seen = {}

    def engine(merged, **options):
        model = AutoModelForCausalLM.from_pretrained(merged)
        with torch.no_grad():
            seen.update(options, logits=model(ids).logits, tokenizer=AutoTokenizer.from_pretrained(merged))

    def process(function, *arguments):
        seen["process"] = function.__name__
        return in_own_process(function, *arguments)

    monkeypatch.setattr(generation, "vllm_generator", engine)
    monkeypatch.setattr(evaluation, "in_own_process", process)
    monkeypatch.setattr(unsloth_models, "load_policy", None)  # nothing of it here, where vLLM wants the card
    evaluation._generator(get_profile("families"), folder, use_vllm=True)
    assert seen["process"] == "merge_adapter"
    torch.testing.assert_close(seen["logits"], logits, rtol=1e-4, atol=1e-4)
    assert (seen["stop"], seen["dtype"], seen["tokenizer"].eos_token) == ([], "float32", "<eos>")


def test_an_adapter_is_sampled_from_without_the_flags_of_training(adapter, monkeypatch):
    load, asked = unsloth_models.load_policy, []
    monkeypatch.setattr(unsloth_models, "load_policy", lambda *a, **o: asked.append(o) or load(*a, **o))
    generate = evaluation._generator(
        get_profile("families", max_completion_length=4), adapter[0], use_vllm=False
    )
    assert len(generate(["Problem: What is 2 times 3?\nSolution:"])) == 1
    assert (asked[0]["lora_rank"], asked[0]["trained"]) == (0, False)


def test_a_step_in_several_passes_records_every_completion(run):
    [row] = run.read("steps.jsonl")
    assert (row["n_completions"], row["n_groups"]) == (4, 2)
