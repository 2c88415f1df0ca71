"""HICRA is GRPO plus one change, and `HicraMixin` is that change.

It sits on TRL's GRPOTrainer (or the class Unsloth puts in its place); group statistics stay TRL's.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hicra.batches import cut_padding, has_pictures, own_tokens, positions_are_relative, taggable
from hicra.credit import align_to_packed, check_alpha, hicra_advantages
from hicra.planning.tagger import PlanningTagger
from hicra.trainer_checks import check_class, check_loss, check_settings, packs_left, warn_without_planning

if TYPE_CHECKING:
    from torch import Tensor


class HicraMixin:
    """GRPO with HICRA's credit: `class MyTrainer(HicraMixin, GRPOTrainer)`.

    The only change is that advantages (B,) become (B, T), raised by alpha * |A| on planning tokens
    (paper, section 4). It happens before TRL shuffles the batch, so groups and rows still agree. Beside it,
    each micro-batch is computed without the padding that only longer rows of the step need: same loss, same
    gradients.

    Raises HicraError, when the class or the trainer is made, for a trainer other than GRPOTrainer, for a loss
    that does not tell tokens apart, and where TRL's loss cannot run. Warns of rewards that are divided by a
    standard deviation and, once, of completions without a planning token.
    """

    # What TRL's GRPOTrainer brings.
    accelerator: Any
    args: Any
    model: Any
    processing_class: Any

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        check_class(cls, HicraMixin)

    def __init__(self, *args, planning_tagger: PlanningTagger, alpha: float = 0.2, **kwargs):
        check_alpha(alpha)
        settings = kwargs.get(
            "args", args[2] if len(args) > 2 else None
        )  # of (model, reward_funcs, args, ...)
        if settings is not None:
            check_settings(type(self), settings)  # before the trainer makes its folder
        super().__init__(*args, **kwargs)
        if settings is None:
            check_settings(type(self), self.args)
        self.planning_tagger, self.alpha = planning_tagger, alpha
        self._first_rollouts = self._first_loss = True

    @property
    def tokenizer(self):
        """The processing class, or its tokenizer where the model also takes pictures."""
        return getattr(self.processing_class, "tokenizer", self.processing_class)

    def planning_mask(self, batch: dict[str, Tensor], tagger: PlanningTagger | None = None) -> Tensor:
        """Planning tokens (B, T) among those that the policy wrote, by the trainer's tagger or another."""
        tag = tagger or self.planning_tagger
        mask = tag(batch["completion_ids"], taggable(batch, self.tokenizer.eos_token_id))  # (B, T)
        if self._first_rollouts and tag is self.planning_tagger:
            self._first_rollouts = False
            warn_without_planning(self.accelerator, mask, own_tokens(batch))
        return mask

    def credit(self, batch: dict[str, Tensor]) -> Tensor:
        """Per-token advantages (B, T) of a scored batch whose advantages are still (B,)."""
        return hicra_advantages(batch["advantages"], self.planning_mask(batch), self.alpha)  # (B, T)

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        batch["advantages"] = self.credit(batch)  # (B,) -> (B, T)
        return batch

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self._first_loss and not packs_left(type(self)):  # Unsloth's is known to the tests
            self._first_loss = False
            check_loss(self, partial(super().compute_loss, model), inputs)
        inputs = cut_padding(
            inputs, prompts=positions_are_relative(self.model), multiple=self.args.pad_to_multiple_of
        )
        # Unsloth's own trainer, which takes TRL's place on a GPU, packs a batch of text inside its loss.
        if packs_left(type(self)) and not has_pictures(inputs):
            inputs = {**inputs, "advantages": packed_advantages(inputs)}  # (B, T) -> (B, T + m)
        return super().compute_loss(model, inputs, *args, **kwargs)


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
