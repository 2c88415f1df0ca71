"""The base policy of the families' world: a small Llama trained from scratch on worked solutions.

Skill first, habit after: a strategy that one solution in twenty-five takes would hardly be learnt from the
habit's own solutions. So the first stage draws strategies that mostly fit and steps that are mostly right.
The second, shorter one teaches how often each strategy is taken and how often a step slips.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hicra.study.problems.families import HABITS, SKILL
from hicra.study.problems.prompts import worked_pairs

PAD, EOS = "<pad>", "<eos>"
WIDTH = 320  # tokens of a packed training row
PAIRS_PER_ROW = 3  # about
SHAPE = dict(
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=256,
    tie_word_embeddings=True,
)


def train_base(
    out: Path,
    *,
    skill_steps: int = 1000,
    habit_steps: int = 250,
    batch_size: int = 32,
    learning_rate: float = 4e-3,
    seed: int = 0,
) -> None:
    """Train the base policy into `out/base`, by way of `out/skill`.

    The easier start that ships, `data/families/easy`, is what GRPO makes of the base in 55 steps of a pilot
    seed: `hicra train --arm grpo --seed 903 --profile families --overrides '{"steps": 55}' --out FOLDER`.

    Bit for bit the same on the same machine with the same number of threads.
    """
    set_seed(seed)
    stages = (("skill", skill_steps, SKILL, 1.0), ("base", habit_steps, HABITS, 0.25))
    tokenizer = model = None
    for stage, (name, steps, habits, pace) in enumerate(stages):
        pairs = worked_examples(PAIRS_PER_ROW * steps * batch_size, 2 * seed + stage, "families", habits)
        tokenizer = tokenizer or make_tokenizer([p + a for p, a in pairs[:20000]])
        model = model or new_model(tokenizer, SHAPE)
        rows = packed_rows(pairs, tokenizer, WIDTH)
        fit(
            model,
            tokenizer,
            rows,
            {steps: Path(out) / name},
            batch_size=batch_size,
            learning_rate=pace * learning_rate,
            seed=seed,
        )


def make_tokenizer(texts: list[str], vocab_size: int = 640) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`, every digit a token of its own."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" ?[0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=EOS, padding_side="left")


def worked_examples(n: int, seed: int, *world) -> list[tuple[str, str]]:
    """`n` (prompt, worked solution) pairs on training problems; `world` as of `worked_pairs`."""
    return [(p.prompt, text) for p, text in worked_pairs(n, seed, *world)]


def packed_rows(pairs: list[tuple[str, str]], tokenizer, width: int) -> list[dict]:
    """Whole (prompt, solution) pairs packed one after another into rows of `width` tokens.

    Positions restart with each pair, by which transformers keeps attention inside it. The loss falls
    on the solution alone: a problem's numbers are not predictable.
    """
    prompts = tokenizer([p for p, _ in pairs])["input_ids"]
    answers = tokenizer([a + EOS for _, a in pairs])["input_ids"]
    rows, ids, labels, positions = [], [], [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        n = len(prompt) + len(answer)
        if len(ids) + n > width:
            fill = width - len(ids)
            rows.append(
                {
                    "input_ids": ids + [tokenizer.pad_token_id] * fill,
                    "labels": labels + [-100] * fill,
                    "position_ids": positions + list(range(fill)),
                }
            )
            ids, labels, positions = [], [], []
        ids, positions = ids + prompt + answer, positions + list(range(n))
        labels = labels + [-100] * len(prompt) + answer
    return rows


class _SaveAt(TrainerCallback):
    """Saves weights and tokenizer as safetensors folders after the steps named in `folders`."""

    def __init__(self, folders: dict[int, Path], tokenizer) -> None:
        self.folders, self.tokenizer = folders, tokenizer

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if folder := self.folders.get(state.global_step):
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            note = {
                "steps": state.global_step,
                "batch_size": args.train_batch_size,
                "seed": args.seed,
            }
            (folder / "training.json").write_text(json.dumps(note, indent=1) + "\n")


def new_model(tokenizer, shape: dict) -> LlamaForCausalLM:
    """A Llama of this shape with random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            **shape,
        )
    )


def fit(
    model: LlamaForCausalLM,
    tokenizer,
    rows: list[dict],
    folders: dict[int, Path],
    *,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Train on packed rows until the last step of `folders`, which names where the policies are saved."""
    arguments = TrainingArguments(
        output_dir=str(folders[max(folders)].parent / "log"),
        per_device_train_batch_size=batch_size,
        max_steps=max(folders),
        learning_rate=learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=50,
        adam_beta2=0.98,
        weight_decay=0.01,
        logging_steps=25,
        max_grad_norm=1.0,
        save_strategy="no",
        report_to=[],
        seed=seed,
        disable_tqdm=True,
        use_cpu=True,
    )
    callbacks = [_SaveAt(folders, tokenizer)]
    Trainer(model=model, args=arguments, train_dataset=rows, callbacks=callbacks).train()
