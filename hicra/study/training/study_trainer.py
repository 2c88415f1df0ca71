"""`HicraMixin` with what the study needs on top: the comparison arms, and a record of the dynamics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from hicra.batches import own_texts, own_tokens
from hicra.credit import ARMS, Rollouts, grpo
from hicra.dynamics.live import DynamicsMixin
from hicra.planning.tagger import PlanningTagger
from hicra.study.record.checkpoints import seal
from hicra.study.training.gradient_norms import class_gradient_norms
from hicra.study.training.guard import unchanged
from hicra.study.training.plan import RunPlan
from hicra.study.training.recorder import Recorder
from hicra.study.training.reward import VerifiedAnswer
from hicra.study.training.step_row import Tokens, add_rows, rollout_rows, step_row, without_words
from hicra.trainer import HicraMixin

NORMS_EVERY = 10  # steps; two more backward passes


class StudyMixin(DynamicsMixin, HicraMixin):
    """HicraMixin with any arm's credit, a record of every step's rollouts, and the dynamics in TRL's logs.

    `planning_tagger` marks what is credited, `observed_tagger` what the record calls planning: so arms
    that credit other tokens are still measured alike.
    """

    _inputs: dict[str, Tensor] | None = None  # the pass's, where CpuStepMixin keeps them

    def __init__(
        self,
        *args,
        plan: RunPlan,
        observed_tagger: PlanningTagger,
        statistics: Callable[..., tuple[Tensor, Tensor]],
        reward: VerifiedAnswer,
        recorder: Recorder,
        **kwargs,
    ):
        super().__init__(
            *args,
            reward_funcs=reward,
            alpha=plan.profile.alpha,
            dynamics_lexicon=plan.observed,
            token_metrics=True,
            **kwargs,
        )
        self.plan, self.observed_tagger, self.statistics = plan, observed_tagger, statistics
        self.reward, self.recorder = reward, recorder

    def credit(self, batch: dict[str, Tensor]) -> Tensor:
        credited = self.planning_mask(batch)  # (B, T)
        planning = self.planning_mask(batch, self.observed_tagger)  # (B, T)
        logps, entropies = self._scored = self.statistics(self.model, batch)  # (B, T), (B, T)
        everywhere = partial(_from_all, self.accelerator)  # the top share is one of all processes' tokens
        rollouts = Rollouts(
            advantages=everywhere(batch["advantages"]),  # (W * B,), W processes
            planning_mask=everywhere(credited),  # (W * B, longest T)
            completion_mask=everywhere(own_tokens(batch)),
            entropies=everywhere(entropies),
            rewards=everywhere(self.reward.graded.rewards.to(batch["advantages"])),
            group_size=self.num_generations,
            high_entropy_share=self.plan.profile.high_entropy_share,
            weight=self._weight(),
        )
        advantages = ARMS[self.plan.arm](rollouts, self.alpha)  # (W * B, longest T)
        first, width = self.accelerator.process_index * len(credited), credited.shape[1]
        advantages = advantages[first : first + len(credited), :width]  # (B, T)
        tokens = Tokens(
            batch["completion_ids"],
            own_tokens(batch),
            planning,
            logps,
            entropies,
            plain=batch["advantages"],
            credited=advantages,
        )
        self._record(tokens, own_texts(batch, self.reward.graded.texts, self.tokenizer))
        batch |= {"plain_advantages": batch["advantages"], "observed_planning": planning}  # for _norms
        return advantages

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        made = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._inputs and torch.is_grad_enabled() and self.state.global_step % NORMS_EVERY == 0:
            self._norms(made[0], self._inputs)
        return made

    def _norms(self, logps: Tensor, batch: dict[str, Tensor]) -> None:
        """Record the gradient's norms by class, where one pass of one process holds the whole step."""
        if self.args.gradient_accumulation_steps == self.accelerator.num_processes == 1:
            plain, planning = batch["plain_advantages"], batch["observed_planning"]  # (B,), (B, T)
            self.recorder.row |= class_gradient_norms(
                self.model.parameters(), logps, plain, planning, own_tokens(batch)
            )

    def _weight(self) -> float | None:
        """Of planning credit in this step, for the arms that have one."""
        weights = self.plan.profile.weights
        return weights[self.state.global_step % len(weights)] if weights else None

    def token_statistics(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self._scored  # the batch is the one that was just credited

    def _record(self, tokens: Tokens, texts: list[str]) -> None:
        """The step's rollouts, of all processes in the row, of the first one in the sample that is kept."""
        step, graded, plan = self.state.global_step, self.reward.graded, self.plan
        own = step_row(step, graded, tokens, texts, finder=self.gram_finder, group_size=self.num_generations)
        row = without_words(add_rows(gather_object([own])))
        kept = rollout_rows(step, graded, tokens, self.tokenizer, plan.profile.rollouts_kept)
        changes = step == 0 and ARMS[plan.arm] is not grpo and self.alpha > 0
        self.recorder.open_step(row, graded, kept, unchanged(row, plan.arm) if changes else "")


def _from_all(accelerator, values: Tensor) -> Tensor:
    """The rows of all processes in order, (B, ...) -> (W * B, ...), padded on the right with zeros."""
    if values.dtype == torch.bool:  # padding would make whole numbers of it, in some processes alone
        return _from_all(accelerator, values.to(torch.uint8)).bool()
    if values.ndim > 1:
        values = accelerator.pad_across_processes(values, dim=1)
    return accelerator.gather(values)


class RecordCallback(TrainerCallback):
    """Completes a step's record with the trainer's own numbers, and evaluates on schedule."""

    def __init__(self, recorder: Recorder, evaluate, every: int) -> None:
        self.recorder, self.evaluate, self.every = recorder, evaluate, every

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0 and state.is_world_process_zero:
            self.recorder.add_evaluation(0, self.evaluate())

    def on_log(self, args, state, control, logs=None, optimizer=None, **kwargs):
        if "loss" not in logs:
            return
        self.recorder.close_step(logs, skipped=getattr(optimizer, "step_was_skipped", False))
        # Only now: weights that are not finite would end an evaluation before the guard is heard.
        due = state.global_step % self.every == 0 or state.global_step == state.max_steps
        if due and state.is_world_process_zero:
            self.recorder.add_evaluation(state.global_step, self.evaluate())


class SealCallback(TrainerCallback):
    """Seals a checkpoint when every process has written its part of it."""

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
