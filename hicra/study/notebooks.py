"""The strict papermill runner: the numbered notebooks in order, with one profile.

papermill only warns where a notebook has no parameters cell or does not know a parameter; here both
are errors, before anything runs.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill

from hicra.errors import HicraError
from hicra.files import PACKAGE, data_root, folder_sha256, sha256, write_atomic
from hicra.study.launch import status
from hicra.study.profiles import get_profile
from hicra.study.record.background import in_background
from hicra.study.record.run_folder import RunFolder, run_folders

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TRAINING = ("02_grpo_baseline", "03_hicra")
STUDY = (
    *(
        "00_start_here",
        "01_strategic_grams",
        *TRAINING,
        "04_figures",
        "05_controls",
        "06_what_the_equation_does",
    ),
    "08_real_runs",
)
READS_RECORDS = (  # at least, the committed ones
    *("00_start_here", "04_figures", "05_controls", "06_what_the_equation_does", "08_real_runs"),
)
LINE_SECONDS = 10.0
WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar
INJECTED = "injected-parameters"  # papermill's tag
PLACES = re.compile(
    r"(?<![\w.])/(?:home|root|tmp|Users|content)/[^\s\"\\]*|site-packages|" + re.escape(str(NOTEBOOKS.parent))
)


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


def stamp(path: Path, parameters: dict) -> str:
    """A hash of what decides a notebook's outputs: its source, its parameters, the records it reads."""
    cells = nbformat.read(path, as_version=4).cells
    source = [[c.cell_type, c.source] for c in cells if INJECTED not in c.metadata.get("tags", [])]
    reads = ("families/records", "smollm2") if path.stem in READS_RECORDS else ()
    records = [folder_sha256(data_root() / name, "manifest.json") for name in reads]
    return sha256(json.dumps([source, parameters, records], sort_keys=True))


def stamped(path: Path) -> str | None:
    """The stamp of the run whose outputs a notebook holds, None where it holds none."""
    return nbformat.read(path, as_version=4).metadata.get("hicra", {}).get("stamp")


def _code() -> str:
    """A hash of what a notebook's outputs hang on beside its stamp: code, claims and lexicons."""
    data = [folder_sha256(data_root(), "*.yaml"), folder_sha256(data_root() / "lexicons")]
    return sha256("\n".join([folder_sha256(PACKAGE, "*.py"), *data]))


def run_notebook(path: Path, out: Path, parameters: dict, runs: Path) -> Path:
    """Execute one notebook into `out`.

    A copy made from the same source, parameters and committed run records by the same code is reused.
    """
    check_parameters(path, parameters)
    wanted = {"stamp": stamp(path, parameters), "code": _code()}
    if out.exists() and nbformat.read(out, as_version=4).metadata.get("hicra") == wanted:
        print(f"{path.stem}: done before, kept", flush=True)
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with _progress(path.stem, runs):
        papermill.execute_notebook(
            str(path),
            str(out),
            parameters=parameters,
            progress_bar=sys.stderr.isatty(),
            kernel_name="python3",
            cwd=str(path.parent),
        )
    done = nbformat.read(out, as_version=4)
    done.metadata["hicra"] = wanted
    write_atomic(out, nbformat.writes(done) + "\n")
    return out


def publish_notebooks() -> None:
    """Run every notebook of STUDY with its own defaults, and put its outputs into the committed file.

    Resumable, like the study. Raises StudyError where an output names a place on this machine.
    """
    runs = NOTEBOOKS.parent / "runs"
    for name in STUDY:
        path = NOTEBOOKS / f"{name}.ipynb"
        executed = run_notebook(path, runs / "published" / path.name, {}, runs / "families")
        write_atomic(path, nbformat.writes(published(executed)) + "\n")


def published(executed: Path):
    """An executed notebook as it is committed: outputs, but no times, parameters, paths or progress.

    Of its stamp the code is left out: not every change of it changes a notebook.
    """
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells = [c for c in notebook.cells if INJECTED not in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [
                o for o in cell.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {})
            ]
            for output in cell.outputs:
                output.pop("execution_count", None)
                if output.output_type == "execute_result":
                    output["execution_count"] = None
    kept = {"kernelspec": notebook.metadata["kernelspec"], "hicra": {"stamp": stamped(executed)}}
    notebook.metadata = {**kept, "language_info": {"name": "python"}}
    if found := PLACES.search(nbformat.writes(notebook)):
        raise StudyError(f"{executed.name} shows {found[0]!r}, a place on this machine; do not print paths")
    return notebook


def run_study(
    profile: str, *, runs: Path, figures: Path, overrides: dict, only: tuple[str, ...] = STUDY
) -> None:
    """Run the study's notebooks; executed copies go to `runs/<profile>/notebooks`."""
    overrides = get_profile(profile, overrides).overrides()  # a notebook runs in another folder
    runs, figures = Path(runs).resolve(), Path(figures).resolve()
    common = {"profile": profile, "runs": str(runs), "overrides": overrides}
    jobs = {name: {} if name in READS_RECORDS else dict(common) for name in only}
    if "04_figures" in jobs:
        jobs["04_figures"] = {"profile": profile, "figures": str(figures)}
        if set(TRAINING) <= set(only):  # else it draws the committed records
            jobs["04_figures"]["runs"] = str(runs)
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
    """A line every few seconds from the run folders: papermill's bar stands still while a cell trains."""
    started = time.monotonic()
    with in_background(_lines, title, runs):
        yield
    print(f"{title}: done in {time.monotonic() - started:.0f} s", flush=True)


def _unfinished(runs: Path) -> list[RunFolder]:
    return [run for run in run_folders(runs) if not run.finished]


def _lines(title: str, runs: Path, stop: threading.Event) -> None:
    started = time.monotonic()
    while not stop.wait(LINE_SECONDS):
        line = status(_unfinished(runs)) or "working"
        print(f"{title}: {line} ({time.monotonic() - started:.0f} s)", flush=True)
