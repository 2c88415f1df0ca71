"""Survival at full size, as one table: `make soak`.

python -m tests.benchmarks.soak --only kills endings fuzz hostile throughput callers memory --hours 2
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from hicra.files import file_sha256
from hicra.study.launch import start
from hicra.study.problems.grading import grade
from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RECORDS, RunFolder
from hicra.study.training.plan import plan_run

ROOT = Path(__file__).parents[2]
FUZZ_SCALE = 130  # times the 1,600 cases of `make test`
SMALL = {
    "steps": 10,
    "prompts_per_step": 4,
    "group_size": 4,
    "eval_problems": 16,
    "eval_every": 2,
    "checkpoint_every": 1,
    "warmup_steps": 1,
}


class Row(NamedTuple):
    """A line of the table."""

    what: str
    found: str
    wanted: str
    well: bool


MODES = ("at any moment", "while a checkpoint is written", "while a record grows", "disk full")


# --- kills -----------------------------------------------------------------------------------------


def kills(options) -> Iterator[Row]:
    """A run killed again and again ends as the one that was left alone."""
    profile = get_profile("families", **SMALL)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        _finish(profile, whole := RunFolder(root / "whole"))
        rng, modes, same, compared = random.Random(options.seed), Counter(), 0, 0
        while modes.total() < options.kills:
            run = RunFolder(root / f"killed{compared}")
            while modes.total() < options.kills and not run.finished:
                mode = rng.choice(MODES)
                modes[mode] += _killed(profile, run, mode, rng)
                print(f"{modes.total()} of {options.kills} kills, {run.progress()[0]} steps", flush=True)
            _finish(profile, run)
            compared += 1
            same += numbers(run) == numbers(whole)
    how = ", ".join(f"{n} {mode}" for mode, n in sorted(modes.items()))
    found = f"{same} of {compared} runs equal to the bit; ended {modes.total()} times ({how})"
    yield Row("ended and resumed", found, "all", same == compared and modes.total() >= options.kills)


def _finish(profile, run: RunFolder) -> None:
    if start(plan_run(profile, "hicra", 0), run.path).wait():
        raise RuntimeError((run.path / "log.txt").read_text()[-2000:])


def _killed(profile, run: RunFolder, mode: str, rng: random.Random) -> bool:
    """Start the run and end it at a moment of the kind; False where it had finished before that."""
    if mode == "disk full":
        return _out_of_space(profile, run, rng)
    before = _state(run.path, mode)
    moment = time.monotonic() + rng.uniform(8, 30)
    process = start(plan_run(profile, "hicra", 0), run.path)
    while process.poll() is None:
        if mode == MODES[0] and time.monotonic() >= moment:
            break
        if mode != MODES[0] and _state(run.path, mode) != before:
            if rng.random() < 0.5:
                break
            before = _state(run.path, mode)
        time.sleep(0.0005)
    alive = process.poll() is None
    process.kill()
    process.wait()
    return alive


def _out_of_space(profile, run: RunFolder, rng: random.Random) -> bool:
    """No file may grow beyond a size that only checkpoints reach: writing one fails half way."""
    process = start(plan_run(profile, "hicra", 0), run.path)
    limit = rng.randrange(200_000, 5_000_000)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    return process.wait() != 0


def _state(folder: Path, mode: str):
    if mode == MODES[1]:
        return sorted(folder.glob("checkpoints/*/*"))
    return [p.stat().st_size for p in sorted(folder.glob("*.jsonl"))]


SURE = ("step", "n_completions", "n_groups", "learning_rate", "n", "prompt")  # whatever a GPU's kernels do


def numbers(run: RunFolder) -> dict:
    """Everything a run leaves that does not tell the time; on a GPU, what its kernels cannot change."""
    rows = {name: run.read(name) for name in RECORDS}
    rows["steps.jsonl"] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows["steps.jsonl"]]
    weights = {p.name: file_sha256(p) for p in (run.path / "policy").glob("*.safetensors")}
    if torch.cuda.is_available():
        rows = {name: [{k: r[k] for k in SURE if k in r} for r in found] for name, found in rows.items()}
        weights = list(weights)
    return {**rows, "weights": weights, "settings": run.manifest()["settings"]}


# --- endings of shared runs ------------------------------------------------------------------------


def endings(options) -> Iterator[Row]:
    """Runs of two processes end, beside a load on every core: the end alone, and whole runs."""
    profile = get_profile("families", **{**SMALL, "steps": 2}, processes=2)
    with tempfile.TemporaryDirectory() as temporary, _load():
        alone = ending(options.endings)
        runs = [RunFolder(Path(temporary) / str(i)) for i in range(options.endings // 20)]
        whole = sum(not start(plan_run(profile, "hicra", 0), r.path).wait() and r.finished for r in runs)
    yield Row(
        "ends of two processes, under load", f"{alone} of {options.endings}", "all", alone == options.endings
    )
    yield Row("whole runs of two processes, under load", f"{whole} of {len(runs)}", "all", whole == len(runs))


@contextmanager
def _load() -> Iterator[None]:
    """Every core busy with something else."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def ending(times: int) -> int:
    """How many of so many pairs of processes end (tests/ending.py)."""
    command = [sys.executable, "-m", "tests.ending", str(times)]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


