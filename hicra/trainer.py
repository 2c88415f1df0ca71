"""HICRA is GRPO plus one change, and `HicraMixin` is that change.

It sits on TRL's GRPOTrainer (or the class Unsloth puts in its place); group statistics stay TRL's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hicra.credit import align_to_packed, hicra_advantages
from hicra.planning.tagger import PlanningTagger

if TYPE_CHECKING:
    from torch import Tensor


class HicraMixin:
    """GRPO with HICRA's credit: `class MyTrainer(HicraMixin, GRPOTrainer)`.

    The only change is that advantages (B,) become (B, T), raised by alpha * |A| on planning tokens
    (paper, section 4). It happens before TRL shuffles the batch, so groups and rows still agree.
    """

    def __init__(self, *args, planning_tagger: PlanningTagger, alpha: float = 0.2, **kwargs):
        super().__init__(*args, **kwargs)
        self.planning_tagger, self.alpha = planning_tagger, alpha

    def credit(self, batch: dict[str, Tensor]) -> Tensor:
        """Per-token advantages (B, T) of a scored batch whose advantages are still (B,)."""
        mask = self.planning_tagger(batch["completion_ids"], batch["completion_mask"])  # (B, T)
        return hicra_advantages(batch["advantages"], mask, self.alpha)  # (B, T)

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        batch["advantages"] = self.credit(batch)  # (B,) -> (B, T)
        return batch

    def compute_loss(self, model, inputs, *args, **kwargs):
        # Unsloth's own trainer, which takes TRL's place on a GPU, packs the batch inside its loss.
        if packs_left(type(self)):
            inputs = {**inputs, "advantages": packed_advantages(inputs)}  # (B, T) -> (B, T + m)
        return super().compute_loss(model, inputs, *args, **kwargs)


def packs_left(trainer_class: type) -> bool:
    """Whether the loss is Unsloth's: its generated class stands among the trainer's ancestors."""
    return any(parent.__name__ == "UnslothGRPOTrainer" for parent in trainer_class.__mro__)


def packed_advantages(inputs: dict[str, Tensor]) -> Tensor:
    """The batch's advantages (B, T) where Unsloth's loss looks for them, (B, T + m).

    m is chosen as unsloth_zoo's grpo_accumulated_loss does: from the width of the old or the reference
    log-probabilities, made for the whole generated batch, else from this micro-batch.
    """
    values, prompt_mask = inputs["advantages"], inputs["prompt_mask"]  # (B, T), (B, P)
    left_pad = (prompt_mask == 0).sum(1)  # (B,)
    widths = [inputs.get(k) for k in ("old_per_token_logps", "ref_per_token_logps")]
    made = next((w.shape[1] for w in widths if w is not None), None)
    return align_to_packed(values, left_pad, made or values.shape[1] + int(left_pad.max()))
