"""A step by the study's own sampler and pass against the same step by TRL, whole and by part.

python -m tests.benchmarks.step_speed families --pairs 6 [--side-by-side 2]

The ways take their steps in turn, in one process of one thread, on the same prompts; the learning rate is 0.
One round warms up and is left out; ratios are taken pair by pair. Seconds are the processor's, on which other
work on the machine weighs less. `--side-by-side` runs as many copies at once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

from hicra.study.policy import unsloth_models  # noqa: F401  (before torch)
from hicra.study.policy.float32_products import linear_precision, products

import numpy as np
import torch
from transformers import TrainerCallback

from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunFolder
from hicra.study.training import run as training
from hicra.study.training.cpu_step import CpuStepMixin
from hicra.study.training.plan import plan_run
from hicra.study.training.study_trainer import RecordCallback

# What makes a step, by way: the sampler, the pass.
WAYS = {
    "TRL's": ("transformers", "trl"),
    "own sampler": ("own", "trl"),
    "own pass": ("transformers", "own"),
    "both": ("own", "own"),
}
PARTS = {
    "_generate_single_turn": "sampling",
    "_get_per_token_logps_and_entropies": "forward",
    "_calculate_rewards": "rewards",
    "credit": "masks, credit",
    "_record": "record",
    "_dynamics": "live dynamics",
    "compute_loss": "loss, metrics",
}


class Clock(TrainerCallback):
    """Sets each step's way, and takes its seconds by part; a part's are without those of the parts inside."""

    def __init__(self, trainer, ways: list[str]) -> None:
        self.trainer, self.ways, self.inside = trainer, ways, []
        self.seconds: dict[str, list[dict[str, float]]] = defaultdict(list)
        for name, part in PARTS.items():
            self.wrap(trainer, name, part)
        self.wrap(trainer, "statistics", "scoring pass")
        self.wrap(trainer.accelerator, "backward", "backward")

    def wrap(self, owner, name: str, part: str) -> None:
        inner = getattr(owner, name)

        def timed(*args, **kwargs):
            self.inside.append(0.0)
            started = time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                took = time.process_time() - started
                self.step[part] += took - self.inside.pop()
                if self.inside:
                    self.inside[-1] += took

        setattr(owner, name, timed)

    def on_step_begin(self, args, state, control, **kwargs):
        turn, place = divmod(state.global_step, len(self.ways))
        self.way = (self.ways if turn % 2 else self.ways[::-1])[place]
        sampler, own_pass = WAYS[self.way]
        self.patches = ExitStack()
        for name, value in (("sampler", sampler), ("training_pass", own_pass)):
            if value != "own":
                self.patches.enter_context(mock.patch.object(CpuStepMixin, name, value))
        torch.manual_seed(turn)
        self.step, self.started = defaultdict(float), time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.patches.close()
        whole = time.process_time() - self.started
        self.step["rest"] = whole - sum(self.step.values())
        self.seconds[self.way].append({"whole step": whole, **self.step})


@contextmanager
def study_trainer(name: str, arm: str, rounds: int, ways: int, overrides: dict) -> Iterator:
    """The study's trainer, to take `ways` steps on the prompts of each of `rounds`."""
    profile = get_profile(name, steps=rounds, checkpoint_every=10_000, **overrides)
    plan = plan_run(replace(profile, learning_rate=0.0), arm, 0)
    n = profile.prompts_per_step
    repeated = [plan.tasks[i : i + n] for i in range(0, len(plan.tasks), n) for _ in range(ways)]
    long = replace(plan, profile=replace(plan.profile, steps=rounds * ways), tasks=tuple(sum(repeated, ())))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        run.open(plan.settings, condition=arm, world=profile.world)
        yield training._make_trainer(long, run)


def measure(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    overrides = {"warm_start_steps": options.warm_start} if options.profile == "smollm2" else {}
    ways = options.ways.split(",") if options.ways else list(WAYS)
    with study_trainer(options.profile, options.arm, options.pairs + 1, len(ways), overrides) as trainer:
        trainer.callback_handler.callbacks = [
            c for c in trainer.callback_handler.callbacks if not isinstance(c, RecordCallback)
        ]
        clock = Clock(trainer, ways)
        trainer.add_callback(clock)
        trainer.train()
    return {way: clock.seconds[way][1:] for way in ways}


def table(seconds: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Markdown: median seconds by part and way, and the ratios of the whole step to TRL's."""
    parts = sorted(
        {p for steps in seconds.values() for s in steps for p in s}, key=lambda p: -median(seconds, p)
    )
    yield f"| part, median s of {len(next(iter(seconds.values())))} steps | {' | '.join(seconds)} |"
    yield "|---" * (len(seconds) + 1) + "|"
    for part in parts:
        found = (np.median([step.get(part, 0.0) for step in steps]) for steps in seconds.values())
        yield f"| {part} | {' | '.join(f'{v:.3f}' for v in found)} |"
    first = np.array([step["whole step"] for step in next(iter(seconds.values()))])
    ratios = (first / np.array([step["whole step"] for step in steps]) for steps in seconds.values())
    told = (f"{np.median(r):.2f} [{r.min():.2f}, {r.max():.2f}]" for r in ratios)
    yield f"| times as fast: median of pairs [min, max] | {' | '.join(told)} |"


def peak() -> str:
    """What this machine's products reach, by which a step's seconds can be judged."""
    left, right = torch.randn(2048, 512), torch.randn(512, 1024)
    found = []
    for precision in ("highest", "medium"):
        with products(precision):
            left @ right
            started = time.process_time()
            for _ in range(20):
                left @ right
        gigaflops = 20 * 2 * 2048 * 512 * 1024 / (time.process_time() - started) / 1e9
        found.append(f"{gigaflops:.0f} GFLOP/s at {precision!r}")
    return f"32-bit products, one thread: {', '.join(found)}; used for linear maps: {linear_precision()!r}"


def median(seconds, part: str) -> float:
    return float(np.median([step.get(part, 0.0) for step in next(iter(seconds.values()))]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", choices=("families", "smollm2"))
    parser.add_argument("--arm", default="hicra")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--ways", default="", help="comma-separated, TRL's first; all by default")
    parser.add_argument("--warm-start", type=int, default=240, help="steps of SmolLM2's warm start")
    parser.add_argument("--side-by-side", type=int, default=1)
    options = parser.parse_args()
    if options.side_by_side == 1:
        torch.set_num_threads(1)
        print(peak())
        print("\n".join(table(measure(options))))
        return
    command = [sys.executable, "-m", "tests.benchmarks.step_speed", *sys.argv[1:], "--side-by-side", "1"]
    for started in [subprocess.Popen(command) for _ in range(options.side_by_side)]:
        started.wait()


if __name__ == "__main__":
    main()
