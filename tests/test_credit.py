"""Credit: every arm on a 2x4 example worked out by hand, and the gradients it produces."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hicra import credit as c

ADVANTAGES = torch.tensor([0.5, -0.5])  # one success, one failure
PLANNING = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]]).bool()
COMPLETION = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
ENTROPIES = torch.tensor([[0.1, 2.0, 0.3, 0.2], [1.5, 0.4, 0.5, 9.0]])  # 9.0 is padding
REWARDS = torch.tensor([1.0, 0.0])


def test_group_advantage_subtracts_the_mean_and_never_divides():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    expected = torch.tensor([0.75, -0.25, -0.25, -0.25, 0.0, 0.0, 0.0, 0.0])
    assert torch.equal(c.group_advantage(rewards, 4), expected)
    assert torch.equal(c.group_advantage(torch.tensor([3.0, 1.0]), 2), torch.tensor([1.0, -1.0]))


def test_hicra_adds_credit_in_success_and_dampens_blame_in_failure():
    expected = torch.tensor([[0.6, 0.6, 0.5, 0.5], [-0.5, -0.4, -0.5, -0.4]])
    torch.testing.assert_close(c.hicra_advantages(ADVANTAGES, PLANNING, 0.2), expected)


def test_symmetric_amplifies_both_signs():
    expected = torch.tensor([[0.6, 0.6, 0.5, 0.5], [-0.5, -0.6, -0.5, -0.6]])
    torch.testing.assert_close(c.symmetric_advantages(ADVANTAGES, PLANNING, 0.2), expected)


def test_high_entropy_amplifies_the_top_fifth_of_the_completion_tokens():
    # 7 completion tokens, ceil(0.2 * 7) = 2: those with entropy 2.0 and 1.5, not the padding's 9.0.
    expected = torch.tensor([[0.5, 0.6, 0.5, 0.5], [-0.4, -0.5, -0.5, -0.5]])
    actual = c.high_entropy_advantages(ADVANTAGES, ENTROPIES, COMPLETION, 0.2)
    torch.testing.assert_close(actual, expected)


def test_gated_needs_a_correct_response_longer_than_the_group_mean():
    advantages = torch.tensor([0.5, 0.5, -0.5, -0.5])
    mask = torch.tensor([[True, False]] * 4)
    lengths = torch.tensor([9, 3, 9, 3])  # mean 6
    rewards = torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = torch.tensor([[0.6, 0.5], [0.5, 0.5], [-0.5, -0.5], [-0.5, -0.5]])
    actual = c.gated_advantages(advantages, mask, rewards, lengths, 4, 0.2)
    torch.testing.assert_close(actual, expected)


def test_gated_uses_the_mean_of_its_own_group_and_equal_lengths_are_not_longer():
    advantages = torch.tensor([0.5, -0.5, 0.5, -0.5])
    mask = torch.ones(4, 1, dtype=torch.bool)
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0])
    lengths = torch.tensor([10, 8, 100, 100])  # group means 9 and 100, batch mean 54.5
    actual = c.gated_advantages(advantages, mask, rewards, lengths, 2, 0.2)
    torch.testing.assert_close(actual, torch.tensor([[0.6], [-0.5], [0.5], [-0.5]]))


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=6),
    st.integers(0, 2**24 - 1),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_alpha_zero_is_grpo_bit_for_bit(values, bits, dtype):
    advantages = torch.tensor(values, dtype=dtype)
    flags = [[bool(bits >> (4 * row + t) & 1) for t in range(4)] for row in range(len(values))]
    mask = torch.tensor(flags)
    grpo = advantages[:, None].expand(-1, 4).contiguous()
    for function in (c.hicra_advantages, c.symmetric_advantages):
        assert _bits(function(advantages, mask, 0.0)) == _bits(grpo)


def test_alpha_zero_keeps_the_sign_of_zero():
    actual = c.hicra_advantages(torch.tensor([-0.0]), torch.tensor([[True]]), 0.0)
    assert torch.signbit(actual).all()


@pytest.mark.parametrize(("sign", "factor"), [(1.0, 1.2), (-1.0, 0.8)])
def test_gradient_of_a_toy_reinforce_loss(sign, factor):
    """d loss / d logit of a planning token is (1 + alpha) or (1 - alpha) times GRPO's."""
    advantages, mask = torch.tensor([0.5 * sign]), torch.tensor([[True, False]])
    hicra = _reinforce_gradient(c.hicra_advantages(advantages, mask, 0.2))  # (1, 2, 2)
    grpo = _reinforce_gradient(c.hicra_advantages(advantages, mask, 0.0))
    # By hand: logits 0, 0 give p = 1/2; d(-A log p_0)/d logit_0 = -A (1 - 1/2) = -0.25 * sign.
    torch.testing.assert_close(grpo[0, :, 0], torch.tensor([-0.25, -0.25]) * sign)
    torch.testing.assert_close(hicra[0, 0], factor * grpo[0, 0])
    assert torch.equal(hicra[0, 1], grpo[0, 1])


def test_symmetric_gradient_grows_in_failure():
    mask = torch.tensor([[True]])
    gradient = _reinforce_gradient(c.symmetric_advantages(torch.tensor([-0.5]), mask, 0.2))
    torch.testing.assert_close(gradient[0, 0, 0], torch.tensor(0.25 * 1.2))


