"""A step on a CPU: the study's own sampler in the place of TRL's generate.

`CpuStepMixin` overrides one internal method of TRL's GRPOTrainer for it, `_generate_single_turn`;
tests/test_cpu_step.py fails when TRL changes how it is called.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from hicra.dynamics.token_statistics import token_statistics
from hicra.study.policy.llama_sampler import Completions, refusal, sample

SAMPLED = ("sampling_per_token_logps", "sampling_per_token_entropies")  # of a batch, (B, T) each


class CpuStepMixin:
    """A GRPOTrainer that samples by `llama_sampler` wherever that knows the model, and by TRL elsewhere.

    The batch then holds the sampler's log-probabilities, by TRL's own name for them, and entropies.
    """

    # What TRL's GRPOTrainer brings.
    model: Any
    eos_token_ids: list[int]
    max_completion_length: int
    temperature: float
    _sampled: Completions | None = None

    @property
    def sampler(self) -> str:
        """What samples the completions: "own", "transformers" or "vllm"."""
        if self.use_vllm:
            return "vllm"
        aside = self.use_transformers_continuous_batching or self.tools
        return "transformers" if aside or refusal(self.model, self.generation_config) else "own"

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, **kwargs):
        self._sampled = None
        if images or multimodal_fields or self.sampler != "own":
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


def step_statistics(model, batch: dict[str, Tensor], *, temperature: float, rows: int) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token, both (B, T): the sampler's, or by a pass."""
    if SAMPLED[1] in batch:
        return batch[SAMPLED[0]], batch[SAMPLED[1]]
    return token_statistics(model, batch, temperature=temperature, rows=rows)
