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
    weight=3.0,
)
# The same two completions and two failures without planning: v = 1/4.
FOUR = c.Rollouts(
    advantages=torch.tensor([0.75, -0.25, -0.25, -0.25]),
    planning_mask=torch.cat((PLANNING, torch.zeros(2, 4, dtype=torch.bool))),
    completion_mask=torch.cat((COMPLETION, COMPLETION)),
    entropies=torch.cat((ENTROPIES, torch.zeros(2, 4))),
    rewards=torch.tensor([1.0, 0.0, 0.0, 0.0]),
    group_size=4,
    weight=3.0,
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


def test_weighted_multiplies_planning_credit():
    expected = torch.tensor([[1.5, 1.5, 0.5, 0.5], [-0.5, -1.5, -0.5, -1.5]])
    torch.testing.assert_close(c.weighted(EXAMPLE, 0.2), expected)


def test_scaled_turns_planning_credit_up_on_hard_prompts():
    # 1 + 0.2 * 4/2 * (1 - 2/4) = 1.2 where one of four is right, 0.8 where three are.
    expected = torch.tensor([[0.9, 0.9, 0.75, 0.75], [-0.25, -0.3, -0.25, -0.3]])
    torch.testing.assert_close(c.scaled(FOUR, 0.2)[:2], expected)
    easy = FOUR._replace(rewards=1 - FOUR.rewards, advantages=-FOUR.advantages)
    expected = torch.tensor([[-0.6, -0.6, -0.75, -0.75], [0.25, 0.2, 0.25, 0.2]])
    torch.testing.assert_close(c.scaled(easy, 0.2)[:2], expected)


def test_the_arms_without_a_lexicon_credit_every_completion_token():
    # The last token of the second completion is padding.
    expected = torch.tensor([[0.6, 0.6, 0.6, 0.6], [-0.4, -0.4, -0.4, -0.5]])
    torch.testing.assert_close(c.hicra_all(EXAMPLE, 0.2), expected)
    expected = torch.tensor([[0.9, 0.9, 0.9, 0.9], [-0.3, -0.3, -0.3, -0.25]])
    torch.testing.assert_close(c.scaled_all(FOUR, 0.2)[:2], expected)


def test_fork_mask_keeps_the_uncertain_tokens_and_divides_by_their_number():
    # 2 of 7 tokens are kept, so that each counts 7/2 in a mean over 7: 0.5 * 3.5 = 1.75.
    expected = torch.tensor([[0.0, 1.75, 0.0, 0.0], [-1.75, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(c.fork_mask(EXAMPLE, 0.2), expected)


def test_entropy_shaped_adds_entropy_up_to_half_of_the_advantage():
    # 0.4 * (0.1, 2.0, 0.3, 0.2) and 0.4 * (1.5, 0.4, 0.5), each at most 0.25; padding gets none.
    expected = torch.tensor([[0.54, 0.75, 0.62, 0.58], [-0.25, -0.34, -0.3, -0.5]])
    torch.testing.assert_close(c.entropy_shaped(EXAMPLE, 0.2), expected)


def test_released_adds_the_uncertain_tokens_of_long_correct_completions():
    # ceil(0.3 * 7) = 3 uncertain tokens: 2.0, 1.5 and 0.5; only the first lies in the long correct one.
    rollouts = EXAMPLE._replace(planning_mask=torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1]]).bool())
    expected = torch.tensor([[0.6, 0.6, 0.5, 0.5], [-0.5, -0.4, -0.5, -0.4]])
    torch.testing.assert_close(c.released(rollouts, 0.2), expected)
    short = rollouts._replace(completion_mask=COMPLETION.flip(0), entropies=ENTROPIES.flip(0))
    expected = torch.tensor([[0.6, 0.5, 0.5, 0.5], [-0.5, -0.4, -0.5, -0.4]])
    torch.testing.assert_close(c.released(short, 0.2), expected)


@st.composite
def _sampled(draw):
    """Any scored step: two groups with rewards 0 and 1, any masks and entropies."""
    size, tokens = draw(st.integers(3, 8)), 4
    bits = st.lists(st.booleans(), min_size=2 * size * tokens, max_size=2 * size * tokens)
    rewards = torch.tensor(draw(st.lists(st.integers(0, 1), min_size=2 * size, max_size=2 * size)))
    groups = rewards.double().view(2, size)  # (2, G)
    completion = torch.tensor(draw(bits)).view(-1, tokens)
    return c.Rollouts(
        advantages=(groups - groups.mean(1, keepdim=True)).flatten(),
        planning_mask=torch.tensor(draw(bits)).view(-1, tokens) & completion,
        completion_mask=completion,
        entropies=torch.rand(2 * size, tokens, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))),
        rewards=rewards.double(),
        group_size=size,
        weight=draw(st.floats(0, 4)),
    )  # fmt: skip


def _rates(rollouts):
    """v of each completion's group, as (B, 1)."""
    means = rollouts.rewards.view(-1, rollouts.group_size).mean(1)
    return means.repeat_interleave(rollouts.group_size)[:, None]


ALPHAS = st.floats(0, 0.99)


