"""Runs on a Ray cluster: each on a node of its own choosing, with a core or GPUs of its own.

A node's folder is on its own disk. Every sealed checkpoint comes back with its records as soon as it is
there, into the driver's folder, which holds a run as if it had been made there. So a run whose node is lost
goes on from there on another, and a driver that is started again goes on with all, on a cluster or not.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from errno import ENOSPC
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from hicra.spread import DiskFullError, Nodes, OnRay, check_node, disk_full
from hicra.study.launch import Job, ended, start, status
from hicra.study.profiles import Profile
from hicra.study.record.checkpoints import KEPT, sealed, step_of
from hicra.study.record.mirror import MANIFEST, newest_first, update_run
from hicra.study.record.run_folder import RECORDS, RunError, RunFolder
from hicra.study.training.plan import RunPlan

POLL_SECONDS = 1.0
NEWS_SECONDS = 10.0  # a node says how far it is, if nothing else happens
LOSSES = 5  # nodes in a row that a run may be lost with before it has a new checkpoint
SCRATCH = "hicra-run-"
LEAST = 1 << 20  # bytes; what failed on a disk with less than that failed for want of room


class News(NamedTuple):
    """How far a run is; what it has sealed since, as a tar file (b"" for nothing); and whether it is over."""

    status: str
    sealed: str
    archive: bytes
    over: bool


class RunOnNode:
    """One run on the node where it is, as an actor."""

    def begin(self, code: str, plan: RunPlan, name: str, archive: bytes) -> News:
        """Start the run, or go on from an archive. Raises DiskFullError, as `news` does."""
        check_node(code)
        for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):  # by an actor that was killed
            if not psutil.pid_exists(int(left.name.split("-")[2])):
                shutil.rmtree(left, ignore_errors=True)
        with self._room():
            self.scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))
            self.run = RunFolder(self.scratch / "runs" / name)
            self.run.path.mkdir(parents=True)
            if archive:
                receive(self.run, archive)
            self.process = start(plan, self.run.path)
        return self.news("")

    def news(self, known: str) -> News:
        """What is new since the archive of the name `known`, after a while if nothing is.

        Raises RunError where the run failed.
        """
        waits_until = time.monotonic() + NEWS_SECONDS
        packed = self.scratch / "packed"
        with self._room():
            while True:
                over = ended(self.process, self.run)
                try:
                    update_run(self.run, packed)
                except FileNotFoundError:  # a checkpoint was removed for a newer one meanwhile
                    continue
                newest = next(iter(newest_first(packed)), None)
                if over or (newest and newest.name != known) or time.monotonic() > waits_until:
                    break
                time.sleep(POLL_SECONDS)
            told = status([self.run])
            new = newest is not None and newest.name != known
            found = News(told, newest.name if newest else "", newest.read_bytes() if new else b"", over)
        if over:
            shutil.rmtree(self.scratch)
        return found

    @contextmanager
    def _room(self) -> Iterator[None]:
        """DiskFullError for what fails for want of room, where `scratch` would lie."""
        folder = tempfile.gettempdir()
        try:
            yield
        except (OSError, RunError) as error:
            told = os.strerror(ENOSPC) in str(error) or shutil.disk_usage(folder).free < LEAST
            if told and hasattr(self, "scratch"):
                shutil.rmtree(self.scratch, ignore_errors=True)
            if told:
                raise disk_full(folder) from None
            raise


def receive(run: RunFolder, archive: bytes) -> None:
    """Put what a mirror's file holds into a run's folder, so that it can go on whenever this is cut short.

    Records come before the checkpoint that needs them, and the manifest of a finished run after all else.
    """
    unpacked = run.path / ".received"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as stream:
        stream.extractall(unpacked, filter="data")
    parts = [path for path in unpacked.iterdir() if path.name not in (MANIFEST, "checkpoints")]
    for path in [*parts, unpacked / MANIFEST, *(unpacked / "checkpoints").glob("*")]:
        target = run.path / path.relative_to(unpacked)
        target.parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        os.replace(path, target)
    shutil.rmtree(unpacked)
    if run.finished:
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
        for name in RECORDS:
            (run.path / name).unlink(missing_ok=True)
    for old in sealed(run.path / "checkpoints")[KEPT:]:
        shutil.rmtree(old)


def packed(run: RunFolder) -> bytes:
    """The newest sealed checkpoint of a run with its records, as a tar file; b"" where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        if run.manifest_path.exists():
            update_run(run, Path(folder))
        return next((path.read_bytes() for path in newest_first(Path(folder))), b"")


