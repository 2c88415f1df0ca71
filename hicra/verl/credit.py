"""Credit on verl's tensors: what a recipe without `HicraTrainer` would call itself."""

from __future__ import annotations

from torch import Tensor

from hicra.credit import ARMS, Rollouts


def token_credit(advantages: Tensor, planning_mask: Tensor, *, alpha: float, arm: str = "hicra") -> Tensor:
    """verl's GRPO advantages (B, T) with the credit of an arm of `settings.ROW_ARMS`, (B, T).

    `advantages` hold A_i on every token that the policy wrote in completion i and 0 elsewhere, as verl's GRPO
    leaves them; what is 0 stays 0. `planning_mask` is bool (B, T). Rows may stand in any order. Raises
    ValueError as `hicra_advantages` does.
    """
    strongest = advantages.abs().argmax(1, keepdim=True)  # (B, 1)
    rollouts = Rollouts(
        advantages=advantages.gather(1, strongest).squeeze(1),  # (B,)
        planning_mask=planning_mask,
        completion_mask=advantages != 0,
        entropies=advantages.new_full(advantages.shape, float("nan")),  # unknown: no arm that reads them runs
        rewards=advantages.new_full(advantages.shape[:1], float("nan")),
        group_size=1,
    )
    return ARMS[arm](rollouts, alpha).where(advantages != 0, advantages)  # (B, T)
