"""Tokens a second of the study's own sampler and of vLLM against transformers' generate, in turn in one process.

python -m tests.benchmarks.generation          (SmolLM2-135M from its package; vLLM after make vllm)
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from unittest import mock

from hicra.study.policy import generation, llama_sampler, unsloth_models
from hicra.study.policy.base_models import base_folder

import torch

from hicra.study.problems.prompts import training_tasks
from hicra.study.profiles import get_profile


def tokens_per_second(generate: Callable, prompts: list[str], count: Callable[[str], int]) -> float:
    started = time.perf_counter()
    texts = generate(prompts)
    return sum(map(count, texts)) / (time.perf_counter() - started)


def by_transformers(generate: Callable) -> Callable[[list[str]], list[str]]:
    def refused(prompts: list[str]) -> list[str]:
        with mock.patch.object(llama_sampler, "refusal", return_value="a benchmark"):
            return generate(prompts)

    return refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    profile = get_profile("smollm2", warm_start_steps=0)
    folder = base_folder(profile)
    prompts = [task.prompt for task in training_tasks(profile, options.batch, seed=0)]
    common = {"max_new_tokens": options.new_tokens, "temperature": 1.0, "seed": 0}
    model, tokenizer = unsloth_models.load_policy(folder, lora_rank=0, seed=0)
    own = generation.text_generator(model, tokenizer, **common)
    makers = {"transformers": by_transformers(own), "own": own}
    if importlib.util.find_spec("vllm"):
        makers["vllm"] = generation.vllm_generator(
            folder, max_length=options.new_tokens + 160, dtype=profile.dtype, **common
        )
    for generate in makers.values():  # the first call compiles and allocates
        generate(prompts)
    speeds: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(options.rounds):
        for name, generate in makers.items():
            speeds[name].append(
                tokens_per_second(generate, prompts, lambda t: len(tokenizer(t)["input_ids"]))
            )
    for name, found in speeds.items():
        ratios = [b / a for a, b in zip(speeds["transformers"], found, strict=True)]
        told = f"{', '.join(f'{v:.0f}' for v in found)} tokens/s"
        print(f"{name}: {told}; times transformers: {', '.join(f'{r:.2f}' for r in ratios)}")


if __name__ == "__main__":
    main()
