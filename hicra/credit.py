"""Credit: from one advantage per completion to one advantage per token.

Every function is pure torch. Rows of a batch are completions in the order in which they were
sampled, so that the `group_size` completions of one prompt are adjacent; credit is assigned before
any shuffle, because a shuffled micro-batch no longer knows its groups.

Shapes: B completions (a multiple of the group size G), T completion tokens with padding.
A wrong shape, rank or dtype is a ValueError that names the argument: a (B,) tensor that silently
broadcasts along the wrong axis of a (B, T) one trains something else without a sign of it.
"""

import math
from fractions import Fraction

from hicra.errors import MissingExtraError

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("hicra.credit", "torch", "trl") from error
from torch import Tensor

ARMS = ("grpo", "hicra", "high_entropy", "symmetric", "gated")


def group_advantage(rewards: Tensor, group_size: int) -> Tensor:
    """GRPO advantage A_i = R_i - mean of the group's rewards, (B,) -> (B,), method section 3.

    There is no division by the group's standard deviation. Raises ValueError when `rewards` is not
    a float vector or its length is not a multiple of `group_size` (at least 2).
    """
    _check("rewards", rewards, rank=1, floating=True)
    _check_groups(rewards.shape[0], group_size)
    return rewards - _group_mean(rewards, group_size)  # (B,)


def hicra_advantages(advantages: Tensor, planning_mask: Tensor, alpha: float) -> Tensor:
    """HICRA: A_i + alpha * |A_i| on planning tokens, A_i elsewhere; (B,), (B, T) -> (B, T).

    A planning token gains credit in a success, A(1 + alpha), and is blamed less in a failure,
    A(1 - alpha). `alpha=0` equals GRPO's broadcast bit for bit. Raises ValueError when `alpha` is
    outside [0, 1) or a shape or dtype is wrong.
    """
    _check_alpha(alpha)
    per_token = _broadcast(advantages, planning_mask, "planning_mask")  # (B, T)
    return _amplify(per_token, alpha * per_token.abs(), planning_mask)  # HICRA eq. of section 3


def symmetric_advantages(advantages: Tensor, planning_mask: Tensor, alpha: float) -> Tensor:
    """Ours, for comparison: A_i * (1 + alpha) on planning tokens whatever the sign of A_i.

    Shapes and errors are those of `hicra_advantages`. The two differ only in failures, where this
    one blames planning tokens more instead of less.
    """
    _check_alpha(alpha)
    per_token = _broadcast(advantages, planning_mask, "planning_mask")  # (B, T)
    return _amplify(per_token, alpha * per_token, planning_mask)


def high_entropy_advantages(
    advantages: Tensor,
    entropies: Tensor,
    completion_mask: Tensor,
    alpha: float,
    share: float = 0.2,
) -> Tensor:
    """High-Entropy Advantage (Table 1): HICRA's amplification on uncertain tokens.

    The amplified tokens are the `share` of the batch's completion tokens with the highest
    next-token entropy; `entropies` is (B, T) in nats, its values off `completion_mask` are ignored.
    Raises what `hicra_advantages` and `top_share` raise.
    """
    return hicra_advantages(advantages, top_share(entropies, completion_mask, share), alpha)


def gated_advantages(
    advantages: Tensor,
    planning_mask: Tensor,
    rewards: Tensor,
    lengths: Tensor,
    group_size: int,
    alpha: float,
) -> Tensor:
    """Second-hand variant: HICRA only in correct responses longer than their group's mean.

    Not in the paper; reported by a third party from a released recipe, hence never a default.
    `rewards` and `lengths` (tokens) are (B,); a response counts as correct when its reward is
    positive. Raises ValueError as `hicra_advantages` and `group_advantage` do.
    """
    _check("rewards", rewards, rank=1, floating=True)
    _check("lengths", lengths, rank=1)
    _check_groups(lengths.shape[0], group_size)
    _check_rows(rewards=rewards, lengths=lengths, advantages=advantages)
    _check_mask("planning_mask", planning_mask)
    tokens = lengths.to(torch.float64)  # (B,) exact, so that equal lengths never look "longer"
    gate = (rewards > 0) & (tokens > _group_mean(tokens, group_size))  # (B,)
    return hicra_advantages(advantages, planning_mask & gate[:, None], alpha)  # (B, T)


def credit(
    arm: str,
    advantages: Tensor,
    *,
    planning_mask: Tensor,
    entropies: Tensor | None,
    completion_mask: Tensor,
    rewards: Tensor,
    group_size: int,
    alpha: float,
    high_entropy_share: float = 0.2,
) -> Tensor:
    """Per-token advantages (B, T) of one arm, from group advantages (B,).

    Placebo lexicons are "hicra" with another mask, and Entropy Regularization is "grpo" with a
    bonus in the loss, so neither is an arm here. Only "high_entropy" reads `entropies` and
    `high_entropy_share`.
    Raises ValueError for an unknown arm and whatever the arm's function raises.
    """
    if arm == "grpo":
        return _broadcast(advantages, planning_mask, "planning_mask").clone()  # (B, T)
    if arm == "hicra":
        return hicra_advantages(advantages, planning_mask, alpha)
    if arm == "symmetric":
        return symmetric_advantages(advantages, planning_mask, alpha)
    if arm == "high_entropy":
        return high_entropy_advantages(
            advantages,
            entropies,  # type: ignore[arg-type]  # None is refused there
            completion_mask,
            alpha,
            high_entropy_share,
        )
    if arm == "gated":
        lengths = completion_mask.sum(dim=1)  # (B,)
        return gated_advantages(advantages, planning_mask, rewards, lengths, group_size, alpha)
    raise ValueError(f"arm={arm!r} is unknown; use one of {', '.join(ARMS)}")


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


def _broadcast(advantages: Tensor, mask: Tensor, mask_name: str) -> Tensor:
    _check("advantages", advantages, rank=1, floating=True)
    _check_mask(mask_name, mask)
    if mask.shape[0] != advantages.shape[0]:
        raise ValueError(
            f"{mask_name} has {mask.shape[0]} rows for {advantages.shape[0]} advantages; "
            "both need one row per completion"
        )
    return advantages[:, None].expand(mask.shape)  # (B, T)


def _group_mean(values: Tensor, group_size: int) -> Tensor:
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


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha={alpha!r} must lie in [0, 1): at 1 a failure has no blame left")


def _check_groups(rows: int, group_size: int) -> None:
    if group_size < 2:
        raise ValueError(f"group_size={group_size} must be at least 2: a lone completion has A = 0")
    if rows % group_size:
        raise ValueError(f"{rows} completions do not split into groups of group_size={group_size}")


def _check_rows(**vectors: Tensor) -> None:
    sizes = {name: len(vector) for name, vector in vectors.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"one row per completion is needed everywhere, got {sizes}")
