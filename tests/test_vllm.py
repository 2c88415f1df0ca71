"""vLLM's real engine, where it is installed (`make vllm`); tokens a second are in benchmarks.generation."""

import inspect
import os
import sys
import types

from hicra.study.policy.base_models import base_folder

import pytest

from hicra.study.profiles import get_profile

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize(("own", "seen"), [(None, "0"), ("1", "1")])
def test_a_plain_engine_starts_without_flashinfer_unless_told(monkeypatch, own, seen):
    from hicra.study.policy import generation

    class LLM:
        def __init__(self, *arguments, **options):
            raise RuntimeError(os.environ["VLLM_USE_FLASHINFER_SAMPLER"])

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=LLM, SamplingParams=None))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("VLLM_USE_FLASHINFER_SAMPLER", None)
    os.environ.update({"VLLM_USE_FLASHINFER_SAMPLER": own} if own else {})
    with pytest.raises(RuntimeError, match=f"^{seen}$"):
        generation.vllm_generator(
            "base", max_new_tokens=8, temperature=1.0, seed=0, max_length=64, dtype="float16"
        )


def test_unsloth_is_told_to_leave_flashinfer_alone_by_the_name_that_it_reads():
    from unsloth_zoo.vllm_utils import load_vllm

    assert 'os.environ.get("UNSLOTH_VLLM_NO_FLASHINFER", "0") != "0"' in inspect.getsource(load_vllm)
    assert os.environ["UNSLOTH_VLLM_NO_FLASHINFER"] == "1"


def test_vllm_serves_a_model_folder():
    pytest.importorskip("vllm", reason="vLLM is not installed; make vllm")
    from hicra.study.policy import generation

    folder = base_folder(get_profile("smollm2", warm_start_steps=0))
    options = {"max_new_tokens": 8, "temperature": 1.0, "seed": 0, "max_length": 64, "dtype": "float32"}
    prompts = ["The sky is", "Two and two make"]
    first, second = (generation.vllm_generator(folder, **options)(prompts) for _ in range(2))
    assert len(first) == 2
    assert all(first)
    assert first == second  # a new engine repeats


def test_vllm_serves_an_adapter_as_a_run_saves_it(tmp_path):
    pytest.importorskip("vllm", reason="vLLM is not installed; make vllm")
    from hicra.study.policy import unsloth_models

    import torch
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    folder = base_folder(get_profile("smollm2", warm_start_steps=0))
    model, _ = unsloth_models.load_policy(folder, lora_rank=8, seed=0)
    draw = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # a new adapter's are zero, and it would change nothing
            weight.data.copy_(0.05 * torch.randn(weight.shape, generator=draw))
    model.save_pretrained(tmp_path)
    llm = LLM(str(folder), enable_lora=True, max_lora_rank=8, max_model_len=64, dtype="bfloat16")
    greedy = SamplingParams(temperature=0.0, max_tokens=8)
    request = LoRARequest("policy", 1, str(tmp_path))
    plain, adapted = (
        llm.generate(["The sky is"], greedy, lora_request=r, use_tqdm=False)[0].outputs[0].text
        for r in (None, request)
    )
    assert plain != adapted
