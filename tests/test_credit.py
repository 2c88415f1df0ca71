"""Credit: every arm on a 2x4 example worked out by hand, and the gradients it produces."""

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hicra import credit as c
from hicra.study.profiles import ARMS

ADVANTAGES = torch.tensor([0.5, -0.5])  # one success, one failure
PLANNING = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]]).bool()
COMPLETION = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
ENTROPIES = torch.tensor([[0.1, 2.0, 0.3, 0.2], [1.5, 0.4, 0.5, 9.0]])  # 9.0 is padding
EXAMPLE = c.Rollouts(
    advantages=ADVANTAGES,
    planning_mask=PLANNING,
    completion_mask=COMPLETION,
    entropies=ENTROPIES,
    rewards=torch.tensor([1.0, 0.0]),
    group_size=2,
)


def test_hicra_adds_credit_in_success_and_dampens_blame_in_failure():
    expected = torch.tensor([[0.6, 0.6, 0.5, 0.5], [-0.5, -0.4, -0.5, -0.4]])
    torch.testing.assert_close(c.hicra_advantages(ADVANTAGES, PLANNING, 0.2), expected)


def test_symmetric_amplifies_both_signs():
    expected = torch.tensor([[0.6, 0.6, 0.5, 0.5], [-0.5, -0.6, -0.5, -0.6]])
    torch.testing.assert_close(c.symmetric(EXAMPLE, 0.2), expected)


def test_high_entropy_amplifies_the_top_fifth_of_the_completion_tokens():
    # 7 completion tokens, ceil(0.2 * 7) = 2: those with entropy 2.0 and 1.5, not the padding's 9.0.
    expected = torch.tensor([[0.5, 0.6, 0.5, 0.5], [-0.4, -0.5, -0.5, -0.5]])
    torch.testing.assert_close(c.high_entropy(EXAMPLE, 0.2), expected)
    # ceil(0.3 * 7) = 3: 0.5 is the next.
    expected = torch.tensor([[0.5, 0.6, 0.5, 0.5], [-0.4, -0.5, -0.4, -0.5]])
    torch.testing.assert_close(c.high_entropy(EXAMPLE._replace(high_entropy_share=0.3), 0.2), expected)


def _gated(advantages, mask, rewards, lengths, group_size):
    completion = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]  # (B, T)
    planning = torch.zeros_like(completion)
    planning[:, : len(mask[0])] = torch.tensor(mask)
    rollouts = EXAMPLE._replace(
        advantages=torch.tensor(advantages),
        planning_mask=planning,
        completion_mask=completion,
        rewards=torch.tensor(rewards),
        group_size=group_size,
    )
    return c.gated(rollouts, 0.2)[:, : len(mask[0])]


def test_gated_needs_a_correct_response_longer_than_the_group_mean():
    actual = _gated(
        [0.5, 0.5, -0.5, -0.5], [[True, False]] * 4, [1.0, 1.0, 0.0, 0.0], [9, 3, 9, 3], 4
    )  # mean 6
    expected = torch.tensor([[0.6, 0.5], [0.5, 0.5], [-0.5, -0.5], [-0.5, -0.5]])
    torch.testing.assert_close(actual, expected)


def test_gated_uses_the_mean_of_its_own_group_and_equal_lengths_are_not_longer():
    lengths = [10, 8, 100, 100]  # group means 9 and 100, batch mean 54.5
    actual = _gated([0.5, -0.5, 0.5, -0.5], [[True]] * 4, [1.0, 0.0, 1.0, 0.0], lengths, 2)
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
    rollouts = EXAMPLE._replace(advantages=advantages, planning_mask=mask)
    for arm in ("grpo", "hicra", "symmetric"):
        assert _bits(c.ARMS[arm](rollouts, 0.0)) == _bits(grpo)


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
    rollouts = EXAMPLE._replace(advantages=torch.tensor([-0.5]), planning_mask=torch.tensor([[True]]))
    gradient = _reinforce_gradient(c.symmetric(rollouts, 0.2))
    torch.testing.assert_close(gradient[0, 0, 0], torch.tensor(0.25 * 1.2))


@pytest.mark.parametrize("arm", c.ARMS)
def test_every_arm_gives_one_advantage_a_token_and_changes_no_input(arm):
    before = copy.deepcopy(EXAMPLE)
    actual = c.ARMS[arm](EXAMPLE, 0.3)
    assert actual.shape == PLANNING.shape
    assert actual.is_contiguous()
    actual.zero_()
    for field, kept in zip(EXAMPLE, before, strict=True):
        assert torch.equal(field, kept) if torch.is_tensor(field) else field == kept


def test_the_arms_differ_on_the_example():
    results = {tuple(function(EXAMPLE, 0.3).flatten().tolist()) for function in c.ARMS.values()}
    assert len(results) == len(set(c.ARMS.values()))


def test_the_study_knows_the_same_arms():
    assert set(ARMS) == set(c.ARMS)


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
    for arm in ("hicra", "symmetric", "high_entropy"):
        with pytest.raises(ValueError, match=r"alpha=.*\[0, 1\)"):
            c.ARMS[arm](EXAMPLE, alpha)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: c.hicra_advantages(ADVANTAGES[:, None], PLANNING, 0.2), "advantages.*rank 1"),
        (lambda: c.hicra_advantages(ADVANTAGES, PLANNING[0], 0.2), "planning_mask.*rank 2"),
        (lambda: c.hicra_advantages(ADVANTAGES, PLANNING.long(), 0.2), "planning_mask.*bool"),
        (lambda: c.hicra_advantages(ADVANTAGES, PLANNING[:1], 0.2), "1 rows for 2 advantages"),
        (lambda: c.hicra_advantages(ADVANTAGES.long(), PLANNING, 0.2), "advantages.*floating"),
        (lambda: c.hicra_advantages([0.5], PLANNING, 0.2), "advantages.*list"),
        (lambda: c.top_share(ENTROPIES, COMPLETION, 1.5), "share=1.5"),
        (lambda: c.top_share(ENTROPIES, COMPLETION[:1], 0.5), "differ"),
        (lambda: c.top_share(ENTROPIES * torch.nan, COMPLETION, 0.5), "NaN"),
        (lambda: c.gated(EXAMPLE._replace(group_size=3), 0.2), "2 completions.*group_size=3"),
        (lambda: c.high_entropy(EXAMPLE._replace(entropies=None), 0.2), "values.*NoneType"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _reinforce_gradient(per_token):
    """Gradient w.r.t. two logits a token, the first of which was sampled: (B, T, 2)."""
    logits = torch.zeros(*per_token.shape, 2, requires_grad=True)  # (B, T, 2)
    chosen = logits.log_softmax(-1)[..., 0]  # (B, T)
    (-(per_token * chosen)).sum().backward()
    return logits.grad


def _bits(tensor):
    return tensor.contiguous().view(torch.uint8).tolist()


def test_the_equation_needs_torch_alone():
    known = "import sys; sys.modules.update(dict.fromkeys(('numpy', 'transformers', 'trl', 'unsloth')))"
    code = f"{known}; from hicra import hicra_advantages; from hicra.credit import hicra_advantages"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
