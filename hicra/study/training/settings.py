"""What decides a run's numbers: the settings that its manifest keeps, and a folder is known again by."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hicra.files import data_root, folder_sha256, sha256
from hicra.lexicon.lexicon import Lexicon
from hicra.study.problems.prompts import Task
from hicra.study.profiles import Profile
from hicra.study.sources import ORACLE

PACKAGES = ("torch", "transformers", "trl", "unsloth", "numpy")  # their versions stand in the manifest
# Settings that change a run's cost or keeping, not its numbers.
# Benchmarks act through the problems that are left, whose hash counts.
NOT_DECISIVE = (
    "seeds",
    "checkpoint_every",
    "rollouts_kept",
    "gradient_checkpointing",
    "gpu_memory_utilization",
    "benchmarks",
    "benchmark_temperature",
    "allow_contamination",
    "report_to",
)
LEXICON = ("lexicon_rollouts", "lexicon_clusters", "lexicon_min_df")  # the lexicon's hash counts


def decisive_settings(
    profile: Profile,
    arm: str,
    seed: int,
    *,
    tasks: Sequence[Task],
    observed: Lexicon,
    credited: Lexicon | None,
) -> dict:
    """JSON-able settings, with the hashes of what they name. `tasks` are the run's prompts in order."""
    kept = {k: v for k, v in profile.settings().items() if k not in NOT_DECISIVE + LEXICON}
    return {
        **kept,
        "arm": arm,
        "seed": seed,
        "lexicon_sha256": observed.sha256,
        "credit_sha256": credited.sha256 if credited else ORACLE,
        "base_sha256": _base_sha256(profile.base),
        "prompts_sha256": sha256(json.dumps([task.row() for task in tasks])),
    }


def _base_sha256(base: str) -> str:
    """Of the weights where they lie in a folder; what is made or fetched is known by its name."""
    folder = data_root() / base
    return folder_sha256(folder, "*.safetensors") if folder.exists() else sha256(base)
