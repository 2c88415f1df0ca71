"""Credit: from one advantage per completion to one advantage per token.

`hicra_advantages` is the equation; `ARMS` holds it and what it is compared with, a function each. To add an
arm, write its function and its row. docs/equation.md says what the equation does, and which arms take it
apart. Everything is pure torch. Rows of a batch are completions in the order in which they were sampled, so
that the `group_size` completions of one prompt are adjacent; credit is assigned before any shuffle, because a
shuffled micro-batch no longer knows its groups.

Shapes: B completions (a multiple of the group size G), T completion tokens with padding.
A wrong shape, rank or dtype is a ValueError that names the argument: a (B,) tensor that silently
broadcasts along the wrong axis of a (B, T) one trains something else without a sign of it.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from hicra.errors import MissingExtraError

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("hicra.credit", "torch", "trl") from error
from torch import Tensor


def hicra_advantages(advantages: Tensor, planning_mask: Tensor, alpha: float) -> Tensor:
    """HICRA: A_i + alpha * |A_i| on planning tokens, A_i elsewhere; (B,), (B, T) -> (B, T).

    A planning token gains credit in a success, A(1 + alpha), and is blamed less in a failure,
    A(1 - alpha) (paper, section 4). `alpha=0` equals GRPO's broadcast bit for bit. `advantages` are GRPO's,
    R - mean of the group, on the scale of the rewards; `planning_mask` is bool. Raises ValueError when
    `alpha` is outside [0, 1) or a shape or dtype is wrong.

        >>> hicra_advantages(torch.tensor([0.5, -0.5]), torch.tensor([[True, False], [True, False]]), 0.2)
        tensor([[ 0.6000,  0.5000],
                [-0.4000, -0.5000]])
    """
    check_alpha(alpha)
    per_token = _broadcast(advantages, planning_mask)  # (B, T)
    return _amplify(per_token, alpha * per_token.abs(), planning_mask)  # HICRA eq. of section 4


class Rollouts(NamedTuple):
    """What an arm may look at: the scored completions of one step, of all processes."""

    advantages: Tensor  # (B,) GRPO's
    planning_mask: Tensor  # (B, T) bool
    completion_mask: Tensor  # (B, T) bool, tokens that the policy wrote
    entropies: Tensor  # (B, T) nats of the next-token distribution; off `completion_mask` anything
    rewards: Tensor  # (B,)
    group_size: int
    high_entropy_share: float = 0.2  # of the completion tokens (paper, Table 1)
    weight: float | None = None  # of planning tokens in this step; `weighted` and `yoked` need it


def grpo(rollouts: Rollouts, alpha: float) -> Tensor:
    """GRPO: every token of a completion has the completion's advantage; `alpha` is not used."""
    return _broadcast(rollouts.advantages, rollouts.planning_mask).clone()  # (B, T)


def hicra(rollouts: Rollouts, alpha: float) -> Tensor:
    """The paper's method."""
    return hicra_advantages(rollouts.advantages, rollouts.planning_mask, alpha)  # (B, T)


def symmetric(rollouts: Rollouts, alpha: float) -> Tensor:
    """Ours: A_i * (1 + alpha) on planning tokens, so blame for a failure grows too."""
    check_alpha(alpha)
    per_token = _broadcast(rollouts.advantages, rollouts.planning_mask)  # (B, T)
    return _amplify(per_token, alpha * per_token, rollouts.planning_mask)  # (B, T)


def high_entropy(rollouts: Rollouts, alpha: float) -> Tensor:
    """High-Entropy Advantage (Table 1): HICRA on the batch's most uncertain tokens instead."""
    uncertain = top_share(rollouts.entropies, rollouts.completion_mask, rollouts.high_entropy_share)  # (B, T)
    return hicra_advantages(rollouts.advantages, uncertain, alpha)  # (B, T)


def weighted(rollouts: Rollouts, alpha: float) -> Tensor:
    """Ours: A_i * w on planning tokens, w = `rollouts.weight`; `alpha` is not used.

    w = 1 is GRPO, w = 1 + alpha is `symmetric`. As `yoked`, w is the mean weight of a HICRA run at each step:
    that run without its choice of prompts and without its bonus.
    """
    weight = rollouts.weight
    if weight is None or not 0 <= weight < math.inf:
        raise ValueError(
            f"weight={weight!r} must be a finite number from 0 up: it multiplies planning credit"
        )
    per_token = _broadcast(rollouts.advantages, rollouts.planning_mask)  # (B, T)
    return torch.where(rollouts.planning_mask, weight * per_token, per_token)  # (B, T)


