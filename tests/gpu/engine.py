"""vLLM's engine beside the trainer, and what long rows cost. Of it only `long_rows` has run on a GPU."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.adapter import draw_adapter
from tests.gpu.card import DTYPE, GB, Row, base_folder, card_memory
from tests.gpu.steps import by_transformers, close, parity_of, worked


def engine(options) -> Iterator[Row]:
    """Unsloth's colocated engine: an adapter's tokens and log-probabilities are transformers'."""
    from hicra.study.policy import unsloth_models

    model, tokenizer = unsloth_models.load_policy(
        base_folder(), lora_rank=8, seed=0, max_length=512, dtype=DTYPE, vllm=True
    )
    draw_adapter(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" not in n}
    adapter = model.load_lora(str(options.out / "engine-adapter"), load_tensors=True)
    yield from sampled_alike(options, model, tokenizer, adapter)
    after = dict(model.named_parameters())
    changed = [name for name, weight in before.items() if not torch.equal(weight, after[name])]
    yield Row("base after an adapter", f"{len(changed)} weights changed", "0", not changed)
    yield Row("sequences at once", str(model.vllm_engine.approx_max_num_seqs))
    yield Row("speed", f"{64 * 128 / rollout_seconds(model, adapter, n=64, tokens=128):.0f} tokens/s")
    log = (options.out / "6.log").read_text(errors="replace")
    backends = sorted(set(re.findall(r"[Uu]sing (\w+) (?:attention )?backend", log)))
    yield Row("attention backend", ", ".join(backends) or "not told by vLLM's log")
    loaded = getattr(sys.modules.get("flashinfer"), "__file__", None)  # None stands for what is blocked
    yield Row("FlashInfer", "loaded" if loaded else "not loaded", "not loaded", not loaded)


def sampled_alike(options, model, tokenizer, adapter) -> Iterator[Row]:
    """The engine's 32 greedy tokens against transformers', and its log-probabilities against the trainer's."""
    from vllm import SamplingParams

    from hicra.dynamics.token_statistics import token_statistics

    greedy = SamplingParams(temperature=0.0, max_tokens=32, logprobs=0)
    prompts = [row["prompt"] for row in worked()]
    outputs = model.fast_generate(prompts, greedy, lora_request=adapter, use_tqdm=False)
    batch, sampled = engine_batch(outputs, tokenizer.pad_token_id, model.device)
    own = batch["completion_mask"].bool()  # (B, T)
    wanted = by_transformers(options, model, batch)["greedy"]  # (B, T)
    agree = (wanted == batch["completion_ids"])[own].float().mean().item()
    yield Row("greedy tokens", f"{agree:.1%} are transformers'", "95%", agree >= 0.95)
    logps = token_statistics(model, batch, temperature=1.0)[0]  # (B, T)
    yield from close("log-probabilities, engine less trainer", (sampled - logps)[own], mean=0.02)


def rollout_seconds(model, adapter, *, n: int, tokens: int) -> float:
    from vllm import SamplingParams

    asked = SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True)
    started = time.monotonic()
    model.fast_generate(["Go."] * n, asked, lora_request=adapter, use_tqdm=False)
    return time.monotonic() - started


def engine_batch(outputs, pad: int, device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """vLLM's outputs as a batch of TRL's, and their log-probabilities (B, T)."""
    from trl.trainer.utils import pad as padded

    prompts = [torch.tensor(out.prompt_token_ids) for out in outputs]
    completions = [torch.tensor(list(out.outputs[0].token_ids)) for out in outputs]
    logps = [
        torch.tensor([step[token].logprob for token, step in zip(out.token_ids, out.logprobs, strict=True)])
        for out in (out.outputs[0] for out in outputs)
    ]
    sides = {"prompt": (prompts, "left"), "completion": (completions, "right")}
    batch = {}
    for name, (rows, side) in sides.items():
        batch[f"{name}_ids"] = padded(rows, padding_value=pad, padding_side=side).to(device)
        batch[f"{name}_mask"] = padded(list(map(torch.ones_like, rows)), padding_side=side).to(device)
    return batch, padded(logps).to(device)


def long_rows(options) -> Iterator[Row]:
    """On 80 GB, Qwen3-4B's size with random weights: rows of 16,384 tokens, and 64 rollouts of 2,048."""
    from hicra.study.policy.own_process import in_own_process

    from hicra.study.profiles import get_profile

    folder = options.out / "random-4b"
    in_own_process(random_model, folder)
    found = parity_of("unsloth", folder, options.out / "long.pt", "16384")
    yield Row("score a row of 16,384 tokens", f"{found['score_seconds']:.1f} s")
    yield Row("loss and gradient of it", f"{found['step_seconds']:.1f} s")
    peak = found["peak_bytes"] / GB
    share = 1 - get_profile("paper").gpu_memory_utilization
    room = share * card_memory() + 8  # beside vLLM, which shares the 8 GB of weights with the trainer
    yield Row("peak of it", f"{peak:.1f} GB", f"below {room:.0f} GB", peak < room)
    if not options.no_vllm:
        seconds = in_own_process(long_rollouts, folder)
        yield Row("64 rollouts of 2,048 tokens", f"{seconds:.0f} s, {64 * 2048 / seconds:.0f} tokens/s")
    shutil.rmtree(folder)


def random_model(folder: Path) -> None:
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    size = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "head_dim": 128}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32_768}
    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen3Config(**size, **heads, **ends, vocab_size=151_936, tie_word_embeddings=True)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def long_rollouts(folder: Path) -> float:
    """Seconds of 64 rollouts of 2,048 tokens by the colocated engine."""
    from hicra.study.policy import unsloth_models

    model, _ = unsloth_models.load_policy(
        folder, lora_rank=64, seed=0, max_length=16_384, dtype="bfloat16", vllm=True
    )
    adapter = model.load_lora(str(folder / "adapter"), load_tensors=True)
    return rollout_seconds(model, adapter, n=64, tokens=2048)
