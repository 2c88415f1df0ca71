"""Unsloth's generated trainer, which takes TRL's place on a GPU, gives TRL's configuration, losses and records.

Run on a CPU: trainer, configuration and loss are Unsloth's own, models and kernels are not. Whole runs of
the study, sampled, scored, credited, recorded, saved and resumed.
"""

import json
import os
import subprocess
import sys

import pytest

from hicra.study.record.run_folder import RunFolder
from tests.benchmarks.soak import numbers
from tests.gpu.installed import differences

# Arm, rows in a pass, uses of a batch (2: with old log-probabilities). A step has 16 completions.
RUNS = [
    ("hicra", 4, 1),
    ("hicra", 2, 1),
    ("hicra", 1, 1),
    ("hicra", 4, 2),
    ("hicra", 1, 2),
    ("grpo", 4, 1),
    ("entropy_reg", 2, 1),
    ("high_entropy", 4, 1),
    ("symmetric", 1, 1),
    ("released", 2, 1),
]
TOLERANCE = 2e-5  # relative, of losses, gradient norms and the sums of a record, all in float32


def _name(run):
    return "-".join(map(str, run))


def _start(root, engine, out, specs):
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "TORCHDYNAMO_DISABLE": "1",  # its loss is compiled on a GPU
        "UNSLOTH_MIXED_PRECISION": "bfloat16",  # its way to say: as the weights are, without autocast
        "UNSLOTH_DISABLE_STATISTICS": "1",
    }
    command = [sys.executable, "-m", "tests.generated_trainer", engine, str(out), *specs]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The runs of both trainers; one of Unsloth's was killed after its second step and resumed."""
    from tests.conftest import ROOT

    out = {engine: tmp_path_factory.mktemp(engine) for engine in ("trl", "unsloth")}
    specs = [",".join(map(str, (*run, _name(run), 0))) for run in RUNS]
    for engine, more in (("trl", []), ("unsloth", ["hicra,4,1,killed,2"])):
        done = _start(ROOT, engine, out[engine], specs + more)
        assert done.returncode == (-9 if more else 0), done.stderr[-3000:]
    done = _start(ROOT, "unsloth", out["unsloth"], ["hicra,4,1,killed,0"])
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_every_arm_has_the_same_configuration_in_every_field(both):
    trl, unsloth = (json.loads((both[e] / "configs.json").read_text()) for e in ("trl", "unsloth"))
    assert trl.keys() == unsloth.keys()
    assert differences(trl, unsloth) == {}


@pytest.mark.parametrize("run", RUNS, ids=_name)
def test_losses_and_record_are_trls(both, run):
    theirs, ours = (RunFolder(both[engine] / _name(run)) for engine in ("unsloth", "trl"))
    rows, wanted = theirs.read("steps.jsonl"), ours.read("steps.jsonl")
    assert len(rows) == len(wanted) == 3
    for row, want in zip(rows, wanted, strict=True):
        del row["seconds"], want["seconds"]
        assert row == {
            k: pytest.approx(v, rel=TOLERANCE) if isinstance(v, float) else v for k, v in want.items()
        }
        assert 0 < row["n_clipped"] < row["n_completions"]  # truncated ones are among them, and stay
    assert any(row["loss"] for row in rows)
    assert [r["completion"] for r in theirs.read("rollouts.jsonl")] == [
        r["completion"] for r in ours.read("rollouts.jsonl")
    ]


def test_a_killed_run_goes_on_to_the_record_it_would_have_made(both):
    whole, killed = (RunFolder(both["unsloth"] / name) for name in ("hicra-4-1", "killed"))
    assert numbers(killed) == numbers(whole)  # records and weights


def test_what_decides_the_method_is_in_the_manifest(both):
    for engine in both:
        method = RunFolder(both[engine] / "entropy_reg-2-1").manifest()["method"]
        assert (method["mask_truncated_completions"], method["scale_rewards"]) == (False, "none")
        assert method["vllm_importance_sampling_mode"] == "token_truncate"
        assert method["entropy_coef"] > 0
