"""Unsloth's trainer against plain TRL and PEFT: the same loss and gradients on the same batch.

On a GPU Unsloth has its own trainer, kernels and layout; marked `gpu`, not yet run on one. Without a GPU
the same script shows that two ways to load the model agree, and that the test can fail.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hicra.files import data_root

ROOT = Path(__file__).parent.parent


def _step(engine, model, out):
    command = [sys.executable, "-m", "tests.parity", engine, str(model), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out)


def _compare(model, folder, tolerance):
    one, two = (_step(engine, model, folder / f"{engine}.pt") for engine in ("unsloth", "trl"))
    assert one["loss"] == pytest.approx(two["loss"], rel=tolerance, abs=tolerance * 0.1)
    assert one["gradients"].keys() == two["gradients"].keys()
    whole = {
        k: torch.cat([g.flatten() for _, g in sorted(d["gradients"].items())])
        for k, d in (("a", one), ("b", two))
    }
    assert whole["b"].norm() > 0
    assert (whole["a"] - whole["b"]).norm() <= tolerance * whole["b"].norm()
    return one, two


def test_both_ways_to_load_a_model_give_the_same_step(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("on a GPU the test below says more")
    _compare(data_root() / "sandbox/base", tmp_path, 1e-4)


@pytest.mark.gpu
def test_unsloth_on_a_gpu_trains_as_plain_trl_does(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    from hicra.study.policy.base_models import base_folder

    from hicra.study.profiles import get_profile

    model = base_folder(get_profile("smollm2", warm_start_steps=0))
    one, two = _compare(model, tmp_path, 0.03)  # bf16: 8 bits of mantissa
    assert (one["trainer"], two["trainer"]) == ("UnslothGRPOTrainer", "GRPOTrainer")
