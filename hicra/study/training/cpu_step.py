"""The study's own sampler, on a CPU or a GPU, and its own pass, on a CPU alone, in the place of TRL's.

`CpuStepMixin` overrides internal methods of TRL's GRPOTrainer for it, `_generate_single_turn` and
`_get_per_token_logps_and_entropies`; tests/test_cpu_step.py fails when TRL changes how they are called.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from hicra.study.policy.causal_attention import causal_attention
from hicra.study.policy.float32_products import linear_precision, products
from hicra.study.policy.llama_sampler import Completions, refusal, sample, sampled_by

import torch
from torch import Tensor
from torch.nn import functional

from hicra.batches import without_adapter
from hicra.dynamics.token_statistics import token_statistics
from hicra.study.training.cpu_pass import per_token
from hicra.trainer_checks import packs_left

SAMPLED = ("sampling_per_token_logps", "sampling_per_token_entropies")  # of a batch, (B, T) each
LONGEST = 1024  # tokens of a completion whose own pass holds attention's probabilities


class CpuStepMixin:
    """A GRPOTrainer that samples, and makes its pass, by the study's own code where that knows the model.

    The batch then holds the sampler's log-probabilities, by TRL's own name for them, and entropies. Loss,
    normaliser and metrics stay TRL's. `sampler` and `training_pass` hold the rule of when TRL's own methods
    are used; on a GPU its pass always is.
    """

    # What TRL's GRPOTrainer brings.
    model: Any
    args: Any
    accelerator: Any
    beta: float
    eos_token_ids: list[int]
    generation_config: Any
    tools: Any
    use_transformers_continuous_batching: bool
    use_vllm: bool
    _tokenizer: Any
    max_completion_length: int
    temperature: float
    _entropy_bonus_enabled: bool
    _sampled: Completions | None = None
    _inputs: dict[str, Tensor]

    @property
    def sampler(self) -> str:
        """What samples the completions: "own" (on a GPU "own on cuda"), "transformers" or "vllm"."""
        if self.use_vllm:
            return "vllm"
        if self.use_transformers_continuous_batching or self.tools:
            return "transformers"
        return sampled_by(self.model, self.generation_config)

    @property
    def training_pass(self) -> str:
        """What makes log-probabilities and gradients: "own", of models that the sampler knows, or "trl".

        It is TRL's where activations are computed anew, in mixed precision, for long completions and on
        Unsloth's trainer, whose loss has a pass of its own.
        """
        precise = not (self.args.bf16 or self.args.fp16)
        recomputed = without_adapter(self.model).is_gradient_checkpointing
        stored = not recomputed and self.max_completion_length <= LONGEST
        own = precise and stored and not packs_left(type(self)) and sampled_by(self.model) == "own"
        return "own" if own else "trl"

    @property
    def float32_products(self) -> str:
        """torch's precision of linear maps, where the sampler or the pass is our own; 32-bit in any case."""
        return linear_precision() if "own" in (self.sampler, self.training_pass) else "highest"

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, **kwargs):
        self._sampled = None
        if images or multimodal_fields or not self.sampler.startswith("own"):
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, **kwargs
            )
        self._sampled = sample(
            self.model,
            prompt_ids,
            max_new_tokens=self.max_completion_length,
            temperature=self.temperature,
            ends=self.eos_token_ids,
            pad=self._tokenizer.pad_token_id,
        )
        return self._sampled.token_ids(), None

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        if self._sampled is not None:
            more = batch["completion_ids"].shape[1] - self._sampled.ids.shape[1]  # TRL's, to a multiple
            values = (self._sampled.logps, self._sampled.entropies)
            batch |= {name: functional.pad(v, (0, more)) for name, v in zip(SAMPLED, values, strict=True)}
        return batch

    def training_step(self, *args, **kwargs):
        own = self.training_pass == "own"
        with products(linear_precision()) if own else nullcontext():  # of the backward pass too
            return super().training_step(*args, **kwargs)

    def _prepare_inputs(self, *args, **kwargs):
        with products("highest"):  # what is not our pass is slower by the other kernels
            return super()._prepare_inputs(*args, **kwargs)

    def compute_loss(self, model, inputs, *args, **kwargs):
        self._inputs = inputs
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        **more,
    ):
        core = without_adapter(self.accelerator.unwrap_model(model))
        pictures = any(value is not None for value in more.values())
        if compute_aux_loss or pictures or self.training_pass != "own" or refusal(core):
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **more,
            )
        skipped, values = self._without_gradient(attention_mask, logits_to_keep)  # (B,), 2 of (B, T)
        with causal_attention(core):
            logps, *entropies = per_token(model, input_ids, attention_mask, logits_to_keep, skipped, values)
        return logps, entropies[0] if compute_entropy else None, None

    def _without_gradient(self, mask: Tensor, width: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Rows that no gradient comes from, bool (B,), and the sampler's values, (B, T) each.

        They are those of advantage 0, where nothing else acts on them: no entropy bonus, no KL term, and
        the policy that sampled. With several processes all are kept, for each must make as many passes.
        """
        nothing = torch.zeros(len(mask), width)  # (B, T)
        skipped, values = torch.zeros(len(mask), dtype=torch.bool), (nothing, nothing)
        inputs = self._inputs if torch.is_grad_enabled() else {}
        bent = self._entropy_bonus_enabled or self.beta or "old_per_token_logps" in inputs
        if SAMPLED[1] in inputs and not bent and self.accelerator.num_processes == 1:
            skipped = (inputs["advantages"] == 0).view(len(mask), -1).all(1)  # (B,), of (B,) or (B, T)
            values = (inputs[SAMPLED[0]], inputs[SAMPLED[1]])
            if skipped.all():  # a gradient of 0 is not none: the optimizer moves on by its momentum
                skipped[mask.sum(1).argmin()] = False
        return skipped, values


def step_statistics(
    model, batch: dict[str, Tensor], *, temperature: float, rows: int
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token, both (B, T): the sampler's, or by a pass."""
    if SAMPLED[1] in batch:
        return batch[SAMPLED[0]], batch[SAMPLED[1]]
    return token_statistics(model, batch, temperature=temperature, rows=rows)
