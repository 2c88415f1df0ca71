"""A policy scored on problems: while it trains, and afterwards on its profile's benchmarks.

The benchmarks follow the paper's protocol: pass@1 at temperature 0.6, the mean over several samples where
the paper takes them (`samples` of data/problem_sets.yaml), strict matching on the box.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from hicra.study.policy.own_process import in_own_process

import pandas as pd

from hicra.dynamics.step_table import pass_at_k
from hicra.errors import HicraError, MissingError
from hicra.files import write_atomic
from hicra.study.problems.grading import grade
from hicra.study.problems.prompts import benchmark_tasks
from hicra.study.profiles import Profile, recorded_profile
from hicra.study.record.run_folder import RunError, RunFolder

RESULTS = "benchmarks.json"


def evaluate(
    generate: Callable[[list[str]], list[str]],
    problems: Sequence,
    *,
    samples: int = 1,
    explain: Callable | None = None,
    length: Callable[[str], int] = lambda text: len(text.split()),
    prefilled_think: bool = False,
) -> dict:
    """Accuracy (share of right samples), pass@8 where `samples` >= 8, mean length, failures by kind.

    `right` counts a problem's right samples, in the order of `problems`, so that two policies can be compared
    problem by problem.
    `problems` have `.prompt` and `.answer`; `length` counts a completion's tokens (words unless
    given). Raises ValueError for an empty problem set.
    """
    if not problems:
        raise HicraError("no problem to evaluate on; give at least one")
    repeated = [p for p in problems for _ in range(samples)]
    completions = generate([p.prompt for p in repeated])
    grades = grade(completions, [p.answer for p in repeated], prefilled_think=prefilled_think)
    right = [g.reward > 0 for g in grades]
    errors = Counter(
        explain(p, c).kind for p, c, r in zip(repeated, completions, right, strict=True) if explain and not r
    )
    per_problem = [sum(right[i : i + samples]) for i in range(0, len(right), samples)]
    return {
        "accuracy": sum(right) / len(right),
        "n": len(right),
        "right": per_problem,
        "mean_length": sum(map(length, completions)) / len(completions),
        "pass_at_8": (
            sum(pass_at_k(samples, c, 8) for c in per_problem) / len(per_problem) if samples >= 8 else None
        ),
        "errors": dict(errors) if explain else None,
    }


def score_run(folder: Path | str, *, use_vllm: bool, **overrides) -> pd.DataFrame:
    """Score a finished run's policy on its benchmarks; a table, and `benchmarks.json` in the folder.

    `overrides` may name other benchmarks or lengths. Raises RunError for a run that is not finished,
    ValueError where no benchmark is named, and what the problem sets raise; all before anything is made.
    """
    run = RunFolder(folder)
    if not run.finished:
        raise RunError(f"{run.path} is not a finished run; its policy is not final")
    if use_vllm and importlib.util.find_spec("vllm") is None:
        raise MissingError("vLLM is not installed; `make vllm` adds its CPU build, or leave out --vllm")
    settings = run.manifest()["settings"]
    profile = recorded_profile(settings, **overrides)
    sets = benchmark_tasks(profile)
    if not sets:
        raise HicraError(f"{run.path} names no benchmark; give some with overrides, benchmarks")
    generate = _generator(profile, run.policy(), use_vllm)
    rows = []
    for name, (tasks, samples) in sets.items():
        found = evaluate(generate, tasks, samples=samples, prefilled_think=profile.prefilled_think)
        rows.append({"benchmark": name, "problems": len(tasks), "samples": samples, **found})
    write_atomic(run.path / RESULTS, json.dumps(rows, indent=1) + "\n")
    return pd.DataFrame(rows)[["benchmark", "problems", "samples", "accuracy", "mean_length"]]


def _generator(profile: Profile, policy: Path, use_vllm: bool) -> Callable[[list[str]], list[str]]:
    from hicra.study.policy import generation, unsloth_models

    options = {
        "max_new_tokens": profile.max_completion_length,
        "temperature": profile.benchmark_temperature,
        "seed": 0,
    }
    if use_vllm:
        return _served(profile, policy, options)
    model, tokenizer = unsloth_models.load_policy(
        policy, lora_rank=0, seed=0, trained=False, max_length=profile.max_length, dtype=profile.dtype
    )
    unsloth_models.end_on_turns(model, tokenizer, profile.prompt_template)
    return generation.text_generator(model, tokenizer, **options)


def _served(profile: Profile, policy: Path, options: dict) -> Callable[[list[str]], list[str]]:
    """By vLLM; an adapter is merged first, in a process of its own, so that the engine has the whole GPU."""
    from hicra.study.policy import generation, unsloth_models

    from transformers import AutoTokenizer

    end = unsloth_models.turn_end(AutoTokenizer.from_pretrained(policy), profile.prompt_template)
    options |= {"max_length": profile.max_length, "dtype": profile.dtype, "stop": [end] if end else []}
    if not (policy / "adapter_config.json").exists():
        return generation.vllm_generator(policy, **options)
    with tempfile.TemporaryDirectory() as merged:  # vLLM has read it once it has started
        in_own_process(unsloth_models.merge_adapter, policy, Path(merged), profile.dtype)
        return generation.vllm_generator(Path(merged), **options)
