"""A trained policy on its profile's benchmarks, by the paper's protocol.

Pass@1 at temperature 0.6, the mean over several samples where the paper takes them (`samples` of
data/problem_sets.yaml), strict matching on the box.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from hicra.study.policy.scoring import evaluate
from hicra.study.problems.prompts import benchmark_tasks
from hicra.study.profiles import Profile, get_profile
from hicra.study.record.run_folder import RunError, RunFolder, write_atomic

RESULTS = "benchmarks.json"


def score_run(folder: Path | str, *, use_vllm: bool, **overrides) -> pd.DataFrame:
    """Score a finished run's policy on its benchmarks; a table, and `benchmarks.json` in the folder.

    `overrides` may name other benchmarks or lengths. Raises RunError for a run that is not finished,
    ValueError where no benchmark is named, and what the problem sets raise; all before anything is made.
    """
    run = RunFolder(folder)
    if not run.finished:
        raise RunError(f"{run.path} is not a finished run; its policy is not final")
    settings = run.manifest()["settings"]
    names = [name for name in get_profile(settings["name"]).settings() if name in settings]
    own = {name: settings[name] for name in names if name not in ("name", "world")}
    profile = get_profile(settings["name"], **{**own, **overrides})
    sets = benchmark_tasks(profile)
    if not sets:
        raise ValueError(f"{run.path} names no benchmark; give some with overrides, benchmarks")
    generate = _generator(profile, run.policy(), use_vllm)
    rows = []
    for name, (tasks, samples) in sets.items():
        found = evaluate(generate, tasks, samples=samples, prefilled_think=profile.prefilled_think)
        rows.append({"benchmark": name, "problems": len(tasks), "samples": samples, **found})
    write_atomic(run.path / RESULTS, json.dumps(rows, indent=1) + "\n")
    return pd.DataFrame(rows)[["benchmark", "problems", "samples", "accuracy", "mean_length"]]


def _generator(profile: Profile, policy: Path, use_vllm: bool) -> Callable[[list[str]], list[str]]:
    from hicra.study.policy import unsloth_models

    options = {
        "max_new_tokens": profile.max_completion_length,
        "temperature": profile.benchmark_temperature,
        "seed": 0,
    }
    plain = not (policy / "adapter_config.json").exists()
    served = {"max_length": profile.max_length, "dtype": profile.dtype, **options}
    if use_vllm and plain:
        return unsloth_models.vllm_generator(policy, **served)
    model, tokenizer = unsloth_models.load_policy(
        policy, lora_rank=0, seed=0, max_length=profile.max_length, dtype=profile.dtype
    )
    if not use_vllm:
        return unsloth_models.text_generator(model, tokenizer, **options)
    with tempfile.TemporaryDirectory() as merged:  # vLLM has read it once it has started
        unsloth_models.save_merged(model, tokenizer, Path(merged))
        del model
        return unsloth_models.vllm_generator(Path(merged), **served)
