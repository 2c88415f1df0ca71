"""A mirror of runs on another drive, such as Google Drive: they go on from there when this machine is gone.

A run under way is one file a checkpoint, `RUN/step-20.tar`: the newest sealed checkpoint, and the records
that go with it. The two newest stay, for the last may never have become whole. A finished run is
`RUN/finished.tar`, without checkpoints; executed notebooks come last. A file is written under another name
and renamed; a drive that writes late can still leave it cut short, and then it is passed over.

Runs are made on the local disk: a drive would upload the whole of a growing record at every line.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hicra.errors import HicraError
from hicra.files import write_atomic
from hicra.study.record.background import in_background
from hicra.study.record.checkpoints import KEPT, sealed, step_of
from hicra.study.record.run_folder import RECORDS, RunFolder, run_folders

POLL_SECONDS = 10.0
FINISHED = "finished.tar"
MANIFEST = "manifest.json"


@contextmanager
def mirrored(runs: Path, mirror: Path, report: Callable[[str], None] = print) -> Iterator[None]:
    """Fetch from `mirror` what `runs` lacks, then keep it up to date, in a thread, while the `with` lasts.

    `report` is told what was fetched, what was passed over, and what could not be written, which is tried
    again. Raises HicraError where that is so at the end, and for a mirror of the runs in their own folder.
    """
    if runs.resolve() == mirror.resolve():
        raise HicraError(f"the mirror of {runs} would be that folder itself; name one on another drive")
    for line in restore(runs, mirror):
        report(line)
    wrong = [""]
    with in_background(_keep, runs, mirror, report, wrong):
        yield
    if wrong[0]:
        raise HicraError(f"{mirror} is not up to date ({wrong[0]}); the runs are whole in {runs}: copy them")


def _keep(runs: Path, mirror: Path, report: Callable[[str], None], wrong: list[str], stop: threading.Event):
    ending = False
    while not ending:
        ending = stop.wait(POLL_SECONDS)
        try:
            update(runs, mirror)
            for path in (runs / "notebooks").glob("*.ipynb") if ending else ():
                write_atomic(mirror / "notebooks" / path.name, path.read_bytes())
            wrong[0] = ""
        except (OSError, HicraError) as error:
            if str(error) != wrong[0]:
                report(f"{mirror} could not be written ({error}); tried again")
            wrong[0] = str(error)


def update(runs: Path, mirror: Path) -> None:
    """Write what is new: finished runs, else the newest sealed checkpoint of each run. Raises OSError."""
    for run in run_folders(runs):
        update_run(run, mirror / run.path.name)


def update_run(run: RunFolder, folder: Path) -> None:
    """The same for one run, into its own folder of a mirror."""
    newest = next(iter(sealed(run.path / "checkpoints")), None)
    if run.finished:
        _write(run, folder / FINISHED, _without_checkpoints(run))
    elif newest:
        _write(run, folder / f"step-{step_of(newest)}.tar", [newest, *_records(run)])


def _without_checkpoints(run: RunFolder) -> list[Path]:
    left_out = ("checkpoints", ".lock", MANIFEST)
    return [path for path in sorted(run.path.iterdir()) if path.name not in left_out]


def _records(run: RunFolder) -> list[Path]:
    """After the checkpoint's seal, so that they reach up to it; what goes beyond is dropped on resuming."""
    return [path for name in RECORDS if (path := run.path / name).exists()]


def _write(run: RunFolder, target: Path, parts: list[Path]) -> None:
    """A tar file of the parts, with the manifest last: where that can be read, all before it is there."""
    if _holds(target, run):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    try:
        with open(partial, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
            for path in [*parts, run.manifest_path]:
                archive.add(path, arcname=str(path.relative_to(run.path)))
        os.replace(partial, target)
    except tarfile.TarError as error:
        raise OSError(f"{run.path.name}: {error}") from error
    known = newest_first(target.parent)
    # What is newer than the target is not whole, or of a run since begun anew.
    kept = known[known.index(target) :][:KEPT]
    for path in {*known, *target.parent.glob("*.partial")}.difference(kept):
        path.unlink()


def _holds(archive: Path, run: RunFolder) -> bool:
    """Whether it is a whole archive of this run."""
    try:
        with tarfile.open(archive) as stream:
            return stream.extractfile(MANIFEST).read() == run.manifest_path.read_bytes()
    except (FileNotFoundError, KeyError, tarfile.ReadError):
        return False


def newest_first(folder: Path) -> list[Path]:
    """The files of a run's folder in a mirror: the finished run, else checkpoints, the newest first."""
    steps = sorted(folder.glob("step-*.tar"), key=lambda p: int(p.stem.partition("-")[2]), reverse=True)
    return [*folder.glob(FINISHED), *steps]


def restore(runs: Path, mirror: Path) -> Iterator[str]:
    """Fetch the runs of which there is nothing in `runs`; a line for each file fetched or passed over."""
    for folder in sorted(path for path in mirror.glob("*") if path.is_dir()):
        local = RunFolder(runs / folder.name)
        for archive in [] if local.manifest_path.exists() else newest_first(folder):
            if _extract(archive, local.path):
                yield f"{folder.name} goes on from {archive}"
                break
            yield f"{archive} is cut short; passed over"


def _extract(archive: Path, local: Path) -> bool:
    """Whether the run could be unpacked; its folder appears only when it is whole."""
    unpacked = local.with_name(f".{local.name}.{os.getpid()}")
    try:
        with tarfile.open(archive) as stream:
            stream.extractall(unpacked / "run", filter="data")
        if not (unpacked / "run" / MANIFEST).exists():
            return False
        shutil.rmtree(local, ignore_errors=True)  # a log without a run
        os.replace(unpacked / "run", local)
        return True
    except tarfile.ReadError:
        return False
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
