"""Run folders: manifest, atomic writes, resume, checksums.

A run record is what figures are made from. It needs no model to be read:

    manifest.json      condition, settings, versions, hashes of lexicon, data and base; state of the run
    steps.jsonl        sufficient statistics of each step's rollouts (their meaning: dynamics/step_table.py)
    evals.jsonl        held-out accuracy and length
    rollouts.jsonl     a sample of rollouts with per-token values

The last three grow line by line while the run goes on and are compressed (.bz2) when it ends.
"""

from __future__ import annotations

import bz2
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock, Timeout

from hicra.errors import HicraError
from hicra.files import canonical, file_sha256, folder_sha256, write_atomic

FORMAT = 2  # of a record; 1 was compressed by gzip and held the words behind every gram
RECORDS = ("steps.jsonl", "evals.jsonl", "rollouts.jsonl")
PACKED = ".bz2"  # two thirds of what gzip leaves of them


class RunError(HicraError):
    """A run folder that cannot be used as it is; the message says what to do."""


def read_json(path: Path) -> dict:
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise RunError(f"{path} is torn or edited ({error}); delete the run folder and rerun") from error


def _differences(old: dict, new: dict, defaults: Mapping) -> list[str]:
    keys = sorted(set(old) | set(new))
    old = {**{k: defaults[k] for k in keys if k in defaults}, **old}
    return [f"{k}: {old.get(k)!r} there, {new.get(k)!r} asked" for k in keys if old.get(k) != new.get(k)]


