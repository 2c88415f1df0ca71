"""What is installed: packages, machine, whose trainer it is, every arm's configuration."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.gpu.card import GB, GPU, ROOT, Row, card_memory

# Unsloth's configuration differs from TRL's in its own fields, and in the trainer's own evaluation, which is
# never called.
UNSLOTHS = {
    "context_parallel_size": 1,  # not used
    "max_seq_length": None,
    "unsloth_grpo_mini_batch": None,
    "unsloth_logit_chunk_multiplier": None,
    "unsloth_num_chunks": -1,
    "vllm_sampling_params": None,
    "push_to_hub_token": None,
}
NOT_DECISIVE = {"per_device_eval_batch_size", "eval_accumulation_steps", "torch_empty_cache_steps"}
NOT_DECISIVE |= {"output_dir", "logging_dir", "dataset_num_proc"}
NOT_DECISIVE |= {"context_parallel_backend", "context_parallel_rotate_method"}


def install(options) -> Iterator[Row]:
    """What is pinned has all that it requires, but for what the overrides leave out."""
    allowed = _names("overrides.in") | (set() if GPU else _names("no-cuda.in"))
    roots = _names("pins.in") | (_names("gpu.in") if GPU and not options.no_vllm else set())
    lacking = sorted(_missing(roots) - allowed)
    yield Row("missing packages", ", ".join(lacking) or "none", "none", not lacking)
    from hicra.study.training.preflight import check_versions

    check = check_versions()
    yield Row("versions", check.found, "as locked", not check.remedy)


def _names(file: str) -> set[str]:
    lines = (ROOT / "requirements" / file).read_text().splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}


def _missing(roots: set[str]) -> set[str]:
    """Packages that `roots` require, directly or not, and that are not installed."""
    waiting, seen, missing = [(name, "") for name in roots], set(), set()
    while waiting:
        name, extra = waiting.pop()
        seen.add((name, extra))
        try:
            required = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            missing.add(name)
            continue
        for wanted in required:
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                found = {(canonicalize_name(wanted.name), e) for e in ("", *wanted.extras)}
                waiting += found - seen
    return missing


def machine(options) -> Iterator[Row]:
    """The card and its driver, and what Triton and vLLM need of the system."""
    yield Row("Python", platform.python_version())
    yield Row("memory", f"{psutil.virtual_memory().total / GB:.0f} GB")
    glibc = platform.libc_ver()[1]
    new = tuple(map(int, glibc.split("."))) >= (2, 28)
    yield Row("glibc", glibc, "2.28, for vLLM's wheel", new or options.no_vllm)
    if not GPU:
        yield Row("card", "none")
        return
    major, minor = torch.cuda.get_device_capability()
    yield Row("card", f"{torch.cuda.get_device_name()}, {card_memory():.1f} GB")
    yield Row("capability", f"{major}.{minor}", "7.5", (major, minor) >= (7, 5))
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    yield Row("driver", f"{driver}, CUDA of torch {torch.version.cuda}")
    compiler = shutil.which("gcc") or shutil.which("cc") or ""
    yield Row("C compiler", compiler or "none", "any, for Triton", bool(compiler))
    header = Path(sysconfig.get_path("include")) / "Python.h"
    yield Row("Python.h", str(header) if header.exists() else "none", "there, for Triton", header.exists())


def imports(options) -> Iterator[Row]:
    """Whose trainer it is, and that FlashInfer is kept out."""
    from hicra.study.policy import unsloth_models

    import trl

    wanted = "UnslothGRPOTrainer" if GPU else "GRPOTrainer"
    yield Row("trainer", trl.GRPOTrainer.__name__, wanted, trl.GRPOTrainer.__name__ == wanted)
    blocked = os.environ.get("UNSLOTH_VLLM_NO_FLASHINFER")
    yield Row("FlashInfer", f"UNSLOTH_VLLM_NO_FLASHINFER={blocked}", "1", blocked == "1")
    if GPU and not options.no_vllm:
        yield Row(
            "vLLM",
            "installed" if unsloth_models.has_vllm() else "none",
            "installed",
            unsloth_models.has_vllm(),
        )


def configurations(options) -> Iterator[Row]:
    """Every arm's configuration, and the warm start's, by Unsloth's class is that by TRL's on a CPU, in every field that decides."""
    found = {}
    for engine in ("trl", "unsloth"):
        folder = options.out / f"configs-{engine}"
        environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}
        if engine == "trl":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, "-m", "tests.generated_trainer", engine, str(folder.absolute())]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        found[engine] = json.loads((folder / "configs.json").read_text())
    differ = differences(found["trl"], found["unsloth"], also={"use_cpu"} if GPU else set())
    yield Row(
        f"{len(found['trl'])} configurations", json.dumps(differ) if differ else "equal", "equal", not differ
    )


def differences(theirs: dict, unsloths: dict, also: frozenset | set = frozenset()) -> dict:
    """Fields of Unsloth's configurations that decide something and are not as in TRL's, by configuration."""
    found = {}
    for name, trl in theirs.items():
        fields = unsloths[name]
        # vLLM's way to say 0, no such limit, is -1.
        known = UNSLOTHS | ({"top_k": -1} if name.startswith("paper") else {})
        differ = {k: v for k, v in fields.items() if k not in trl or trl[k] != v} | {
            k: "missing" for k in trl.keys() - fields.keys()
        }
        wrong = {k: v for k, v in differ.items() if k not in NOT_DECISIVE | also and known.get(k, ...) != v}
        found |= {name: wrong} if wrong else {}
    return found
