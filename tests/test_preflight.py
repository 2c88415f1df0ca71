"""Preflight: what it finds, what it refuses, and what to change."""

from hicra.study.policy import unsloth_models

import pytest
import torch
from transformers import LlamaConfig

from hicra.cli import main
from hicra.study.problems.prompts import training_tasks
from hicra.study.profiles import get_profile
from hicra.study.training import preflight

TINY = LlamaConfig(
    hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=10
)
pytestmark = pytest.mark.filterwarnings("default")


def test_this_machine_is_ready_for_the_sandbox(capsys):
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
    monkeypatch.setattr(preflight, "LOCK", tmp_path / "absent" / "lock.txt")
    assert preflight.check_versions().verdict == "ok"


def test_a_dtype_that_the_device_lacks_is_refused(monkeypatch):
    half = get_profile("sandbox", dtype="float16")
    brain = get_profile("sandbox", dtype="bfloat16")
    if not torch.cuda.is_available():
        assert "need a GPU" in preflight.check_device(half).remedy
        assert preflight.check_device(brain).verdict == "ok"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "set dtype to float16" in preflight.check_device(brain).remedy
    assert preflight.check_device(half).verdict == "ok"


def test_too_little_memory_stops_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(unsloth_models, "free_memory", lambda: 1e8)
    monkeypatch.setattr(unsloth_models, "load_policy", None)
    with pytest.raises(ValueError, match=r"not ready for sandbox\. memory: .* 0\.1 GB free; lower"):
        preflight.preflight(get_profile("sandbox"))


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

    assert "two different tokens" in preflight.check_tokenizer(get_profile("sandbox"), Same()).remedy


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from hicra.files import data_root

    return AutoTokenizer.from_pretrained(data_root() / "sandbox/base")


def test_long_prompts_are_counted_and_many_are_told(tokenizer):
    lengths = [len(tokenizer(t.prompt)["input_ids"]) for t in training_tasks(get_profile("sandbox"), 1024, 0)]
    few, many = sorted(lengths)[-20] - 1, min(lengths)
    check = preflight.check_tokenizer(get_profile("sandbox", max_prompt_length=few), tokenizer)
    assert f"{sum(n > few for n in lengths)} of 1024 prompts" in check.found
    check = preflight.check_tokenizer(get_profile("sandbox", max_prompt_length=many), tokenizer)
    assert (check.verdict, check.remedy) == ("note", "raise max_prompt_length")


def test_a_template_in_another_model_s_format_is_refused(tokenizer):
    foreign = get_profile("sandbox", prompt_template="<|im_start|>user {problem}<|im_end|>")
    check = preflight.check_template(foreign, tokenizer)
    assert check.verdict == "STOP"
    assert "<|im_end|>, <|im_start|> is plain text" in check.remedy
    assert preflight.check_template(get_profile("sandbox"), tokenizer).verdict == "ok"
