"""Runs side by side, one process and one thread each: a run's numbers do not depend on the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hicra.lexicon import Lexicon
from hicra.profiles import Profile
from hicra.runs import RunError, RunFolder
from hicra.training import run_settings

POLL_SECONDS = 1.0


def run_path(root: Path | str, profile: Profile, arm: str, seed: int) -> Path:
    return Path(root) / profile.name / f"{arm}-seed{seed}"


def train_runs(
    profile: Profile,
    arm: str,
    root: Path | str = "runs",
    *,
    report: Callable[[str], None] = lambda line: None,
    jobs: int | None = None,
) -> list[RunFolder]:
    """Train one arm on all seeds of `profile`, as many at once as there are cores.

    Finished runs are reused, interrupted ones resumed. `report` gets a status line as it changes.
    Raises RunError for a folder made with other settings before any run starts, and for a run that
    fails, with the end of its log.
    """
    folders = {seed: RunFolder(run_path(root, profile, arm, seed)) for seed in profile.seeds}
    lexicon = Lexicon.load(profile.lexicon)
    for seed, folder in folders.items():
        folder.check(run_settings(profile, arm, seed, lexicon))
    waiting = [seed for seed, folder in folders.items() if not folder.finished]
    running: dict[int, subprocess.Popen] = {}
    try:
        while waiting or running:
            while waiting and len(running) < (jobs or os.cpu_count() or 1):
                seed = waiting.pop(0)
                running[seed] = start(profile, arm, seed, folders[seed].path)
            time.sleep(POLL_SECONDS)
            report(status(list(folders.values())))
            running = {s: p for s, p in running.items() if not _ended(p, folders[s])}
    finally:
        for process in running.values():
            process.terminate()
    return list(folders.values())


def status(folders: Sequence[RunFolder]) -> str:
    """One line: how far each run is."""
    return ", ".join(f"{f.path.name} {done}/{total}" for f in folders for done, total in [f.progress()])


def start(profile: Profile, arm: str, seed: int, folder: Path) -> subprocess.Popen:
    """One run under way, in a process of its own; what it prints goes to `folder/log.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "hicra", "train", "--arm", arm, "--seed", str(seed)]
    command += ["--profile", profile.name, "--out", str(folder)]
    command += ["--overrides", json.dumps(profile.overrides())]
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )


def _ended(process: subprocess.Popen, folder: RunFolder) -> bool:
    if process.poll() is None:
        return False
    if process.returncode:
        log = (folder.path / "log.txt").read_text(errors="replace")
        raise RunError(f"the run in {folder.path} failed; its log ends:\n{log[-2000:]}")
    return True