@pytest.mark.parametrize("arm", c.ARMS)
def test_dispatcher_gives_each_arm_its_function(arm):
    lengths = COMPLETION.sum(1)
    expected = {
        "grpo": ADVANTAGES[:, None].repeat(1, 4),
        "hicra": c.hicra_advantages(ADVANTAGES, PLANNING, 0.3),
        "symmetric": c.symmetric_advantages(ADVANTAGES, PLANNING, 0.3),
        "high_entropy": c.high_entropy_advantages(ADVANTAGES, ENTROPIES, COMPLETION, 0.3),
        "gated": c.gated_advantages(ADVANTAGES, PLANNING, REWARDS, lengths, 2, 0.3),
    }[arm]
    actual = _credit(arm)
    assert torch.equal(actual, expected)
    assert actual.is_contiguous()
    assert ADVANTAGES.tolist() == [0.5, -0.5]  # the input is never changed


def test_the_arms_all_differ_on_the_example():
    results = {tuple(_credit(arm).flatten().tolist()) for arm in c.ARMS}
    assert len(results) == len(c.ARMS)


def test_unknown_arm_lists_the_known_ones():
    with pytest.raises(ValueError, match="'hicar'.*grpo, hicra, high_entropy, symmetric, gated"):
        _credit("hicar")


@pytest.mark.parametrize(
    ("n", "share", "count"),
    [(30, 0.1, 3), (100, 0.29, 29), (7, 0.2, 2), (10, 0.3, 3), (4, 0.0, 0), (4, 1.0, 4)],
)
def test_top_share_counts_exactly(n, share, count):
    values, mask = torch.rand(1, n), torch.ones(1, n, dtype=torch.bool)
    assert c.top_share(values, mask, share).sum() == count


def test_top_share_breaks_ties_by_position():
    values, mask = torch.ones(2, 3), torch.tensor([[False, True, True], [True, True, True]])
    expected = torch.tensor([[False, True, True], [False, False, False]])
    assert torch.equal(c.top_share(values, mask, 0.4), expected)
    many = torch.arange(4096)[None] % 2 * 1.0  # 2048 ties for 1024 places
    chosen = c.top_share(many, torch.ones(1, 4096, dtype=torch.bool), 0.25)
    assert chosen.nonzero()[:, 1].tolist() == list(range(1, 2048, 2))


def test_top_share_of_an_empty_mask_is_empty():
    assert not c.top_share(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), 0.5).any()


@pytest.mark.parametrize("alpha", [1.0, -0.1, float("nan"), 2])
def test_alpha_outside_its_range_is_named(alpha):
    for function in (c.hicra_advantages, c.symmetric_advantages):
        with pytest.raises(ValueError, match=r"alpha=.*\[0, 1\)"):
            function(ADVANTAGES, PLANNING, alpha)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: c.hicra_advantages(ADVANTAGES[:, None], PLANNING, 0.2), "advantages.*rank 1"),
        (lambda: c.hicra_advantages(ADVANTAGES, PLANNING[0], 0.2), "planning_mask.*rank 2"),
        (lambda: c.hicra_advantages(ADVANTAGES, PLANNING.long(), 0.2), "planning_mask.*bool"),
        (lambda: c.hicra_advantages(ADVANTAGES, PLANNING[:1], 0.2), "1 rows for 2 advantages"),
        (lambda: c.hicra_advantages(ADVANTAGES.long(), PLANNING, 0.2), "advantages.*floating"),
        (lambda: c.hicra_advantages([0.5], PLANNING, 0.2), "advantages.*list"),
        (lambda: c.group_advantage(torch.ones(5), 2), "5 completions.*group_size=2"),
        (lambda: c.group_advantage(torch.ones(4), 1), "group_size=1"),
        (lambda: c.group_advantage(torch.ones(4).long(), 2), "rewards.*floating"),
        (lambda: c.top_share(ENTROPIES, COMPLETION, 1.5), "share=1.5"),
        (lambda: c.top_share(ENTROPIES, COMPLETION[:1], 0.5), "differ"),
        (lambda: c.top_share(ENTROPIES * torch.nan, COMPLETION, 0.5), "NaN"),
        (
            lambda: c.gated_advantages(ADVANTAGES, PLANNING, REWARDS, torch.ones(4), 2, 0.2),
            "'lengths': 4",
        ),
        (lambda: _credit("high_entropy", entropies=None), "values.*NoneType"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _credit(arm, entropies=ENTROPIES):
    return c.credit(
        arm,
        ADVANTAGES,
        planning_mask=PLANNING,
        entropies=entropies,
        completion_mask=COMPLETION,
        rewards=REWARDS,
        group_size=2,
        alpha=0.3,
    )


def _reinforce_gradient(per_token):
    """Gradient w.r.t. two logits a token, the first of which was sampled: (B, T, 2)."""
    logits = torch.zeros(*per_token.shape, 2, requires_grad=True)  # (B, T, 2)
    chosen = logits.log_softmax(-1)[..., 0]  # (B, T)
    (-(per_token * chosen)).sum().backward()
    return logits.grad


def _bits(tensor):
    return tensor.contiguous().view(torch.uint8).tolist()
