"""The strict papermill runner: the numbered notebooks in order, with one profile.

papermill only warns where a notebook has no parameters cell or does not know a parameter; here both
are errors, before anything runs.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
from tqdm import tqdm

from hicra.errors import HicraError
from hicra.files import data_path, folder_sha256, sha256, write_atomic
from hicra.study.launch import status
from hicra.study.record.run_folder import RunFolder

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
STUDY = ("01_strategic_grams", "02_grpo_baseline", "03_hicra", "04_figures", "05_controls", "06_boundary")
READS_RECORDS = ("05_controls", "06_boundary")  # nothing but the committed run records
LINE_SECONDS = 5.0


class StudyError(HicraError):
    """A notebook that cannot be run as asked; nothing was run."""


def check_parameters(path: Path, parameters: dict) -> None:
    """Raises StudyError for a missing notebook, one without a single parameters cell, or a parameter
    that the cell does not name."""
    if not path.exists():
        raise StudyError(f"no notebook {path}; there are: {', '.join(STUDY)}")
    cells = nbformat.read(path, as_version=4).cells
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise StudyError(f"{path.name} has {len(tagged)} cells tagged 'parameters'; tag exactly one")
    known = papermill.inspect_notebook(str(path))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise StudyError(f"{path.name} has no parameter {', '.join(unknown)}; it takes: {', '.join(known)}")


def run_notebook(path: Path, out: Path, parameters: dict, runs: Path) -> Path:
    """Execute one notebook into `out`.

    A copy made from the same source, parameters and committed run records is reused.
    """
    check_parameters(path, parameters)
    records = folder_sha256(data_path("experiments"), "manifest.json")
    stamp = sha256(path.read_text() + json.dumps(parameters, sort_keys=True) + records)
    if out.exists() and nbformat.read(out, as_version=4).metadata.get("hicra_stamp") == stamp:
        print(f"{path.stem}: done before, kept", flush=True)
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with _progress(path.stem, runs):
        papermill.execute_notebook(
            str(path),
            str(out),
            parameters=parameters,
            progress_bar=False,
            kernel_name="python3",
            cwd=str(path.parent),
        )
    done = nbformat.read(out, as_version=4)
    done.metadata["hicra_stamp"] = stamp
    write_atomic(out, nbformat.writes(done) + "\n")
    return out


def run_study(
    profile: str, *, runs: Path, figures: Path, overrides: dict, only: tuple[str, ...] = STUDY
) -> None:
    """Run the study's notebooks; executed copies go to `runs/<profile>/notebooks`."""
    runs, figures = Path(runs).resolve(), Path(figures).resolve()
    common = {"profile": profile, "runs": str(runs), "overrides": overrides}
    jobs = {name: {} if name in READS_RECORDS else dict(common) for name in only}
    if "04_figures" in jobs:
        jobs["04_figures"]["figures"] = str(figures)
    for name, values in jobs.items():
        check_parameters(NOTEBOOKS / f"{name}.ipynb", values)
    started = time.monotonic()
    for name, values in jobs.items():
        out = runs / profile / "notebooks" / f"{name}.ipynb"
        run_notebook(NOTEBOOKS / f"{name}.ipynb", out, values, runs / profile)
    minutes = (time.monotonic() - started) / 60
    print(f"study done in {minutes:.1f} min: figures in {figures}, records in {runs / profile}")


@contextmanager
def _progress(title: str, runs: Path):
    """Bars on a terminal, a line every few seconds elsewhere, read from the run folders."""
    stop = threading.Event()
    show = _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=show, args=(title, runs, stop), daemon=True)
    thread.start()
    started = time.monotonic()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    print(f"{title}: done in {time.monotonic() - started:.0f} s", flush=True)


def _unfinished(runs: Path) -> list[RunFolder]:
    found = [RunFolder(p.parent) for p in sorted(runs.glob("*/manifest.json"))]
    return [run for run in found if not run.finished]


def _lines(title: str, runs: Path, stop: threading.Event) -> None:
    started = time.monotonic()
    while not stop.wait(LINE_SECONDS):
        line = status(_unfinished(runs)) or "working"
        print(f"{title}: {line} ({time.monotonic() - started:.0f} s)", flush=True)


def _bar(title: str, runs: Path, stop: threading.Event) -> None:
    with tqdm(desc=title, unit="step", total=0, file=sys.stderr) as bar:
        while not stop.wait(1.0):
            done = [run.progress() for run in _unfinished(runs)]
            bar.total, bar.n = max(bar.total, sum(t for _, t in done)), sum(d for d, _ in done)
            bar.refresh()
