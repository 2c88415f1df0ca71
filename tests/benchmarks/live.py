"""What live dynamics cost of a TRL step in the made world: `python -m tests.benchmarks.live [--steps 10]`.

The share of each step's time that the text metrics take, and that of the token metrics with their own forward
pass over the batch. The first step is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from hicra.study.policy.base_models import load_base

import numpy as np
from datasets import Dataset
from trl import GRPOTrainer

from hicra.dynamics.live import DynamicsMixin
from hicra.study.profiles import get_profile
from hicra.study.training.plan import plan_run
from hicra.study.training.run import grpo_config
from tests.benchmarks.step_cost import _Stopwatch, verified


class Watched(DynamicsMixin, GRPOTrainer):
    """Keeps how long the metrics of each step took."""

    def _dynamics(self, batch):
        started = time.perf_counter()
        found = super()._dynamics(batch)
        self.took = [*getattr(self, "took", []), time.perf_counter() - started]
        self.passes = [*getattr(self, "passes", []), found["token_metrics_seconds"]]
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    profile = get_profile("families", steps=parser.parse_args().steps)
    model, tokenizer = load_base(profile, lora_rank=0, seed=0)
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Watched(
            model=model,
            processing_class=tokenizer,
            args=grpo_config(profile, "grpo", 0, Path(folder)),
            train_dataset=Dataset.from_list([task.row() for task in plan_run(profile, "grpo", 0).tasks]),
            reward_funcs=verified,
            dynamics_lexicon=profile.lexicon,
            token_metrics=True,
            callbacks=[watch],
        )
        trainer.train()
    whole, took, passes = (np.array(v[1:]) for v in (watch.seconds, trainer.took, trainer.passes))
    shares = {"text metrics": (took - passes) / (whole - passes), "token metrics": passes / (whole - passes)}
    result = {name: f"{np.median(v):.4f} [{v.min():.4f}, {v.max():.4f}]" for name, v in shares.items()}
    print(json.dumps({"share of a step": result, "steps": len(whole), "cores": os.cpu_count()}, indent=1))


if __name__ == "__main__":
    main()