def scaled(rollouts: Rollouts, alpha: float) -> Tensor:
    """Ours: HICRA's factor without its bonus, A_i * (1 + alpha * G/(G-2) * (1 - 2v)) on planning tokens.

    v is the group's mean reward, G its size. In a group with successes and failures the factor lies between
    1 - alpha (one failure) and 1 + alpha (one success). Raises ValueError for rewards other than 0 and 1, and
    for G < 3, where such groups have v = 1/2 and nothing to scale.
    """
    return _scaled(rollouts, rollouts.planning_mask, alpha)  # (B, T)


def hicra_all(rollouts: Rollouts, alpha: float) -> Tensor:
    """Ours: HICRA on every completion token, without a lexicon."""
    return hicra_advantages(rollouts.advantages, rollouts.completion_mask, alpha)  # (B, T)


def scaled_all(rollouts: Rollouts, alpha: float) -> Tensor:
    """Ours: `scaled` on every completion token, without a lexicon."""
    return _scaled(rollouts, rollouts.completion_mask, alpha)  # (B, T)


def fork_mask(rollouts: Rollouts, alpha: float) -> Tensor:
    """Only the batch's most uncertain tokens learn (arXiv 2506.01939); `alpha` is not used.

    The paper's loss is a mean over the tokens that are kept. Ours divides by all N completion tokens, so
    each of the n kept ones has A_i * N/n. (TRL's `top_entropy_quantile` lacks that factor.)
    """
    kept = top_share(rollouts.entropies, rollouts.completion_mask, rollouts.high_entropy_share)  # (B, T)
    per_token = _broadcast(rollouts.advantages, kept)  # (B, T)
    gain = rollouts.completion_mask.sum() / kept.sum().clamp(min=1)  # ()
    return torch.where(kept, gain.to(per_token) * per_token, 0)  # (B, T)


def entropy_shaped(rollouts: Rollouts, alpha: float) -> Tensor:
    """A_i + min(0.4 H, |A_i| / 2) on every completion token (arXiv 2506.14758); `alpha` is not used.

    H is the token's entropy, 0.4 the paper's coefficient with GRPO.
    """
    _check("entropies", rollouts.entropies, rank=2, floating=True)
    per_token = _broadcast(rollouts.advantages, rollouts.completion_mask)  # (B, T)
    bonus = torch.minimum(0.4 * rollouts.entropies.detach().to(per_token), per_token.abs() / 2)  # (B, T)
    return _amplify(per_token, bonus, rollouts.completion_mask)  # (B, T)


def released(rollouts: Rollouts, alpha: float) -> Tensor:
    """Second-hand: HICRA on planning tokens, and on uncertain ones of long correct completions.

    Not in the paper; as a third party quotes the authors' training code, hence never a default. Uncertain is
    the top 30 % of the batch's tokens by entropy, long is longer than the group's mean.
    """
    uncertain = top_share(rollouts.entropies, rollouts.completion_mask, 0.3)  # (B, T)
    chosen = rollouts.planning_mask | uncertain & _long_and_correct(rollouts)[:, None]  # (B, T)
    return hicra_advantages(rollouts.advantages, chosen, alpha)  # (B, T)


ARMS: dict[str, Callable[[Rollouts, float], Tensor]] = {
    "grpo": grpo,
    "hicra": hicra,  # a placebo is this with another lexicon, the oracle this with the true spans
    "entropy_reg": grpo,  # its bonus stands in the loss
    "high_entropy": high_entropy,
    "symmetric": symmetric,
    "weighted": weighted,
    "yoked": weighted,  # with another weight at every step
    "scaled": scaled,
    "hicra_all": hicra_all,
    "scaled_all": scaled_all,
    "fork_mask": fork_mask,
    "entropy_shaped": entropy_shaped,
    "released": released,
}


def align_to_packed(values: Tensor, left_pad: Tensor, width: int) -> Tensor:
    """Per-token values (B, T) in the layout of a left-packed batch, (B, width).

    Unsloth's loss moves each prompt's padding, `left_pad` (B,) tokens, to the right end, and looks at
    the last `width` = T + m columns, m the most padding of any prompt in the generated batch. A
    completion then starts m - left_pad columns later. What is not completion gets 0. Raises ValueError
    for a wrong shape or a width in which a completion has no room.
    """
    _check("values", values, rank=2)
    _check("left_pad", left_pad, rank=1)
    _check_rows(values=values, left_pad=left_pad)
    n_tokens = values.shape[1]
    start = width - n_tokens - left_pad  # (B,)
    if left_pad.numel() and (start.min() < 0 or left_pad.min() < 0):
        raise ValueError(
            f"width={width} has no room for {n_tokens} tokens behind left_pad={left_pad.tolist()}; "
            f"it must be at least {n_tokens + int(left_pad.max())}"
        )
    columns = start[:, None] + torch.arange(n_tokens, device=values.device)  # (B, T)
    return values.new_zeros(len(values), width).scatter(1, columns, values)  # (B, width)


