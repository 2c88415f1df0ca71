"""What a profile will need, by arithmetic alone: memory, and seconds a step on a GPU."""

from __future__ import annotations

from typing import NamedTuple

from hicra.study.profiles import Profile

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
RUNTIME = 0.9e9  # bytes of interpreter and libraries, before any model
# What a card can reach of its data sheet; ours, not measured on any.
BUSY = 0.3  # share of its arithmetic, in training of this size
READ = 0.6  # share of its memory bandwidth, in sampling
SLOWER = 3  # times as long takes a step with a third of both, as a T4 may, which has no fast attention


class Card(NamedTuple):
    """A GPU by its data sheet: dense 16-bit floating point operations and bytes, each a second."""

    flops: float
    bandwidth: float


CARDS = {
    "T4": Card(65e12, 320e9),
    "A100": Card(312e12, 2.0e12),
    "H100": Card(989e12, 3.35e12),
    "H200": Card(989e12, 4.8e12),
}


def memory_bytes(config, profile: Profile) -> float:
    """An estimate of what a run needs: runtime, weights, optimizer, cache, activations and logits.

    Weights in the profile's dtype (half a byte in 4 bit); gradients and two moments in 32 bit for what is
    trained; keys and values of every generated token, or, with vLLM, which is faster with more, of
    `rows_per_pass` rows. vLLM has `gpu_memory_utilization` of the card, weights included, so the larger side
    decides. In 32 bit, which a CPU takes, sampling makes a copy of the weights. And for a training pass
    over `rows_per_pass` rows about 16 activations of hidden size a token and layer (where they are computed
    anew: one a layer, and 16 of one layer), and three copies of the logits in 32 bit.
    """
    from hicra.study.policy import generation

    n_weights, n_trained = count_parameters(config, profile.lora_rank)
    rows = profile.prompts_per_step * profile.group_size // profile.processes
    at_once = profile.rows_per_pass or rows
    size, layers = BYTES[profile.dtype], config.num_hidden_layers
    cached = at_once if profile.vllm else rows
    cache = cached * profile.max_length * generation.cache_bytes(config, size)
    kept = layers + 16 if profile.gradient_checkpointing else 16 * layers
    activations = at_once * profile.max_length * kept * config.hidden_size * size
    logits = 3 * at_once * profile.max_completion_length * config.vocab_size * 4
    weights = n_weights * (0.5 if profile.load_in_4bit else size)
    fixed, copy = RUNTIME + 12 * n_trained, weights if profile.dtype == "float32" else 0
    if profile.vllm:
        share = profile.gpu_memory_utilization
        return max((weights + cache) / share, (fixed + activations + logits) / (1 - share))
    return fixed + weights + max(cache + copy, activations + logits)


def step_seconds(config, profile: Profile, card: Card, mean_length: float) -> float:
    """The least seconds that a step may take on a card, up to SLOWER times as long; an estimate.

    `mean_length` is a completion's, in tokens.

    Update: 6 operations a weight and token (scoring 2, forward 2, backward through frozen weights 2; 2 more
    where activations are computed anew), at BUSY of the card's arithmetic. Sampling: the weights are read
    once for every position up to the length limit, a completion's cache once for each of its tokens, at
    READ of the card's bandwidth. Prompts, attention's own arithmetic and the optimizer are left out.
    """
    from hicra.study.policy import generation

    n_weights, _ = count_parameters(config, 0)
    rows = profile.prompts_per_step * profile.group_size
    operations = (8 if profile.gradient_checkpointing else 6) * n_weights * rows * mean_length
    weights = profile.max_completion_length * n_weights * BYTES[profile.dtype]
    cache = rows * mean_length**2 / 2 * generation.cache_bytes(config, BYTES[profile.dtype])
    return operations / (BUSY * card.flops) + (weights + cache) / (READ * card.bandwidth)


def count_parameters(config, lora_rank: int) -> tuple[int, int]:
    """Weights of the model, and those that are trained, counted without making them."""
    from hicra.study.policy import unsloth_models

    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    total = sum(p.numel() for p in model.parameters())
    if not lora_rank:
        return total, total
    linear = [
        m for name, m in model.named_modules() if name.rpartition(".")[2] in unsloth_models.LORA_TARGETS
    ]
    return total, sum(lora_rank * (m.in_features + m.out_features) for m in linear)
