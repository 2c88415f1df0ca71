"""How much of a step's gradient comes from planning tokens: what Adam and a shared trunk weigh credit by."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def class_gradient_norms(
    parameters: Iterable[Tensor], logps: Tensor, advantages: Tensor, planning: Tensor, done: Tensor
) -> dict[str, float]:
    """Norms of GRPO's gradient on planning and on execution tokens, before any update of the batch.

    `logps` (B, T) still have their graph, `advantages` (B,) are GRPO's, `planning` and `done` (B, T) bool.
    The loss is the mean over the N tokens of `done`. With p and e the two norms, s = p^2 / (p^2 + e^2) is
    planning's share of the squared gradient (docs/equation.md). The graph is kept.
    """
    parameters = [p for p in parameters if p.requires_grad]
    per_token = -advantages[:, None] * logps / done.sum()  # (B, T)

    def norm(mask: Tensor) -> float:
        loss = per_token[mask & done].sum()
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return torch.cat([g.flatten() for g in gradients if g is not None]).norm().item()

    return {"grad_norm_planning": norm(planning), "grad_norm_execution": norm(~planning)}