@given(_sampled(), ALPHAS)
def test_hicra_is_a_factor_and_a_bonus(rollouts, alpha):
    size, v = rollouts.group_size, _rates(rollouts)
    factor = c.scaled(rollouts, alpha * (size - 2) / size)
    bonus = 2 * alpha * v * (1 - v) * rollouts.planning_mask
    torch.testing.assert_close(c.hicra(rollouts, alpha), factor + bonus)


@given(_sampled(), ALPHAS)
def test_hicras_bonus_pays_a_group_for_planning_and_scaled_pays_nothing(rollouts, alpha):
    v, everywhere = _rates(rollouts)[:: rollouts.group_size], torch.ones_like(rollouts.planning_mask)
    alike = rollouts._replace(planning_mask=everywhere)  # completions that plan equally often

    def paid(arm):
        return arm(alike, alpha).view(2, -1).sum(1, keepdim=True)

    torch.testing.assert_close(paid(c.hicra), 2 * alpha * v * (1 - v) * rollouts.group_size * 4)
    torch.testing.assert_close(paid(c.scaled), torch.zeros(2, 1).double())


@given(_sampled(), ALPHAS)
def test_scaled_keeps_every_sign_and_stays_within_alpha(rollouts, alpha):
    plain = c.grpo(rollouts, 0.0)
    ratio = (c.scaled(rollouts, alpha) / plain)[plain != 0]
    assert ((ratio - 1).abs() <= alpha + 1e-12).all()


@given(_sampled(), ALPHAS)
def test_each_arm_is_its_neighbour_where_they_meet(rollouts, alpha):
    grpo, completion = c.grpo(rollouts, 0.0), rollouts.completion_mask
    everything = rollouts._replace(planning_mask=completion)
    certain = rollouts._replace(entropies=torch.zeros_like(rollouts.entropies))
    uncertain = rollouts._replace(entropies=torch.full_like(rollouts.entropies, 9.0))
    without_success = rollouts._replace(rewards=torch.zeros_like(rollouts.rewards))
    top = rollouts._replace(planning_mask=c.top_share(rollouts.entropies, completion, 0.2))
    pairs = {
        "weight 1 is GRPO": (c.weighted(rollouts._replace(weight=1.0), alpha), grpo),
        "weight 1 + alpha is symmetric": (
            c.weighted(rollouts._replace(weight=1 + alpha), alpha),
            c.symmetric(rollouts, alpha),
        ),
        "yoked is weighted": (c.ARMS["yoked"](rollouts, alpha), c.weighted(rollouts, alpha)),
        "hicra_all is hicra on everything": (c.hicra_all(rollouts, alpha), c.hicra(everything, alpha)),
        "scaled_all is scaled on everything": (c.scaled_all(rollouts, alpha), c.scaled(everything, alpha)),
        "high_entropy is hicra on the top": (c.high_entropy(rollouts, alpha), c.hicra(top, alpha)),
        "without a success released is hicra": (c.released(without_success, alpha), c.hicra(rollouts, alpha)),
        "a fork mask of all is GRPO": (
            c.fork_mask(rollouts._replace(high_entropy_share=1.0), alpha),
            grpo * completion,
        ),
        "without entropy nothing is shaped": (c.entropy_shaped(certain, alpha), grpo),
        "with much it is hicra_all at a half": (
            c.entropy_shaped(uncertain, alpha),
            c.hicra_all(rollouts, 0.5),
        ),
    }
    for told, (one, other) in pairs.items():
        torch.testing.assert_close(one, other, msg=told)


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
    rollouts = EXAMPLE._replace(advantages=advantages, planning_mask=mask, completion_mask=mask)
    for arm in ("grpo", "hicra", "symmetric", "hicra_all"):
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
    before = copy.deepcopy(FOUR)
    actual = c.ARMS[arm](FOUR, 0.3)
    assert actual.shape == FOUR.planning_mask.shape
    assert actual.dtype == FOUR.advantages.dtype
    assert actual.is_contiguous()
    actual.zero_()
    for field, kept in zip(FOUR, before, strict=True):
        assert torch.equal(field, kept) if torch.is_tensor(field) else field == kept


def test_the_arms_differ_on_the_example():
    results = {tuple(function(FOUR, 0.3).flatten().tolist()) for function in c.ARMS.values()}
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
    for arm in ("hicra", "symmetric", "high_entropy", "scaled", "hicra_all", "scaled_all", "released"):
        with pytest.raises(ValueError, match=r"alpha=.*\[0, 1\)"):
            c.ARMS[arm](FOUR, alpha)


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
        (lambda: c.released(EXAMPLE._replace(group_size=3), 0.2), "2 completions.*group_size=3"),
        (lambda: c.high_entropy(EXAMPLE._replace(entropies=None), 0.2), "values.*NoneType"),
        (lambda: c.entropy_shaped(EXAMPLE._replace(entropies=None), 0.2), "entropies.*NoneType"),
        (lambda: c.scaled(EXAMPLE, 0.2), "group_size=2 must be 3"),
        (lambda: c.scaled(FOUR._replace(rewards=FOUR.rewards / 2), 0.2), "0 or 1, got 0.5"),
        (lambda: c.weighted(EXAMPLE._replace(weight=None), 0.2), "weight=None"),
        (lambda: c.weighted(EXAMPLE._replace(weight=-1.0), 0.2), "weight=-1.0"),
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
