"""Loss and gradients of a HICRA step on a fixed batch, by Unsloth's trainer or by plain TRL and PEFT.

    python -m tests.parity unsloth|trl|exact MODEL OUT [LENGTH]

"exact" is "trl" in 32 bit.

In passes of 4, 2 and 1 rows, with and without log-probabilities of the old policy, and with an entropy bonus.
Writes the losses and the adapter's gradients to OUT; with LENGTH, what one row of so many tokens costs. On a
GPU the two differ in everything but the numbers. Without one TRL's loss needs Unsloth's CPU patch, so there
"trl" differs in the loading of the model alone.
"""

import sys
import time
from pathlib import Path

import torch

from tests.adapter import draw_adapter
from tests.gpu import card
from tests.gpu.card import GPU

ENGINE, MODEL, OUT = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
LENGTH = int(sys.argv[4]) if len(sys.argv) > 4 else 0
DTYPE = "float32" if ENGINE == "exact" else card.DTYPE
if ENGINE == "unsloth" or not GPU:
    from hicra.study.policy import unsloth_models

from datasets import Dataset  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from hicra import Lexicon, PlanningTagger  # noqa: E402
from hicra.dynamics.token_statistics import token_statistics  # noqa: E402
from hicra.trainer import HicraMixin  # noqa: E402

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPTS = ["What is two plus two?", "Name a colour.", "Why is the sky blue, and since when?", "Go."]
COMPLETIONS = [
    "Let me check. Two and two make four.",
    "We know that red is one.",
    "Wait, let us think step by step about light",  # truncated: no end
    "Let me try another way.",
]


def load():
    if ENGINE == "unsloth":
        size = {"max_length": LENGTH, "gradient_checkpointing": True} if LENGTH else {}
        return unsloth_models.load_policy(MODEL, lora_rank=8, seed=0, dtype=DTYPE, **size)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=getattr(torch, DTYPE))
    lora = LoraConfig(r=8, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM")
    return get_peft_model(model, lora), AutoTokenizer.from_pretrained(MODEL, padding_side="left")


def fixed_batch(tokenizer) -> dict[str, torch.Tensor]:
    # The side is named: Unsloth turns the tokenizer's own while it trains.
    left = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")  # (B, P)
    ends = [tokenizer.eos_token if i != 2 else "" for i in range(len(COMPLETIONS))]
    texts = [text + end for text, end in zip(COMPLETIONS, ends, strict=True)]
    right = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")  # (B, T)
    batch = {
        "prompt_ids": left["input_ids"],
        "prompt_mask": left["attention_mask"],
        "completion_ids": right["input_ids"],
        "completion_mask": right["attention_mask"],
        "advantages": torch.tensor([0.75, -0.25, -0.25, -0.25]),  # (B,)
    }
    if LENGTH:  # of the same text again and again
        width = LENGTH - batch["prompt_ids"].shape[1]
        batch["completion_ids"] = batch["completion_ids"][:, :5].repeat(1, -(-width // 5))[:, :width]
        batch["completion_mask"] = torch.ones_like(batch["completion_ids"])
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    return batch


class FixedBatch:
    """In the place of generation and rewards; with log-probabilities of the old policy where `with_old`."""

    with_old = False

    def _generate_and_score_completions(self, inputs):
        batch = fixed_batch(self.processing_class)
        batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
        return batch | {"old_per_token_logps": self._old(batch)} if self.with_old else batch

    @torch.no_grad()
    def _old(self, batch):
        """As the trainer makes them itself: (B, T), or Unsloth's (B, T + m)."""
        ids, mask = (
            torch.cat([batch[f"prompt_{n}"], batch[f"completion_{n}"]], 1) for n in ("ids", "mask")
        )  # (B, P + T)
        width = batch["completion_ids"].shape[1]
        return self._get_per_token_logps_and_entropies(self.model, ids, mask, width)[0]


class Trainer(HicraMixin, FixedBatch, GRPOTrainer):
    """HICRA on the fixed batch."""


class Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        named = {n: p.grad.float().cpu() for n, p in model.named_parameters() if p.grad is not None}
        self.found = {n: g for n, g in named.items() if "lora_" in n}


def step(model, tokenizer, rows: int, with_old: bool = False, entropy_coef: float = 0.0) -> dict:
    """Loss and gradients of one step in passes of `rows` rows."""
    draw_adapter(model)
    gradients = Gradients()
    arguments = GRPOConfig(
        output_dir=str(OUT.parent / "trainer"),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=len(PROMPTS) // rows,
        num_generations=len(PROMPTS),
        max_completion_length=32,
        entropy_coef=entropy_coef,
        max_steps=1,
        optim="adamw_torch",  # Unsloth's default on a GPU is another
        max_grad_norm=1e9,  # gradients as they are, but without the loss scale of float16
        scale_rewards="none",
        loss_type="dapo",
        beta=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=not GPU,
        bf16=DTYPE == "bfloat16",
        fp16=DTYPE == "float16",
        gradient_checkpointing=False,
    )
    trainer = Trainer(
        model=model,
        processing_class=tokenizer,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": p} for p in PROMPTS]),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        planning_tagger=PlanningTagger(Lexicon.load("listing1"), tokenizer),
        alpha=0.2,
        callbacks=[gradients],
    )
    trainer.with_old = with_old
    trainer.train()
    [loss] = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"loss": loss, "gradients": gradients.found}


def all_steps(model, tokenizer) -> dict:
    found = {(rows, old): step(model, tokenizer, rows, old) for rows in (4, 2, 1) for old in (False, True)}
    bonus = step(model, tokenizer, 4, entropy_coef=1.0)["loss"] - found[4, False]["loss"]
    draw_adapter(model)
    batch = {n: v.to(model.device) for n, v in fixed_batch(tokenizer).items()}
    entropies = token_statistics(model, batch, temperature=1.0)[1][batch["completion_mask"].bool()]  # (N,)
    return {
        "trainer": GRPOTrainer.__name__,
        "steps": found,
        "bonus": bonus,
        "entropy": entropies.mean().item(),
    }


def one_row(model, tokenizer) -> dict:
    """Seconds of the scoring pass and of the step over a row of LENGTH tokens, a row at a time, and the peak."""
    batch = {n: v.to(model.device) for n, v in fixed_batch(tokenizer).items()}
    started = time.monotonic()
    token_statistics(model, batch, temperature=1.0, rows=1)
    scored = time.monotonic()
    loss = step(model, tokenizer, 1)["loss"]
    stepped, rows = time.monotonic(), len(batch["prompt_ids"])
    return {
        "loss": loss,
        "score_seconds": (scored - started) / rows,
        "step_seconds": (stepped - scored) / rows,
        "peak_bytes": torch.cuda.max_memory_allocated() if GPU else 0,
    }


if __name__ == "__main__":
    model, tokenizer = load()
    torch.save(one_row(model, tokenizer) if LENGTH else all_steps(model, tokenizer), OUT)