def needs(nodes: Nodes, profile: Profile) -> dict[str, int]:
    """What a run asks Ray for: GPUs where the cluster has any, else a core."""
    gpus = any(node["Resources"].get("GPU") for node in nodes.alive())
    return {"num_gpus": profile.processes} if gpus else {"num_cpus": 1}


def places(nodes: Nodes, profile: Profile) -> int:
    """How many runs fit at once. RunError where none does."""
    [(kind, n)] = needs(nodes, profile).items()
    name = {"num_gpus": "GPU", "num_cpus": "CPU"}[kind]
    held = [int(node["Resources"].get(name, 0)) for node in nodes.alive()]
    if not sum(one // n for one in held):
        raise RunError(
            f"a run needs {n} {name} of one node, and the nodes have {held}; set processes to fewer"
        )
    return sum(one // n for one in held)


def sampler_there(spread: OnRay, profile: Profile) -> str:
    """What would sample a run of the profile on the cluster's nodes."""
    from hicra.study.policy.rollouts import sampler_of

    import ray

    return ray.get(spread.submit("note", sampler_of, (profile,), **needs(spread.nodes, profile))[1])


def train_on_cluster(
    jobs: Sequence[Job],
    spread: OnRay,
    *,
    report: Callable[[str], None],
    finished: Callable[[Job], None],
    workers: int | None = None,
) -> None:
    """Make the runs in order, as `launch.train_all` does, as many at once as the cluster holds.

    Raises RunError too for a run that is lost again and again, and HicraError where no node has room.
    """
    for job in jobs:
        job.plan.check(job.folder)
    _Sweep(jobs, spread, report, finished).make(workers)


class _Sweep:
    def __init__(self, jobs: Sequence[Job], spread: OnRay, report, finished) -> None:
        import ray

        self.actor = ray.remote(RunOnNode)
        self.waiting = [job for job in jobs if not job.folder.finished]
        self.spread, self.report, self.finished = spread, report, finished
        self.running: dict[Any, tuple[Job, Any]] = {}  # news to come: whose, and its actor
        self.told: dict[Job, str] = {}
        self.losses: Counter[str] = Counter()
        self.locks: dict[Job, ExitStack] = {}

    def make(self, workers: int | None) -> None:
        import ray

        try:
            while self.waiting or self.running:
                profile = (self.waiting or [job for job, _ in self.running.values()])[0].plan.profile
                free = places(self.spread.nodes, profile)  # nodes come and go
                while self.waiting and len(self.running) < min(free, workers or free):
                    self._begin(self.waiting.pop(0))
                for news in ray.wait(list(self.running), timeout=POLL_SECONDS)[0]:
                    self._take(news)
        finally:
            for _, actor in self.running.values():
                ray.kill(actor)
            for lock in self.locks.values():
                lock.close()

    def _begin(self, job: Job) -> None:
        run = job.folder
        self.locks[job] = ExitStack()
        self.locks[job].enter_context(run.lock())
        nodes = self.spread.nodes
        options = {**needs(nodes, job.plan.profile), **nodes.allowed(), "scheduling_strategy": "SPREAD"}
        actor = self.actor.options(**options).remote()
        news = actor.begin.remote(self.spread.code, job.plan, run.path.name, packed(run))
        self.running[news] = job, actor

    def _take(self, coming) -> None:
        import ray

        job, actor = self.running.pop(coming)
        run = job.folder
        try:
            news = ray.get(coming)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, DiskFullError):
                raise (error.cause if isinstance(error.cause, ValueError) else error) from None
            self.spread.nodes.leave_out(*error.cause.args)
            self._again(job, actor)
            return
        except ray.exceptions.RayActorError:
            self._lost(run)
            self._again(job, actor)
            return
        if news.archive:
            receive(run, news.archive)
            job.plan.check(run)
            del self.losses[run.path.name]
        self.told[job] = news.status
        if news.over:
            ray.kill(actor)
            self.locks.pop(job).close()
            self.finished(job)
        else:
            self.running[actor.news.remote(news.sealed)] = job, actor
        self.report(", ".join(self.told[job] for job, _ in self.running.values() if job in self.told))

    def _lost(self, run: RunFolder) -> None:
        name = run.path.name
        self.losses[name] += 1
        if self.losses[name] > LOSSES:
            raise RunError(
                f"{name} was lost with its node {self.losses[name]} times without a new checkpoint; are its "
                "nodes out of memory? Make fewer at once, by --workers"
            )
        step = next((step_of(path) for path in sealed(run.path / "checkpoints")), 0)
        self.report(f"{name} was lost with its node; it goes on elsewhere from step {step}")

    def _again(self, job: Job, actor) -> None:
        import ray

        ray.kill(actor)
        self.locks.pop(job).close()
        self.waiting.insert(0, job)
