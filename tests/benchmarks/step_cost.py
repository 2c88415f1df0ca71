"""What a step of HICRA costs beside the same step of GRPO: `python -m tests.benchmarks.step_cost`.

Both trainers take their steps in turn, in one process, on the made world's base policy. The learning rate
is 0 and the seeds agree, so both sample the same completions: what differs is the planning mask and the
credit. One warm-up round is left out; the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hicra.study.policy import unsloth_models

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOTrainer

from hicra import Lexicon, PlanningTagger
from hicra.files import data_root
from hicra.study.problems.grading import grade
from hicra.study.profiles import get_profile
from hicra.study.training.cpu_step import CpuStepMixin
from hicra.study.training.plan import plan_run
from hicra.study.training.run import grpo_config
from hicra.trainer import HicraMixin


class _Stopwatch(TrainerCallback):
    """Seconds of every step, sampling included."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock, self.seconds = clock, []

    def on_step_begin(self, *args, **kwargs):
        self.started = self.clock()

    def on_step_end(self, *args, **kwargs):
        self.seconds.append(self.clock() - self.started)


class PlainTrainer(CpuStepMixin, GRPOTrainer):
    """GRPO with the study's own sampler and pass on a CPU."""


class HicraTrainer(HicraMixin, PlainTrainer):
    """The same with HICRA's credit and nothing else of the study."""


def verified(completions, answer, **_) -> list[float]:
    return [g.reward for g in grade(completions, answer)]


def round_of(trainer_class, lexicon: Lexicon, profile, seed: int) -> list[float]:
    """Seconds of each step of one short run."""
    model, tokenizer = unsloth_models.load_policy(data_root() / profile.base, lora_rank=0, seed=seed)
    extra = {}
    if trainer_class is HicraTrainer:
        extra = {"planning_tagger": PlanningTagger(lexicon, tokenizer), "alpha": profile.alpha}
    watch = _Stopwatch(time.process_time)  # on which other work on the machine weighs less
    with tempfile.TemporaryDirectory() as folder:
        trainer_class(
            model=model,
            processing_class=tokenizer,
            args=grpo_config(profile, "grpo", seed, Path(folder)),
            train_dataset=Dataset.from_list([task.row() for task in plan_run(profile, "grpo", seed).tasks]),
            reward_funcs=verified,
            callbacks=[watch],
            **extra,
        ).train()
    return watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    profile = replace(get_profile("families", steps=options.steps, checkpoint_every=1000), learning_rate=0.0)
    lexicon = Lexicon.load(profile.lexicon)
    pairs = []
    for seed in range(options.rounds + 1):
        order = [PlainTrainer, HicraTrainer][:: 1 if seed % 2 else -1]
        times = {c: round_of(c, lexicon, profile, seed) for c in order}
        if seed:  # round 0 warms up
            pairs += list(zip(times[PlainTrainer], times[HicraTrainer], strict=True))
    grpo, hicra = np.array(pairs).T  # (rounds * steps,)
    ratios = hicra / grpo
    draws = np.random.default_rng(0).choice(ratios, (2000, ratios.size))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    result = {
        "steps compared": int(ratios.size),
        "grpo seconds a step (median)": round(float(np.median(grpo)), 3),
        "hicra / grpo (median of pairs)": round(float(np.median(ratios)), 4),
        "95 % interval": [round(float(low), 4), round(float(high), 4)],
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
