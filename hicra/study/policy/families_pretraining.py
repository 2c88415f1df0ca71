"""The base policy of the families' world: a small Llama trained from scratch on worked solutions.

Skill first, habit after: a strategy that one solution in twenty-five takes would hardly be learnt from the
habit's own solutions. So the first stage draws strategies that mostly fit and steps that are mostly right.
The second, shorter one teaches how often each strategy is taken and how often a step slips.
"""

from __future__ import annotations

from pathlib import Path

from hicra.study.policy.sandbox_pretraining import (
    PAIRS_PER_ROW,
    fit,
    make_tokenizer,
    new_model,
    packed_rows,
    worked_examples,
)

from transformers import set_seed

from hicra.study.problems.families import Habits

SHAPE = dict(
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=256,
    tie_word_embeddings=True,
)
WIDTH = 320  # tokens of a packed training row
SKILL = Habits(hint=0.1, fit=14.0, slip=0.02)


def train_families_base(
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
    seed: `hicra train grpo --seed 903 --profile families --overrides '{"steps": 55}' --out FOLDER`.

    Bit for bit the same on the same machine with the same number of threads.
    """
    set_seed(seed)
    stages = (("skill", skill_steps, SKILL, 1.0), ("base", habit_steps, Habits(), 0.25))
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
