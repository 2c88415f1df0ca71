"""Preflight: what it finds, what it refuses, and what to change."""

import inspect
import os
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from hicra.study.policy import generation, unsloth_models
from hicra.study.policy.own_process import in_own_process

import pytest
import torch
from transformers import LlamaConfig

from hicra.cli import main
from hicra.errors import HicraError
from hicra.study.problems.prompts import training_tasks
from hicra.study.profiles import get_profile
from hicra.study.training import preflight

TINY = LlamaConfig(
    hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=10
)
pytestmark = pytest.mark.filterwarnings("default")


def test_this_machine_is_ready_for_the_made_world(capsys):
    assert main(["preflight", "--overrides", '{"group_size": 4}']) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith("ok")]
    names = (
        "versions",
        "device",
        "problems",
        "gold answer",
        "memory",
        "time",
        "tokenizer",
        "template",
        "sampler",
        "rewards",
        "ends",
        "planning tokens",
    )
    assert [line[5:].partition(":")[0] for line in found] == list(names)


def test_another_version_than_the_lock_s_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "LOCK", tmp_path / "lock.txt")
    (tmp_path / "lock.txt").write_text("numpy==0.1\ntrl==9.9 ; python_full_version < '3.0'\n")
    check = preflight.check_versions()
    assert check.verdict == "STOP"
    assert "locked ==0.1" in check.found
    assert "trl" not in check.found  # its marker is for another Python
    (tmp_path / "lock.txt").write_text("vllm==0.1\nunsloth_zoo==0.1\n")
    assert "vllm" not in preflight.check_versions().found.replace("unsloth_zoo", "")  # not installed
    assert "unsloth_zoo" in preflight.check_versions().found


def test_an_installed_wheel_carries_the_pins(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "LOCK", tmp_path / "absent" / "lock.txt")
    assert preflight.check_versions() == ("versions", "as locked", "", True)
    declared = ["numpy>=2.0", 'trl==9.9; extra == "study"', 'vllm==0.1; extra == "vllm"']
    monkeypatch.setattr(preflight, "requires", lambda name: declared if name == "hicra" else None)
    assert preflight.check_versions().found == f"trl {version('trl')}, locked ==9.9"  # vLLM is not installed


def test_a_dtype_that_the_device_lacks_is_refused(monkeypatch):
    half = get_profile("families", dtype="float16")
    brain = get_profile("families", dtype="bfloat16")
    if not torch.cuda.is_available():
        assert "need a GPU" in preflight.check_device(half).remedy
        assert preflight.check_device(brain).verdict == "ok"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "set dtype to float16" in preflight.check_device(brain).remedy
    assert preflight.check_device(half).verdict == "ok"