# --- model text ------------------------------------------------------------------------------------


def fuzz(options) -> Iterator[Row]:
    """The fuzz tests of `make test` with many times their cases."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "fuzz", "--hypothesis-show-statistics"]
    environment = {**os.environ, "HICRA_FUZZ": str(FUZZ_SCALE)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    cases = sum(map(int, re.findall(r"(\d+) passing", done.stdout)))
    yield Row("fuzz cases without an undocumented error", f"{cases:,}", "200,000", not done.returncode)
    if done.returncode:
        print(done.stdout[-4000:])


def hostile(options) -> Iterator[Row]:
    """Every hostile answer, and the tests of workers that die over them."""
    from tests.test_hostile import GOLD, HOSTILE

    started = time.monotonic()
    reasons = Counter(g.reason for g in grade(list(HOSTILE.values()), [GOLD] * len(HOSTILE)))
    seconds = time.monotonic() - started
    found = f"{reasons['right']} of {len(HOSTILE)} right, {seconds:.0f} s; {dict(sorted(reasons.items()))}"
    yield Row("hostile answers", found, "none right", reasons["right"] == 0)
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_hostile.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    yield Row(
        "workers that die or hang", done.stdout.strip().splitlines()[-1], "replaced", not done.returncode
    )


def throughput(options) -> Iterator[Row]:
    """Honest answers a second, in the mix of MATH-500's gold answers, and the slowest kind alone."""
    kinds = {
        "integers": [(str(i), str(i)) for i in range(1800)],
        "fractions": [(f"\\dfrac{{{i}}}{{{i + 7}}}", f"\\frac{{{i}}}{{{i + 7}}}") for i in range(600)],
        "expressions": [(f"x(x+{i})", f"x^2+{i}x") for i in range(2, 602)],
    }
    mix = [pair for pairs in kinds.values() for pair in pairs]
    random.Random(0).shuffle(mix)
    shares = ", ".join(f"{len(pairs) / len(mix):.0%} {kind}" for kind, pairs in kinds.items())
    grade(["\\boxed{x}"] * 8, ["y"] * 8)  # workers are started
    for name, pairs, wanted in ((shares, mix, 300), ("expressions alone", kinds["expressions"], 0)):
        started = time.monotonic()
        right = sum(
            g.reward for g in grade([f"\\boxed{{{a}}}" for a, _ in pairs], [gold for _, gold in pairs])
        )
        speed = len(pairs) / (time.monotonic() - started)
        well = speed >= wanted and right == len(pairs)
        found = f"{speed:.0f}/s, {right / len(pairs):.0%} right"
        yield Row(f"honest answers: {name}", found, f"{wanted}/s, all right" if wanted else "all right", well)


# --- many callers ----------------------------------------------------------------------------------

CALL = 8  # answers in one call, as a group has


def answers_to_judge() -> list[tuple[str, str]]:
    """Golds and answers, right and wrong in turn, that all need a worker; a wrong one differs in one place."""
    roots = [(f"x+{k}\\sqrt{{3}}", f"{k + k % 2}\\sqrt{{3}}+x") for k in range(2, 402)]
    products = [(f"x(x+{k})", f"x^2+{k + k % 2}x") for k in range(2, 402)]
    powers = [(f"2^{{{k}}}", f"2 \\cdot 2^{{{k - 1 - k % 2}}}") for k in range(2, 402)]
    pairs = [*roots, *products, *powers]
    random.Random(0).shuffle(pairs)
    return pairs


