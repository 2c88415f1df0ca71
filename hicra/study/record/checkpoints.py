"""Checkpoints of a run under way: sealed with checksums once whole, resumed from the newest sealed one.

A checkpoint without a seal was being written when its process ended, and is passed over. A sealed one
that has changed since is refused by name, before any of it is read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from hicra.files import file_sha256, write_atomic
from hicra.study.record.run_folder import RunError, read_json

SEAL = "checksums.json"
KEPT = 2  # the one being written may never become whole


def seal(checkpoint: Path) -> None:
    """Put every file of `checkpoint` on disk, and their checksums beside them."""
    sums = {}
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != SEAL):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        sums[str(path.relative_to(checkpoint))] = file_sha256(path)
    write_atomic(checkpoint / SEAL, json.dumps(sums, indent=1) + "\n")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest sealed checkpoint, or None. Raises RunError where it is not what was sealed."""
    sealed = [path.parent for path in folder.glob(f"checkpoint-*/{SEAL}")]
    newest = max(sealed, key=step_of, default=None)
    if newest:
        _check(newest)
    return newest


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _check(checkpoint: Path) -> None:
    for name, wanted in read_json(checkpoint / SEAL).items():
        path = checkpoint / name
        if not path.exists() or file_sha256(path) != wanted:
            what = "was changed after it was written" if path.exists() else "is missing"
            raise RunError(f"{path} {what}; delete {checkpoint}: the run then goes on from the one before it")