@pytest.mark.parametrize(
    ("capability", "told"), [((8, 0), "in bfloat16 mixed precision"), ((7, 5), "in float32")]
)
def test_what_becomes_of_float32_weights_on_a_gpu_is_said(monkeypatch, capability, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert f"float32 weights are trained {told}" in preflight.check_device(get_profile("families")).found


def test_the_rule_of_unsloths_by_which_it_is_said():
    source = (
        Path(inspect.getfile(unsloth_models.unsloth)).parent / "models" / "rl.py"
    ).read_text()  # it needs Triton
    stays = "mixed_precision_dtype == 'float32' and float32 and user_float32 and not _bf16_supported()"
    assert stays in source
    assert "use_bf16_amp = (not float16) and (_bf16_supported()" in source


def test_too_little_memory_stops_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(unsloth_models, "free_memory", lambda: 1e8)
    monkeypatch.setattr(unsloth_models, "load_policy", None)
    with pytest.raises(ValueError, match=r"not ready for families\. memory: .* 0\.1 GB free; lower"):
        preflight.checks(get_profile("families"))


def test_a_machine_that_cannot_is_told_before_anything_is_fetched(capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine may be able to")
    assert main(["preflight", "--profile", "colab"]) == 2
    assert "not ready for colab. device: no GPU" in capsys.readouterr().err


def test_the_time_is_estimated_for_known_cards_alone(monkeypatch):
    profile = get_profile("colab")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert "s a step" in preflight.check_time(TINY, profile).found
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Abacus")
    assert preflight.check_time(TINY, profile).found == "no estimate for Abacus"


def test_end_and_padding_must_differ():
    class Same:
        eos_token = pad_token = "<end>"

    assert "two different tokens" in preflight.check_tokenizer(get_profile("families"), Same()).remedy


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from hicra.files import data_root

    return AutoTokenizer.from_pretrained(data_root() / "families/base")


def test_long_prompts_are_counted_and_many_are_told(tokenizer):
    lengths = [
        len(tokenizer(t.prompt)["input_ids"]) for t in training_tasks(get_profile("families"), 1024, 0)
    ]
    few, many = sorted(lengths)[-20] - 1, min(lengths)
    check = preflight.check_tokenizer(get_profile("families", max_prompt_length=few), tokenizer)
    assert f"{sum(n > few for n in lengths)} of 1024 prompts" in check.found
    check = preflight.check_tokenizer(get_profile("families", max_prompt_length=many), tokenizer)
    assert (check.verdict, check.remedy) == ("note", "raise max_prompt_length")


def test_a_template_in_another_model_s_format_is_refused(tokenizer):
    foreign = get_profile("families", prompt_template="<|im_start|>user {problem}<|im_end|>")
    check = preflight.check_template(foreign, tokenizer)
    assert check.verdict == "STOP"
    assert "<|im_end|>, <|im_start|> is plain text" in check.remedy
    assert preflight.check_template(get_profile("families"), tokenizer).verdict == "ok"


@pytest.mark.parametrize(
    ("longest", "group", "rows", "size"),
    [(96, 8, 32, 8), (768, 8, 8, 8), (15_360, 8, 8, 8), (15_360, 16, 8, 8)],
)
def test_the_longer_completions_may_be_the_fewer_are_sampled(
    monkeypatch, tokenizer, longest, group, rows, size
):
    asked = {}

    def generator(model, tokenizer, **options):
        asked.update(options)
        return lambda prompts: asked.update(prompts=prompts) or ["Let us see <eos><pad>"] * len(prompts)

    monkeypatch.setattr(generation, "text_generator", generator)
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[1]))
    profile = get_profile("families", max_completion_length=longest, group_size=group)
    rewards, ends, _ = preflight.check_rollouts(profile, model, tokenizer)
    assert len(asked["prompts"]) == rows
    assert asked["max_new_tokens"] == min(longest, 1024)
    assert asked["prompts"][0] == asked["prompts"][size - 1]
    assert ("cut at 1024 of 15360 tokens" in rewards.found) == (longest > 1024)
    assert ends.found == f"by '<eos>' 100%; 0 of {rows} hold '<eos>' inside"


@pytest.mark.parametrize(
    ("completion", "text", "end"),
    [
        ("It is 4.<|im_end|><|endoftext|><|endoftext|>", "It is 4.", "<|im_end|>"),
        ("It is 4.<|endoftext|>", "It is 4.", "<|endoftext|>"),  # also the padding
        ("It is", "It is", ""),
        ("4<|im_end|>user", "4<|im_end|>user", ""),
        ("", "", ""),
    ],
)
def test_a_completion_and_what_ended_it(completion, text, end):
    marks = ["<|endoftext|>", "<|im_end|>"]
    assert preflight.split_end(completion, marks, "<|endoftext|>") == (text, end)


def test_ends_within_a_completion_are_told():
    marks = ["<|endoftext|>", "<|im_end|>"]
    check = preflight.check_ends(
        ["a", "b<|im_end|>user", "c", "d"], ["<|im_end|>", "", "", "<|im_end|>"], marks
    )
    assert check.found.startswith("by '<|im_end|>' 50%, 'the limit' 50%; 1 of 4 hold")
    assert (check.verdict, "another prompt_template" in check.remedy) == ("note", True)


def test_it_runs_in_a_process_of_its_own_and_its_refusal_comes_back():
    if torch.cuda.is_available():
        pytest.skip("this machine may be able to")
    with pytest.raises(HicraError, match=r"not ready for colab\. device: no GPU"):
        preflight.preflight(get_profile("colab"))
    assert in_own_process(os.getpid) != os.getpid()


def test_a_process_that_is_killed_is_one_clear_error():
    with pytest.raises(HicraError, match="the process of _exit was killed, most likely for want of memory"):
        in_own_process(os._exit, 9)
