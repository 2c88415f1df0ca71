"""Functions prompts -> completions for a policy: by our own sampler, by transformers, by vLLM."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from hicra.study.policy import llama_sampler
from hicra.study.policy.llama_sampler import left_padded
from hicra.study.policy.unsloth_models import ends  # (Unsloth comes before transformers)

import torch
from torch import Tensor
from transformers import GenerationConfig

CACHE_BYTES = 4 << 30  # keys and values of what is sampled at once, without vLLM


@contextmanager
def private_seed(seed: int) -> Iterator[None]:
    """Random draws inside neither see nor move torch's global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def cache_bytes(config, size: int) -> int:
    """Bytes of one token's keys and values, `size` bytes a number."""
    config = config.get_text_config()  # of a vision-language model too
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * size


def policy_generator(model, tokenizer, **options) -> Callable[[list[str]], list[str]]:
    """A generate function for a policy in training: by the vLLM engine beside it, where it has one."""
    if getattr(model, "vllm_engine", None) is not None:
        return colocated_generator(model, stop=ends(model, tokenizer), **options)
    return text_generator(model, tokenizer, **options)


def text_generator(
    model, tokenizer, *, max_new_tokens: int, temperature: float, seed: int, special: bool = False
) -> Callable[[list[str]], list[str]]:
    """A function prompts -> completions that samples from `model`.

    A Llama in float32 is sampled by `llama_sampler`; what that refuses, by transformers' generate. The same
    prompts give the same completions whatever was drawn elsewhere before. `special` tokens are left in the
    texts where asked for.
    """
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        temperature=temperature if temperature > 0 else None,
        top_k=0,
        top_p=1.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends(model, tokenizer),
    )

    def own(prompts: list[list[int]]) -> list[list[int]]:
        return llama_sampler.sample(
            model,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            ends=config.eos_token_id,
            pad=tokenizer.pad_token_id,
        ).token_ids()

    def generate(prompts: list[str]) -> list[str]:
        ids, texts = tokenizer(prompts)["input_ids"], []
        rows = rows_at_once(model, max(map(len, ids), default=0) + max_new_tokens)
        complete = partial(_by_generate, model, config)
        if not llama_sampler.refusal(model, config):
            complete = own
        with private_seed(seed):
            for start in range(0, len(ids), rows):
                new = complete(ids[start : start + rows])
                texts += tokenizer.batch_decode(new, skip_special_tokens=not special)
        return texts

    return generate


@torch.no_grad()
def _by_generate(model, config: GenerationConfig, prompts: list[list[int]]) -> Tensor:
    """What transformers' generate adds to `prompts`, in evaluation mode: (B, T)."""
    ids, padding = left_padded(prompts, config.pad_token_id)  # (B, P), (B, P)
    batch = {"input_ids": ids.to(model.device), "attention_mask": (~padding).long().to(model.device)}
    training = model.training
    model.eval()
    found = model.generate(**batch, generation_config=config)  # (B, P + T)
    model.train(training)
    return found[:, ids.shape[1] :]


def rows_at_once(model, tokens: int) -> int:
    """Completions sampled together: as many as keep keys and values within CACHE_BYTES, at most 256.

    It does not look at what is free, because what is sampled together decides what is sampled.
    """
    row = tokens * cache_bytes(model.config, model.dtype.itemsize)
    return max(1, min(256, CACHE_BYTES // row))


def colocated_generator(
    model, *, max_new_tokens: int, temperature: float, seed: int, stop: Sequence[int]
) -> Callable[[list[str]], list[str]]:
    """The same by the vLLM engine that Unsloth keeps beside a model in training, with its adapter as it is.

    Needs a GPU; not yet run on one.
    """

    def generate(prompts: list[str]) -> list[str]:
        from vllm import SamplingParams

        adapter = model.load_lora("hicra_evaluation", load_tensors=True)
        # A seed each: the same evaluation whatever the trainer has drawn from the engine before.
        options = [
            SamplingParams(
                temperature=temperature, max_tokens=max_new_tokens, seed=seed + i, stop_token_ids=list(stop)
            )
            for i in range(len(prompts))
        ]
        outputs = model.fast_generate(prompts, options, lora_request=adapter, use_tqdm=False)
        return [out.outputs[0].text for out in outputs]

    return generate


def vllm_generator(
    folder: Path,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    max_length: int,
    dtype: str,
    stop: Sequence[int] = (),
) -> Callable[[list[str]], list[str]]:
    """The same by vLLM, from a plain model folder; several times the tokens a second.

    A new engine with the same `seed` gives the same completions to the same calls, but not those of
    `text_generator`; a seed for each prompt would repeat more and cost nearly half of the speed on a CPU. In
    `dtype`, bfloat16 for float32. `stop`: ids that end a completion beside the folder's own. Raises
    ImportError where vLLM is not installed.
    """
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; its default is nearly the whole machine
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")  # its default idles one core, here of two
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")  # a T4 has none, elsewhere it is compiled first
    from vllm import LLM, SamplingParams

    dtype = "bfloat16" if dtype == "float32" else dtype
    llm = LLM(str(folder), max_model_len=max_length, dtype=dtype, seed=seed, enable_prefix_caching=False)

    def generate(prompts: list[str]) -> list[str]:
        options = SamplingParams(
            temperature=temperature, max_tokens=max_new_tokens, stop_token_ids=list(stop)
        )
        return [out.outputs[0].text for out in llm.generate(prompts, options, use_tqdm=False)]

    return generate