def top_share(values: Tensor, mask: Tensor, share: float) -> Tensor:
    """The ceil(share * n) largest of the n values under `mask`, as a bool (B, T).

    The count is exact: `share` is read as the decimal it is written as, so 0.1 of 30 tokens is 3
    and not 4. Ties at the threshold go to the earlier token in row-major order, on every device.
    Raises ValueError when `share` is outside [0, 1], a value under the mask is NaN, or shapes or
    dtypes differ.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share!r} must lie in [0, 1]: it is a fraction of the tokens")
    _check("values", values, rank=2, floating=True)
    _check_mask("mask", mask)
    if values.shape != mask.shape:
        raise ValueError(f"values {tuple(values.shape)} and mask {tuple(mask.shape)} differ")
    candidates = mask.flatten().nonzero().squeeze(1)  # (n,) row-major
    scores = values.flatten()[candidates]  # (n,)
    if scores.isnan().any():
        raise ValueError("values holds NaN under the mask; a NaN has no rank")
    count = math.ceil(Fraction(str(share)) * len(candidates))
    order = scores.sort(descending=True, stable=True).indices  # (n,)
    chosen = torch.zeros_like(mask).flatten()  # (B * T,)
    chosen[candidates[order[:count]]] = True
    return chosen.view_as(mask)  # (B, T)


def _amplify(per_token: Tensor, bonus: Tensor, mask: Tensor) -> Tensor:
    # A bonus of zero leaves the token alone: -0.0 + 0.0 is +0.0, and alpha=0 must keep every bit.
    return torch.where(mask & (bonus != 0), per_token + bonus, per_token)  # (B, T)


def _scaled(rollouts: Rollouts, mask: Tensor, alpha: float) -> Tensor:
    check_alpha(alpha)
    if (size := rollouts.group_size) < 3:
        raise ValueError(f"group_size={size} must be 3 or more: in a mixed group of 2, v is always 1/2")
    if wrong := set(rollouts.rewards.tolist()) - {0, 1}:
        raise ValueError(f"rewards must be 0 or 1, got {min(wrong)}: only then is |A| a function of v and A")
    per_token = _broadcast(rollouts.advantages, mask)  # (B, T)
    v = _group_mean(rollouts.rewards.double(), size)  # (B,)
    # G/(G-2): a sample is part of its group's mean; without it the expected gradient has (1 - 2/G)(1 - 2V).
    factor = 1 + alpha * size / (size - 2) * (1 - 2 * v)  # (B,)
    return torch.where(mask, per_token * factor[:, None].to(per_token), per_token)  # (B, T)


def _long_and_correct(rollouts: Rollouts) -> Tensor:
    # In 64 bit, so that equal lengths never look "longer".
    lengths = rollouts.completion_mask.sum(1, dtype=torch.float64)  # (B,)
    return (rollouts.rewards > 0) & (lengths > _group_mean(lengths, rollouts.group_size))  # (B,)


def _broadcast(advantages: Tensor, planning_mask: Tensor) -> Tensor:
    _check("advantages", advantages, rank=1, floating=True)
    _check_mask("planning_mask", planning_mask)
    if len(planning_mask) != len(advantages):
        raise ValueError(
            f"planning_mask has {len(planning_mask)} rows for {len(advantages)} advantages; "
            "both need one row per completion"
        )
    return advantages[:, None].expand(planning_mask.shape)  # (B, T)


def _group_mean(values: Tensor, group_size: int) -> Tensor:
    if group_size < 1 or len(values) % group_size:
        raise ValueError(f"{len(values)} completions do not split into groups of group_size={group_size}")
    means = values.view(-1, group_size).mean(dim=1)  # (B / G,)
    return means.repeat_interleave(group_size)  # (B,)


def _check(name: str, tensor: Tensor, *, rank: int, floating: bool = False) -> None:
    if not torch.is_tensor(tensor):
        raise ValueError(f"{name} must be a tensor of rank {rank}, got {type(tensor).__name__}")
    if tensor.ndim != rank:
        raise ValueError(f"{name} must have rank {rank}, got shape {tuple(tensor.shape)}")
    if floating and not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}; pass {name}.float()")


def _check_mask(name: str, mask: Tensor) -> None:
    _check(name, mask, rank=2)
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {mask.dtype}; pass {name}.bool()")


def check_alpha(alpha: float) -> None:
    """Raise ValueError for an alpha outside [0, 1)."""
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha={alpha!r} must lie in [0, 1): at 1 a failure has no blame left")


def _check_rows(**vectors: Tensor) -> None:
    sizes = {name: len(vector) for name, vector in vectors.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"one row per completion is needed everywhere, got {sizes}")
