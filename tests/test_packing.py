"""Credit in Unsloth's left-packed layout, against unsloth_zoo's own packing functions and loss."""

from pathlib import Path

from hicra.study.policy import unsloth_models

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hicra.credit import align_to_packed
from hicra.trainer import packed_advantages, packs_left

zoo = pytest.importorskip("unsloth_zoo.rl_replacements")
PAD = 0
pytestmark = pytest.mark.filterwarnings("default")


def make_batch(prompt_lengths, completion_lengths, width=6, seed=0):
    """Ids as the trainer has them: prompts padded on the left, completions on the right."""
    draw = torch.Generator().manual_seed(seed)
    n = len(prompt_lengths)
    prompts = torch.randint(1, 50, (n, max(prompt_lengths)), generator=draw)  # (B, P)
    completions = torch.randint(1, 50, (n, width), generator=draw)  # (B, T)
    for row, (p, c) in enumerate(zip(prompt_lengths, completion_lengths, strict=True)):
        prompts[row, : max(prompt_lengths) - p] = PAD
        completions[row, c:] = PAD
    return prompts, completions


def pack(prompts, completions):
    """The window of Unsloth's loss: ids, completion mask, and left padding of the prompts."""
    ids, n_tokens = torch.cat([prompts, completions], 1), completions.shape[1]
    left_pad = zoo.calculate_pad_tokens_in_prompt(ids, n_tokens, PAD)
    most = int(left_pad.max())
    window = zoo.left_pack_padding(ids, PAD)[:, -(n_tokens + most) :]  # (B, T + m)
    return window, zoo.create_completion_attention_mask(window, left_pad, most, PAD), left_pad


LENGTHS = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 6)), min_size=1, max_size=5)


@settings(deadline=None)
@given(LENGTHS)
def test_values_land_on_their_own_tokens(lengths):
    prompts, completions = make_batch(*zip(*lengths, strict=True))
    window, mask, left_pad = pack(prompts, completions)
    ours = align_to_packed(completions, left_pad, window.shape[1])
    assert torch.equal(ours, window * mask)
    theirs = zoo.align_logprobs_with_mask(completions.float(), mask.int())
    assert torch.equal(ours.float(), theirs)


def _loss(logps, advantages, mask):
    logps = logps.clone().requires_grad_()
    loss, *_ = zoo.grpo_compute_loss(
        None,
        logps,
        None,
        None,
        torch.zeros(logps.shape, dtype=torch.long),
        mask,
        0.0,
        advantages,
        loss_type="dapo",
        epsilon_high=0.28,
        num_items_in_batch=mask.sum(),
    )
    loss.backward()
    return loss.detach(), logps.grad


def test_loss_and_gradient_do_not_depend_on_the_layout():
    prompts, completions = make_batch([7, 2, 4, 1], [6, 3, 6, 1])  # two are truncated: no end, no pad
    _, mask, left_pad = pack(prompts, completions)
    draw = torch.Generator().manual_seed(1)
    logps = -torch.rand(completions.shape, generator=draw)  # (B, T)
    advantages = torch.randn(completions.shape, generator=draw)  # (B, T)
    width = mask.shape[1]
    plain, gradient = _loss(logps, advantages, (completions != PAD).int())
    packed, shifted = _loss(
        align_to_packed(logps, left_pad, width), align_to_packed(advantages, left_pad, width), mask.int()
    )
    torch.testing.assert_close(packed, plain)
    torch.testing.assert_close(shifted, align_to_packed(gradient, left_pad, width))
    # What happens without the realignment: credit on the wrong tokens, silently.
    astray = torch.nn.functional.pad(advantages, (0, width - advantages.shape[1]))
    wrong, _ = _loss(align_to_packed(logps, left_pad, width), astray, mask.int())
    assert not torch.allclose(wrong, plain)


@pytest.mark.parametrize("made", [None, "old_per_token_logps", "ref_per_token_logps"])
def test_the_width_is_the_one_that_the_loss_will_choose(made):
    prompts, completions = make_batch([5, 3], [6, 2])
    advantages = torch.randn(completions.shape)
    inputs = {"advantages": advantages, "prompt_mask": (prompts != PAD).int()}
    width = completions.shape[1] + (4 if made else 2)  # another micro-batch has a prompt of one token
    if made:
        inputs[made] = torch.zeros(2, width)
    packed = packed_advantages(inputs)
    assert torch.equal(packed, align_to_packed(advantages, torch.tensor([0, 2]), width))


def test_only_unsloths_trainer_packs():
    # Read, not imported: it needs Triton, which a machine without a GPU may lack.
    source = (Path(unsloth_models.unsloth.__file__).parent / "models" / "rl.py").read_text()
    assert "class Unsloth{RLTrainer_name}(" in source  # the name that packs_left knows it by
    theirs = type("UnslothGRPOTrainer", (), {})
    assert packs_left(type("Mine", (theirs,), {}))
    assert not packs_left(type("Mine", (), {}))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align_to_packed(torch.zeros(2), torch.zeros(2), 4), "values must have rank 2"),
        (lambda: align_to_packed(torch.zeros(2, 3), torch.zeros(3), 4), "one row per completion"),
        (lambda: align_to_packed(torch.zeros(1, 3), torch.tensor([2]), 4), "at least 5"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
