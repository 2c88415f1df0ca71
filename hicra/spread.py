"""Pure functions mapped over parts and reduced: in this process, or on a Ray cluster.

Results come in the order of the parts and merges join neighbours, so that nothing depends on where or when a
function ran. A node that is lost takes nothing with it: Ray makes what it held anew, by the same functions.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import platform
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from hicra.errors import HicraError, MissingExtraError
from hicra.files import PACKAGE, folder_sha256

RETRIES = 5  # nodes that a task may be lost with
NODE_ID = "ray.io/node-id"
DECIDING = ("numpy", "pandas", "regex", "scipy")  # packages that decide bits, beside hicra itself


class DiskFullError(HicraError):
    """A node without room: its id, its name and the folder."""


class Here:
    """The parts of this process."""

    def map(self, function: Callable, items: Iterable[tuple], *common) -> Iterable[Any]:
        """function(*item, *common) of each item, in order."""
        return (function(*item, *common) for item in items)

    def keep(self, function: Callable, items: Iterable[tuple], *common) -> tuple[list, list]:
        """The values and the notes of functions that give both; values stay where they were made."""
        made = [function(*item, *common) for item in items]
        return [value for value, _ in made], [note for _, note in made]

    def reduce(self, function: Callable, merge: Callable, items: Sequence[tuple], *common) -> Any:
        """function(*item, *common) of all items, merged in order; `merge` is associative."""
        return functools.reduce(merge, self.map(function, items, *common))


class OnRay:
    """The same by tasks of a connected Ray cluster; an item's values that were kept are given as they are.

    A node whose disk is full gets no more tasks, and `report` a line that names it. Raises what the function
    raises of the first item for which it does, and HicraError where no node has room.
    """

    def __init__(self, report: Callable[[str], None] = print) -> None:
        import ray

        self.nodes, self.code, self.task = Nodes(report), fingerprint(), ray.remote(_task)

    def map(self, function: Callable, items: Iterable[tuple], *common) -> list[Any]:
        return self._tasks("note", function, items, common)[1]

    def keep(self, function: Callable, items: Iterable[tuple], *common) -> tuple[list, list]:
        return self._tasks("both", function, items, common)

    def reduce(self, function: Callable, merge: Callable, items: Sequence[tuple], *common) -> Any:
        import ray

        values, _ = self._tasks("value", function, items, common)
        while len(values) > 1:
            pairs = list(zip(values[::2], values[1::2], strict=False))
            odd = values[len(pairs) * 2 :]
            values = self._tasks("value", merge, pairs, ())[0] + odd
        return ray.get(values[0])

    def _tasks(self, gives: str, function: Callable, items: Iterable[tuple], common: tuple):
        """References to all values, and all notes; returns when every task is done."""
        import ray

        shared = [ray.put(argument) for argument in common]
        calls = [(*item, *shared) for item in items]
        begun = [self.submit(gives, function, call) for call in calls]
        notes: list[Any] = []
        for i, call in enumerate(calls):
            while len(notes) == i:
                try:
                    notes.append(ray.get(begun[i][1]))
                except ray.exceptions.RayTaskError as error:
                    if not isinstance(error.cause, DiskFullError):
                        raise (error.cause if isinstance(error.cause, HicraError) else error) from None
                    self.nodes.leave_out(*error.cause.args)
                    begun[i] = self.submit(gives, function, call)
        return [value for value, _ in begun], notes

    def submit(self, gives: str, function: Callable, call: tuple, **options):
        """References to a task's value and note."""
        told = {"num_returns": 2, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        task = self.task.options(**{**told, **self.nodes.allowed(), **options})
        return task.remote(self.code, gives, function, *call)


class Nodes:
    """The cluster's nodes, without those whose disk is full."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report, self.full = report, set[str]()

    def alive(self) -> list[dict]:
        import ray

        return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self.full]

    def leave_out(self, node: str, name: str, folder: str) -> None:
        if node not in self.full:
            self.full.add(node)
            self.report(f"no space left in {folder} of node {name}: its work goes to other nodes")
        if not self.alive():
            raise HicraError(
                f"no node has room left, the last was {name}; make room in {folder}, or set TMPDIR where "
                "nodes are started"
            )

    def allowed(self) -> dict:
        """The options that keep a task or an actor off the full nodes."""
        full = ",".join(sorted(self.full))
        return {"label_selector": {NODE_ID: f"!in({full})"}} if full else {}


@functools.cache
def fingerprint() -> str:
    """What must be equal on all nodes for equal bits: Python, hicra's code, and the packages that count."""
    versions = [f"{name} {version(name)}" for name in DECIDING]
    return ", ".join([f"Python {platform.python_version()}", *versions, folder_sha256(PACKAGE, "*.py")[:12]])


def check_node(code: str) -> None:
    """Raise HicraError on a node that would compute by other code than the driver's."""
    if fingerprint() != code:
        raise HicraError(
            f"node {platform.node()} has {fingerprint()}, this machine {code}; install the same on all"
        )


def disk_full(folder: str) -> DiskFullError:
    """The error of this node, whose folder is full."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    return DiskFullError(node, f"{platform.node()} ({node[:8]})", folder)


def _task(code: str, gives: str, function: Callable, *arguments) -> tuple[Any, Any]:
    check_node(code)
    try:
        found = function(*arguments)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise disk_full(tempfile.gettempdir()) from None
        raise
    return found if gives == "both" else (found, None) if gives == "value" else (None, found)


@contextmanager
def cluster(address: str, report: Callable[[str], None] = print) -> Iterator[OnRay]:
    """A Ray cluster while the `with` lasts: `local` starts one of this machine, which ends with it.

    Else what `ray.init` takes: `auto`, HOST:PORT, ray://HOST:10001. Writes nothing into the home folder and
    sends no statistics. Raises MissingExtraError without Ray, HicraError where no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(f"--on {address}", "ray", "ray") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options["include_dashboard"] = False
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray keeps one in the home folder
    if address.startswith("ray://"):
        options = {}  # a client takes none of them
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # where nobody answers, Ray tries for minutes and ends the process
            socket.create_connection((host, int(port)), 10).close()
        ray.init(address, **options)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HicraError(
            f"--on {address}: no Ray cluster there ({reason}); start one: ray start --head"
        ) from error
    try:
        yield OnRay(report)
    finally:
        ray.shutdown()
