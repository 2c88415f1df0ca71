"""Where runs go: a core each, or GPUs of their own."""

import os
from types import SimpleNamespace

import pytest
import torch

from hicra.files import PACKAGE
from hicra.study import launch
from hicra.study.launch import places
from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunError
from hicra.study.training.process import check_share


def _gpus(monkeypatch, n):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)


def test_without_a_gpu_a_run_has_a_core(monkeypatch):
    _gpus(monkeypatch, 0)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert places(1) == [{}, {}, {}]
    assert len(places(1, workers=2)) == 2
    assert len(places(1, workers=5)) == 5


@pytest.mark.parametrize(
    ("gpus", "processes", "wanted"), [(1, 1, ["0"]), (4, 1, ["0", "1", "2", "3"]), (5, 2, ["0,1", "2,3"])]
)
def test_runs_share_no_gpu_unless_more_are_asked_for(monkeypatch, gpus, processes, wanted):
    _gpus(monkeypatch, gpus)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places(processes)] == wanted
    more = [place["CUDA_VISIBLE_DEVICES"] for place in places(processes, workers=len(wanted) + 1)]
    assert more == [*wanted, "0" if processes == 1 else "0,1"]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    _gpus(monkeypatch, 1)
    with pytest.raises(RunError, match="processes=2 need as many GPUs; there are 1: .* verl"):
        places(2)


def test_a_run_works_in_its_own_folder_where_unsloth_writes_its_files(monkeypatch, tmp_path):
    started = {}
    monkeypatch.setattr(launch.subprocess, "Popen", lambda command, **options: started.update(options))
    plan = SimpleNamespace(profile=get_profile("families"), arm="grpo", seed=0, condition="grpo")
    launch.start(plan, tmp_path / "run", {"CUDA_VISIBLE_DEVICES": "1"})
    assert started["cwd"] == tmp_path / "run"
    assert started["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(PACKAGE.parent)  # the same hicra
    assert started["env"]["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "1 processes were started for a run with processes=4"),
        (
            {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"},
            "2 of the run's 4 processes are on this machine.* verl",
        ),
        (
            {"WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true"},
            "ACCELERATE_USE_FSDP=true shards the policy.* verl",
        ),
        ({"WORLD_SIZE": "4", "ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED=true shards"),
    ],
)
def test_a_run_that_would_wait_for_ever_is_refused(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=message):
        check_share(4)


def test_processes_of_one_machine_share_a_run(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "false"}.items():
        monkeypatch.setenv(name, value)
    check_share(4)