class RunFolder:
    """One run on disk. `settings` decide its numbers; a folder made with others is refused."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    def manifest(self) -> dict:
        """The manifest; RunError where there is none."""
        if not self.manifest_path.exists():
            raise RunError(f"{self.path} holds no run record; train the run first (make study)")
        return read_json(self.manifest_path)

    def check_format(self) -> dict:
        """The manifest; RunError for a record that another version made, whose policy is as good as ever."""
        manifest = self.manifest()
        if (there := manifest.get("format")) != FORMAT:
            raise RunError(
                f"{self.path} is a record of format {there}, this version reads format {FORMAT}; "
                "read it with the version that made it, or delete the folder to run anew"
            )
        return manifest

    @property
    def condition(self) -> str:
        """What tables and figures call the run's arm: an arm with settings of its own has its own name."""
        return self.check_format()["condition"]

    @property
    def seed(self) -> int:
        return self.manifest()["settings"]["seed"]

    @property
    def sampler(self) -> str:
        """What drew the run's completions: the study's sampler ("own", on a GPU "own on cuda"),
        "transformers" or "vllm".
        """
        return self.check_format()["sampler"]

    def check(self, settings: dict, defaults: Mapping = MappingProxyType({})) -> None:
        """RunError for a folder made with other settings; writes nothing.

        A setting that the folder's manifest does not know yet counts as its value in `defaults`.
        """
        if not self.manifest_path.exists():
            return
        different = _differences(self.check_format()["settings"], json.loads(canonical(settings)), defaults)
        if different:
            raise RunError(
                f"{self.path} was made with other settings ({'; '.join(different)}); "
                "choose another folder, or delete this one to run anew"
            )

    def open(
        self, settings: dict, defaults: Mapping = MappingProxyType({}), *, condition: str, **context
    ) -> None:
        """Start or continue the run of a condition. Raises RunError as `check` does."""
        self.check(settings, defaults)
        if not self.manifest_path.exists():
            begun = {"format": FORMAT, "settings": settings, **context, "state": "running"}
            self._write_manifest({"condition": condition, **begun})

    def same(self, name: str, value: str) -> None:
        """RunError where the manifest holds another `name`."""
        there = self.manifest()[name]
        if there != value:
            raise RunError(
                f"{self.path} was begun with another {name} ({there[:12]}, now {value[:12]}); "
                "restore it, or delete the folder to run anew"
            )

    def begin(self, sampler: str, *, resumed: bool, **how) -> None:
        """Note what draws the run's completions, and how else it is computed.

        RunError for a run that goes on with another sampler than it was begun with; other differences are
        rounding, and become a notice.
        """
        if resumed and sampler != self.sampler:
            raise RunError(
                f"{self.path} was begun with the sampler {self.sampler!r}, here it would go on with "
                f"{sampler!r}: go on where it was begun, or delete the folder to run anew"
            )
        manifest = self.manifest()
        there = {name: manifest.get(name, value) for name, value in how.items()} if resumed else how
        self._write_manifest({**manifest, **there, "sampler": sampler})
        for name, value in how.items():
            if value != there[name]:
                self.add_notice(f"begun with {name} {there[name]!r}, gone on with {value!r}")

    def _write_manifest(self, manifest: dict) -> None:
        write_atomic(self.manifest_path, json.dumps(manifest, indent=1, sort_keys=True) + "\n")

    @property
    def finished(self) -> bool:
        return self.manifest_path.exists() and self.manifest()["state"] == "finished"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other writers out; the lock goes with the process, however it ends. Raises RunError."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise RunError(f"another process is writing {self.path}; wait for it, or end it first") from error
        except (OSError, NotImplementedError) as error:  # some network drives have no locks
            warnings.warn(
                f"{self.path} cannot be locked ({error}); see to it that no other process writes there",
                stacklevel=3,
            )
        try:
            yield
        finally:
            lock.release()

    def add_notice(self, text: str) -> None:
        """Put a remark about the run into its manifest; status lines show it."""
        manifest = self.manifest()
        notices = list(dict.fromkeys([*manifest.get("notices", []), text]))  # once, also after a resume
        self._write_manifest({**manifest, "notices": notices})

    def notices(self) -> list[str]:
        return self.manifest().get("notices", []) if self.manifest_path.exists() else []

    def progress(self) -> tuple[int, int]:
        """Steps recorded, and steps in all (0, 0 before the run has begun)."""
        if not self.manifest_path.exists():
            return 0, 0
        total = self.manifest()["settings"]["steps"]
        if self.finished:
            return total, total
        path = self.path / "steps.jsonl"
        return (path.read_bytes().count(b"\n") if path.exists() else 0), total

    def append(self, name: str, row: dict) -> None:
        """Add one canonical JSON line to a record file of the run under way, on disk at return."""
        with open(self.path / name, "a", encoding="utf-8") as stream:
            stream.write(canonical(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def rewind(self, step: int) -> None:
        """Drop what was recorded after the checkpoint of `step` updates, torn last lines included.

        Step s is sampled before update s + 1, an evaluation at s after update s: the checkpoint of
        `step` holds steps below it and evaluations up to it.
        """
        for name in RECORDS:
            rows = self._whole_lines(name)
            kept = [r for r in rows if r["step"] < step + (name == "evals.jsonl" and step > 0)]
            write_atomic(self.path / name, "".join(canonical(r) + "\n" for r in kept))

    def _whole_lines(self, name: str) -> list[dict]:
        """Rows of a growing record, without a last line that was cut short."""
        path = self.path / name
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise RunError(f"{path} was edited ({error}); delete {self.path} to run anew") from error

    def finish(self, **results) -> None:
        """Compress the record files, note their checksums and mark the run finished."""
        for name in RECORDS:
            data = (self.path / name).read_bytes()
            write_atomic(self.path / f"{name}{PACKED}", bz2.compress(data))
        sums = {n: file_sha256(self.path / f"{n}{PACKED}") for n in RECORDS}
        manifest = {**self.manifest(), **results, "state": "finished", "sha256": sums}
        self._write_manifest(manifest)
        for name in RECORDS:
            (self.path / name).unlink()

    def keep(self, name: str, text: str) -> None:
        """Write a file of the run's that is no record, atomically."""
        write_atomic(self.path / name, text)

    def policy(self) -> Path:
        """The folder of the trained weights; RunError where it is not what the run left."""
        folder, wanted = self.path / "policy", self.manifest().get("policy_sha256")
        if not folder.is_dir():
            raise RunError(f"{folder} is missing; a record alone has no weights: rerun it")
        if wanted and folder_sha256(folder, "*.safetensors") != wanted:
            raise RunError(f"{folder} was changed after the run (its checksum differs); rerun it")
        return folder

    def read(self, name: str) -> list[dict]:
        """Rows of a record file; RunError names a file that is missing, torn, tampered with or too old."""
        wanted = self.check_format().get("sha256")
        if wanted is None:
            return self._whole_lines(name)
        path = self.path / f"{name}{PACKED}"
        if not path.exists():
            raise RunError(f"{path} is missing; delete the run folder and rerun")
        if file_sha256(path) != wanted[name]:
            raise RunError(f"{path} was changed after the run (its checksum differs); rerun it")
        return [json.loads(line) for line in bz2.decompress(path.read_bytes()).splitlines()]


def run_folders(root: Path | str) -> list[RunFolder]:
    """The runs in a folder, by their folders' names."""
    return [RunFolder(path.parent) for path in sorted(Path(root).glob("*/manifest.json"))]


class Follower(RunFolder):
    """The same run in a process that shares its work; the process of rank 0 alone writes."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def _write_nothing(self, *args, **kwargs) -> None:
        pass

    open = begin = append = rewind = finish = keep = add_notice = same = _write_nothing
