"""Where the time of a study goes: `python -m tests.benchmarks.study_time runs/families/notebooks`.

A Markdown table of the executed notebooks, with the seconds that papermill wrote into them and the slowest cells.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nbformat

CELLS = 2  # named of each notebook
LEAST = 3.0  # seconds of a cell that is named


def row(path: Path) -> str:
    notebook = nbformat.read(path, as_version=4)
    cells = [
        (cell.metadata.get("papermill", {}).get("duration") or 0.0, cell.source.strip().splitlines())
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.source.strip()
    ]
    slowest = sorted(cells, key=lambda pair: -pair[0])[:CELLS]
    told = "; ".join(f"{seconds:.0f} s `{lines[-1]}`" for seconds, lines in slowest if seconds >= LEAST)
    whole = notebook.metadata.get("papermill", {}).get("duration") or 0.0
    return f"| {path.stem} | {whole:.0f} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", type=Path)
    print("| notebook | s | slowest cells, by their last line |\n|---|---|---|")
    for path in sorted(parser.parse_args().notebooks.glob("*.ipynb")):
        print(row(path))


if __name__ == "__main__":
    main()
