"""Runs of the study on Unsloth's own generated trainer, without a GPU, or on TRL's: what both must agree on.

    python -m tests.generated_trainer unsloth|trl OUT [ARM,ROWS_PER_PASS,ITERATIONS,NAME,KILLED_AFTER ...]

On a GPU Unsloth writes a trainer of its own and puts it in the place of TRL's. Here it writes it on a CPU. That
covers trainer, configuration and loss; not Unsloth's kernels, models and engine, for which stock ones stand in.
Writes the configurations to OUT/configs.json and each run to OUT/NAME; KILLED_AFTER 0 lets it end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import torch

ENGINE, OUT = sys.argv[1], Path(sys.argv[2]).absolute()
GENERATED = ENGINE == "unsloth"
BY_HAND = GENERATED and not torch.cuda.is_available()  # on a GPU the import does it
OUT.mkdir(parents=True, exist_ok=True)
os.chdir(OUT)  # Unsloth writes its trainer into a folder of the working directory
if BY_HAND:
    os.environ["UNSLOTH_ALLOW_CPU"] = "1"
import unsloth  # noqa: E402, F401

if BY_HAND:
    os.environ["UNSLOTH_ALLOW_CPU"] = "0"
    from unsloth.models import rl

    rl._patch_trl_rl_trainers_impl("grpo_trainer")
    rl._patch_trl_rl_trainers_impl("sft_trainer")

from hicra.study.policy import base_models, unsloth_models  # noqa: E402

import trl  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402

from hicra.credit import ARMS  # noqa: E402
from hicra.files import data_root  # noqa: E402
from hicra.study.profiles import get_profile  # noqa: E402
from hicra.study.training import run as training  # noqa: E402
from hicra.study.training.plan import plan_run  # noqa: E402

assert trl.GRPOTrainer.__name__ == ("UnslothGRPOTrainer" if GENERATED else "GRPOTrainer")
SMALL = {
    "steps": 3,
    "prompts_per_step": 4,
    "group_size": 4,
    "max_completion_length": 40,  # about half are truncated
    "eval_problems": 8,
    "eval_every": 3,
    "checkpoint_every": 1,
    "warmup_steps": 1,
}


def stock_model(profile, **_):
    """The base policy without Unsloth's kernels, which need a GPU."""
    model = AutoModelForCausalLM.from_pretrained(data_root() / profile.base, dtype=torch.float32)
    # What the generated trainer calls on Unsloth's own models.
    model.for_training = lambda **_: model.train()
    model.for_inference = lambda **_: model.eval()
    model.generation_config = unsloth_models._plain_sampling(model)
    return model, AutoTokenizer.from_pretrained(data_root() / profile.base, padding_side="left")


class Kill(TrainerCallback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def train(arm: str, rows: int, iterations: int, name: str, killed_after: int) -> None:
    profile = get_profile("families", **SMALL, rows_per_pass=rows)
    make_trainer, make_config = training._make_trainer, training.grpo_config

    def config(*arguments, **options):
        made = make_config(*arguments, **options)
        made.num_iterations = iterations  # 2: old log-probabilities are needed
        return made

    def trainer(*arguments):
        made = make_trainer(*arguments)
        made.add_callback(Kill(killed_after))
        return made

    with mock.patch.multiple(training, load_base=stock_model, grpo_config=config, _make_trainer=trainer):
        training.train(plan_run(profile, arm, 0), OUT / name)


def configurations() -> dict[str, dict]:
    """Every arm's, of the profiles whose precision a CPU knows, and the warm start's."""
    supervised = base_models.supervised_settings(get_profile("smollm2"), steps=240)
    warm = trl.SFTConfig(str(OUT), use_cpu=not torch.cuda.is_available(), **supervised)
    assert hasattr(warm, "unsloth_num_chunks") == GENERATED  # its class keeps the name of TRL's
    return {"warm start": json.loads(warm.to_json_string())} | {
        f"{name} {arm}": json.loads(training.grpo_config(get_profile(name), arm, 0, OUT).to_json_string())
        for name in ("families", "smollm2", "paper")
        for arm in ARMS
    }


if __name__ == "__main__":
    (OUT / "configs.json").write_text(json.dumps(configurations()))
    for wanted in sys.argv[3:]:
        arm, rows, iterations, name, killed_after = wanted.split(",")
        train(arm, int(rows), int(iterations), name, int(killed_after))