def judged(pairs: list[tuple[str, str]]) -> list[str]:
    """The reasons of the pairs, in calls of CALL."""
    calls = [pairs[at : at + CALL] for at in range(0, len(pairs), CALL)]
    graded = [grade([f"\\boxed{{{a}}}" for _, a in call], [gold for gold, _ in call]) for call in calls]
    return [g.reason for grades in graded for g in grades]


def callers(options) -> Iterator[Row]:
    """Verdicts of 16 threads, 8 forked processes and 16 asyncio tasks, against one thread's."""
    pairs = answers_to_judge()
    one = dict(zip(pairs, judged(pairs), strict=True))
    rounds = -(-options.verdicts // (3 * 16 * len(pairs)))  # at least so many
    started = time.monotonic()
    for _ in range(4 * rounds):
        judged(pairs)
    alone = 4 * rounds * len(pairs) / (time.monotonic() - started)
    for name, how, n in (
        ("threads", _threads, 16),
        ("processes", _processes, 8),
        ("asyncio tasks", _tasks, 16),
    ):
        work = [_shuffled(pairs, seed) * max(1, rounds * 16 // n) for seed in range(n)]
        started = time.monotonic()
        found = how(work)
        seconds = time.monotonic() - started
        verdicts = sum(map(len, found))
        differ = sum(
            one[pair] != reason
            for mine, reasons in zip(work, found, strict=True)
            for pair, reason in zip(mine, reasons, strict=True)
        )
        speed = verdicts / seconds
        told = (
            f"{differ} of {verdicts:,} differ; {speed:.0f}/s, one caller {alone:.0f}/s ({speed / alone:.2f})"
        )
        yield Row(f"verdicts of {n} {name}", told, "none, at least 0.8", not differ and speed >= 0.8 * alone)


def _shuffled(pairs: list, seed: int) -> list:
    mine = list(pairs)
    random.Random(seed).shuffle(mine)
    return mine


def _threads(work: list) -> list[list[str]]:
    with ThreadPoolExecutor(len(work)) as threads:
        return list(threads.map(judged, work))


def _processes(work: list) -> list[list[str]]:
    with multiprocessing.get_context("fork").Pool(len(work)) as processes:
        return processes.map(judged, work, chunksize=1)


def _tasks(work: list) -> list[list[str]]:
    async def gathered():
        return await asyncio.gather(*(asyncio.to_thread(judged, mine) for mine in work))

    return asyncio.run(gathered())


# --- memory ----------------------------------------------------------------------------------------


def memory(options) -> Iterator[Row]:
    """Resident size of a long run with all its workers, from the tenth minute on."""
    profile = get_profile("families", steps=6000, eval_every=50)
    settle, sizes = 600.0 * min(1.0, options.hours), []
    with tempfile.TemporaryDirectory() as temporary:
        process = start(plan_run(profile, "hicra", 0), Path(temporary) / "run")
        began, parent = time.monotonic(), psutil.Process(process.pid)
        while time.monotonic() - began < 3600 * options.hours and process.poll() is None:
            time.sleep(5)
            family = [parent, *parent.children(recursive=True)]
            sizes.append((time.monotonic() - began, sum(_resident(p) for p in family)))
            if len(sizes) % 120 == 0:
                print(f"{sizes[-1][0] / 60:.0f} min: {sizes[-1][1] / 1e9:.3f} GB", flush=True)
        steps = RunFolder(Path(temporary) / "run").progress()[0]
        process.kill()
        process.wait()
    late = [size for at, size in sizes if at >= settle]
    part = max(1, len(late) // 10)
    first, last = statistics.median(late[:part]), statistics.median(late[-part:])
    growth = last / first - 1
    found = (
        f"{first / 1e9:.2f} to {last / 1e9:.2f} GB ({growth:+.1%}), most {max(late) / 1e9:.2f}, {steps} steps"
    )
    yield Row(f"resident size over {options.hours:g} h", found, "less than +5 %", growth < 0.05)


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


PARTS = {f.__name__: f for f in (kills, endings, fuzz, hostile, throughput, callers, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--verdicts", type=int, default=100_000, help="of many callers")
    parser.add_argument("--endings", type=int, default=200)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [row for name in options.only for row in PARTS[name](options)]
    print(f"\nOn {os.cpu_count()} cores:\n\n| what | found | wanted | |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.found} | {row.wanted} | {'ok' if row.well else '**not met**'} |")
    sys.exit(not all(row.well for row in rows))


if __name__ == "__main__":
    main()
