"""Checkpoints of a run under way: sealed with checksums once whole, resumed from the newest whole one.

A checkpoint without a seal was being written when its process ended, and is passed over. So is a sealed one
of which files are missing or cut short, as a drive leaves it that writes late. One whose content has changed
is refused by name, before any of it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from hicra.files import file_sha256, write_atomic
from hicra.study.record.run_folder import RunError

SEAL = "checksums.json"
KEPT = 2  # the one being written may never become whole


def seal(checkpoint: Path) -> None:
    """Put every file of `checkpoint` on disk, and their checksums and sizes beside them."""
    sums = {}
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != SEAL):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        sums[str(path.relative_to(checkpoint))] = f"{file_sha256(path)} {path.stat().st_size}"
    write_atomic(checkpoint / SEAL, json.dumps(sums, indent=1) + "\n")


def sealed(folder: Path) -> list[Path]:
    """The sealed checkpoints in a folder, the newest first."""
    found = (path.parent for path in folder.glob(f"checkpoint-*/{SEAL}"))
    return sorted(found, key=step_of, reverse=True)


def last_checkpoint(folder: Path, notice: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest sealed checkpoint that is whole, or None; `notice` is told of those passed over.

    Raises RunError where it is not what was sealed.
    """
    for checkpoint in sealed(folder):
        lost = _check(checkpoint)
        if not lost:
            return checkpoint
        notice(f"{checkpoint.name} passed over, {lost}")
    return None


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _check(checkpoint: Path) -> str:
    """What of a checkpoint is not there, if anything. RunError where something else is there."""
    try:
        sums = json.loads((checkpoint / SEAL).read_bytes())
    except ValueError:
        return f"{SEAL} is cut short"
    seals = {name: text.partition(" ")[::2] for name, text in sums.items()}
    for name, (_, size) in seals.items():  # an older version wrote no size
        path = checkpoint / name
        if not path.exists():
            return f"{name} is missing"
        if size and path.stat().st_size < int(size):
            return f"{name} is cut short"
    for name, (wanted, _) in seals.items():
        if file_sha256(checkpoint / name) != wanted:
            raise RunError(
                f"{checkpoint / name} was changed after it was written; delete {checkpoint}: the run then "
                "goes on from the one before it"
            )
    return ""
