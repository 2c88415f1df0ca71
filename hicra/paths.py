"""Where the study's data lies: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def data_root() -> Path:
    inside = PACKAGE / "_data"
    return inside if inside.is_dir() else PACKAGE.parent / "data"


def data_path(name: Path | str) -> Path:
    """A path given by the user, else what has that name in the study's data."""
    given = Path(name)
    return given if given.exists() else data_root() / name
