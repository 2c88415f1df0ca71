"""Runs side by side, each in a process of its own with one thread, and with GPUs of its own unless more runs
are asked for than there are: a run's numbers do not depend on the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from hicra.study.policy.base_models import base_folder

from hicra.files import PACKAGE
from hicra.study.profiles import Profile
from hicra.study.record.run_folder import RunError, RunFolder
from hicra.study.training.plan import RunPlan, plan_run

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 30.0  # with a process that was asked to end


class Job(NamedTuple):
    """One run to make, and where: what `training.run.train` takes."""

    plan: RunPlan
    folder: RunFolder


def run_path(root: Path | str, profile: Profile, arm: str, seed: int) -> Path:
    return Path(root) / profile.name / f"{arm}-seed{seed}"


def train_runs(
    profile: Profile,
    arm: str,
    root: Path | str = "runs",
    *,
    report: Callable[[str], None] = lambda line: None,
) -> list[RunFolder]:
    """Train one arm on all seeds of `profile`; see `train_all`."""
    jobs = [
        Job(plan_run(profile, arm, seed), RunFolder(run_path(root, profile, arm, seed)))
        for seed in profile.seeds
    ]
    train_all(jobs, report=report)
    folders = [job.folder for job in jobs]
    report(status(folders))
    return folders


def train_all(
    jobs: Sequence[Job],
    *,
    report: Callable[[str], None],
    finished: Callable[[Job], None] = lambda job: None,
    workers: int | None = None,
) -> None:
    """Make the runs in order, as many at once as `workers`, else as there are places (see `places`).

    Finished runs are reused, interrupted ones resumed. `report` gets a status line as it changes,
    `finished` each run as it ends. Raises RunError for a folder made with other settings before any
    run starts, and for a run that fails, with the end of its log.
    """
    for job in jobs:
        job.plan.check(job.folder)
    waiting = [job for job in jobs if not job.folder.finished]
    for profile in {job.plan.profile for job in waiting}:
        base_folder(profile)  # made once here, not by every run at the same time
    running: dict[Job, subprocess.Popen] = {}
    free = places(max((job.plan.profile.processes for job in waiting), default=1), workers)
    taken: dict[Job, dict[str, str]] = {}
    try:
        while waiting or running:
            while waiting and free:
                job = waiting.pop(0)
                taken[job] = free.pop(0)
                running[job] = start(job.plan, job.folder.path, taken[job])
            time.sleep(POLL_SECONDS)
            report(status([job.folder for job in running]))
            for job in [job for job, process in running.items() if ended(process, job.folder)]:
                del running[job]
                free.append(taken.pop(job))
                finished(job)
    finally:
        end(running.values())


def end(processes: Collection[subprocess.Popen]) -> None:
    """End processes and wait for them, so that their folders are free."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def places(processes: int, workers: int | None = None) -> list[dict[str, str]]:
    """Where runs of so many processes can be at the same time, each as an environment: `processes` GPUs of
    their own, or a core where there is no GPU. `workers` is how many to give; where there are fewer, runs
    share them in turn."""
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        return [{} for _ in range(workers or os.cpu_count() or 1)]
    if gpus < processes:
        raise RunError(
            f"processes={processes} need as many GPUs; there are {gpus}: set processes to {gpus}, or train "
            "on several machines with verl (docs/verl.md)"
        )
    groups = (range(i, i + processes) for i in range(0, gpus - processes + 1, processes))
    own = [{"CUDA_VISIBLE_DEVICES": ",".join(map(str, group))} for group in groups]
    return list(islice(cycle(own), workers)) if workers else own


def status(folders: Sequence[RunFolder]) -> str:
    """One line: how far each run is, and what it has to say."""
    parts = []
    for folder in folders:
        done, total = folder.progress()
        parts.append(" ! ".join([f"{folder.path.name} {done}/{total}", *folder.notices()]))
    return ", ".join(parts)


def start(plan: RunPlan, folder: Path, place: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen:
    """A run under way, in a process that ends with this one; what it prints goes to `folder/log.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        "profile": plan.profile.name,
        "overrides": plan.profile.overrides(),
        "arm": plan.arm,
        "seed": plan.seed,
        "condition": plan.condition,
        "folder": str(folder.absolute()),
        "launcher": os.getpid(),
    }
    command = [sys.executable, "-m"]
    if plan.profile.processes > 1:
        # All on this machine (training.process.check_share), so they meet by themselves.
        command += ["torch.distributed.run", "--standalone", "--nproc_per_node"]
        command += [str(plan.profile.processes), "-m"]
    command += ["hicra.study.training.process", json.dumps(asked)]
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,  # Unsloth writes its trainer and adapters into the working directory
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONPATH": os.pathsep.join(
                    filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])
                ),
                **place,
            },
        )


def ended(process: subprocess.Popen, folder: RunFolder) -> bool:
    """Whether a run's process has ended; RunError with the end of its log where it failed."""
    if process.poll() is None:
        return False
    if process.returncode:
        log = (folder.path / "log.txt").read_text(errors="replace")
        raise RunError(f"the run in {folder.path} failed; its log ends:\n{log[-2000:]}")
    return True
