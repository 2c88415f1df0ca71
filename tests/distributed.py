"""One step of HICRA on fixed rollouts, by as many processes as torch's launcher starts.

    python -m torch.distributed.run --nproc_per_node 2 -m tests.distributed OUT

Process r writes the advantages it trains on to OUT/r.pt. Its share of the batch splits a group, so they
are right only where group statistics cross processes.
"""

import os
import random
import sys
from pathlib import Path

from hicra.study.policy import unsloth_models

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from hicra import Lexicon, PlanningTagger
from hicra.files import data_root
from hicra.study.problems.families import Habits, problems, worked_solution
from hicra.study.problems.grading import grade
from hicra.study.training.cpu_step import CpuStepMixin
from hicra.study.training.process import certain_end
from hicra.study.training.study_trainer import _from_all
from hicra.trainer import HicraMixin

GROUP, PROMPTS = 4, 3  # 12 completions: 6 a process, one and a half groups


def fixed_rollouts(prompts, trainer):
    """TRL's interface for rollouts made elsewhere: the batch's i-th completion is always the same."""
    first = trainer.accelerator.process_index * len(prompts)
    world = {p.prompt: p for p in problems(PROMPTS, 0)}
    texts = [
        worked_solution(world[prompt], random.Random(first + i), Habits(hint=0.3)).text
        for i, prompt in enumerate(prompts)
    ]
    tokenizer = trainer.processing_class
    return {
        "prompt_ids": tokenizer(prompts)["input_ids"],
        "completion_ids": [ids + [tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]],
        "logprobs": None,
    }


class Recording(HicraMixin, CpuStepMixin, GRPOTrainer):
    def credit(self, batch):
        advantages = super().credit(batch)
        rows = [a[m.bool()] for a, m in zip(advantages, batch["completion_mask"], strict=True)]
        torch.save(rows, OUT / f"{self.accelerator.process_index}.pt")
        whole = _from_all(self.accelerator, batch["completion_mask"].bool())  # (W * B, longest T)
        torch.save(whole, OUT / f"mask{self.accelerator.process_index}.pt")
        return advantages


class KeepGradient(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.save(gradient, OUT / f"gradient{state.is_world_process_zero:d}.pt")


def verified(completions, answer, **_):
    return [g.reward for g in grade(completions, answer)]


if __name__ == "__main__":
    OUT = Path(sys.argv[1])
    model, tokenizer = unsloth_models.load_policy(data_root() / "families/base", lora_rank=0, seed=0)
    arguments = GRPOConfig(
        output_dir=str(OUT / "trainer"),
        per_device_train_batch_size=GROUP * PROMPTS // int(os.environ["WORLD_SIZE"]),
        num_generations=GROUP,
        max_completion_length=96,
        max_steps=1,
        scale_rewards="none",
        shuffle_dataset=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        ddp_backend="gloo",
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = Recording(
        model=model,
        processing_class=tokenizer,
        args=arguments,
        train_dataset=Dataset.from_list(
            [{"prompt": p.prompt, "answer": p.answer} for p in problems(PROMPTS, 0)]
        ),
        reward_funcs=verified,
        rollout_func=fixed_rollouts,
        callbacks=[KeepGradient()],
        planning_tagger=PlanningTagger(Lexicon.load("families"), tokenizer),
        alpha=0.2,
    )
    assert trainer.training_pass == "own"
    with certain_end(shared=int(os.environ["WORLD_SIZE"]) > 1):
        trainer.train()
        trainer.accelerator.wait_for_everyone()
