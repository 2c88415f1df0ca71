"""vLLM's real engine, where it is installed (`make vllm`); tokens a second are in benchmarks.generation."""

import pytest

from hicra.bases import base_folder
from hicra.profiles import get_profile

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_vllm_serves_a_model_folder():
    pytest.importorskip("vllm", reason="vLLM is not installed; make vllm")
    from hicra import engine

    folder = base_folder(get_profile("smollm2", warm_start_steps=0))
    generate = engine.vllm_generator(folder, max_new_tokens=8, temperature=1.0, seed=0, max_length=64)
    prompts = ["The sky is", "Two and two make"]
    texts = generate(prompts)
    assert len(texts) == 2
    assert all(texts)
    assert texts == generate(prompts)
