"""Memory and time by arithmetic, against counts made by hand on a tiny model."""

from hicra.study.policy import generation

import pytest
from transformers import LlamaConfig

from hicra.study.profiles import get_profile
from hicra.study.training.estimates import (
    BUSY,
    CARDS,
    READ,
    SLOWER,
    Card,
    count_parameters,
    memory_bytes,
    step_seconds,
)
from tests.configs import CONFIGS

TINY = LlamaConfig(
    hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=10
)


def test_parameters_are_counted_without_being_made():
    # Embedding and head 2 x 80; a layer 4 x 64 attention, 3 x 128 MLP, 2 x 8 norms; a last norm of 8.
    assert count_parameters(TINY, 0) == (1480, 1480)
    # Rank 1: in + out of four 8 x 8 and three 8 x 16 maps, two layers.
    assert count_parameters(TINY, 1)[1] == 2 * (4 * 16 + 3 * 24)


def test_the_memory_estimate_grows_with_what_it_counts():
    small = memory_bytes(TINY, get_profile("families"))
    assert memory_bytes(TINY, get_profile("families", group_size=16)) > small
    assert memory_bytes(TINY, get_profile("families", dtype="bfloat16")) < small


def test_with_vllm_the_larger_side_of_the_card_decides():
    alone, beside = (get_profile("families", vllm=vllm, max_completion_length=9600) for vllm in (False, True))
    assert memory_bytes(TINY, beside) == pytest.approx(
        (memory_bytes(TINY, alone) - 1480 * 4) / (1 - beside.gpu_memory_utilization)
    )  # activations outweigh the cache: the other half, without the weights


def test_a_step_s_seconds_are_arithmetic_and_reading():
    profile = get_profile(
        "families", prompts_per_step=3, group_size=4, max_completion_length=50, dtype="bfloat16"
    )
    assert generation.cache_bytes(TINY, 2) == 2 * 2 * 8 * 2  # keys and values, layers, width, bytes
    slow = Card(flops=1e6 / BUSY, bandwidth=1e6 / READ)
    operations = 6 * 1480 * 12 * 20
    read = 50 * 1480 * 2 + 12 * 20 * 20 / 2 * 64
    assert step_seconds(TINY, profile, slow, 20) == pytest.approx((operations + read) / 1e6)
    anew = get_profile("families", **{**profile.overrides(), "gradient_checkpointing": True})
    more = step_seconds(TINY, anew, slow, 20) - step_seconds(TINY, profile, slow, 20)
    assert more == pytest.approx(2 * 1480 * 12 * 20 / 1e6)


@pytest.mark.parametrize(("name", "card", "length"), [("colab", "T4", 300), ("paper", "H100", 4000)])
def test_the_readme_says_what_the_estimates_say(root, name, card, length):
    profile, config = get_profile(name), CONFIGS[name]
    [row] = [line for line in (root / "README.md").read_text().splitlines() if line.startswith(f"| `{name}`")]
    least = step_seconds(config, profile, CARDS[card], length)
    needed = memory_bytes(config, profile) / 1e9
    assert row.endswith(f"| {least:.0f} to {SLOWER * least:.0f} s * | {needed:.0f} GB * |")
    assert f"completions of {length:,} tokens" in row
