r"""Answer extraction and verification: the reward of a completion, and the reason for it.

The reward is 1 for a verified answer and 0 for everything else (strict matching on `\boxed{}`, method
section 5). Model text is never run and is compared in worker processes with hard limits on processor
time and memory (grading_worker.py). An answer that cannot be verified is never right.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import queue
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple, Self

from hicra.boxed import extract_boxed

REASONS = ("right", "wrong", "no_box", "unparseable", "timeout")
TIMEOUT = 3.0  # seconds of processor time for one answer
MEMORY = 1 << 30  # bytes of address space of one worker
MAX_LENGTH, MAX_DEPTH = 1000, 40  # of an answer, in characters and in nested brackets
STARTUP = 120.0  # seconds that loading math-verify may take
CLOCK = 10  # a worker that needs this many times its processor time on the clock is stuck

_SIDE_BY_SIDE = re.compile(r"[0-9](?:[ $~]|\\[ ;:]|\\q?quad)+[0-9]")  # math-verify would add them
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<plain>[0-9]{1,100}(?:\.[0-9]{1,100})?)|(?P<a>[0-9]{1,100})/(?P<b>[0-9]{1,100})"
    r"|\\[dt]?frac\{(?P<x>[0-9]{1,100})\}\{(?P<y>[0-9]{1,100})\})"
)


class Grade(NamedTuple):
    """Reward 1.0 or 0.0, and why: right, wrong, no_box, unparseable or timeout."""

    reward: float
    reason: str


def _quick(gold: str, answer: str) -> str | None:
    """A verdict without math-verify: equal text, two plain numbers, or a hopeless answer."""
    if gold == answer:
        return "right"
    numbers = _number(gold), _number(answer)
    if None not in numbers:
        if numbers[0] == numbers[1]:
            return "right"
        if "." not in gold + answer:  # decimals may agree after rounding: math-verify decides
            return "wrong"
    return "unparseable" if _doubtful(gold) or _doubtful(answer) else None


def _number(text: str) -> Fraction | None:
    """The exact value of a plain integer, decimal or fraction in ASCII digits, else None."""
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    top = found["plain"] or found["a"] or found["x"]
    bottom = found["b"] or found["y"] or "1"
    return Fraction(found["sign"] + top) / int(bottom) if int(bottom) else None


def _doubtful(answer: str) -> bool:
    """Empty, too long, too deep, not printable ASCII, or two numbers side by side ("5 6")."""
    if not answer or len(answer) > MAX_LENGTH or not (answer.isascii() and answer.isprintable()):
        return True
    return _depth(answer) > MAX_DEPTH or _SIDE_BY_SIDE.search(answer) is not None


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, abs(depth))
    return deepest


def _tidy(answer: str) -> str:
    """Line breaks as spaces, no space around, no full stop at the end."""
    return re.sub(r"[ \t\r\n]+", " ", answer).strip(" ").removesuffix(".").rstrip(" ")


# --- worker processes ------------------------------------------------------------------------------


class _Worker:
    """One grading_worker.py process; ask() gives its verdict or the reason why there is none."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.process = timeout, None

    def ask(self, gold: str, answer: str) -> str:
        for _ in range(2):  # once more where the process itself was killed from outside
            if self.process is None:
                self._start()
            verdict = self._request(gold, answer)
            if verdict:
                return verdict
            self.stop()
        return "died"

    def _request(self, gold: str, answer: str) -> str:
        try:
            self.process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
        except BrokenPipeError:
            return ""
        if wait([self.process.stdout], self.timeout * CLOCK):
            return self.process.stdout.readline().decode().strip()
        self.stop()
        return "timeout"

    def _start(self) -> None:
        program = Path(__file__).with_name("grading_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, "-P", program, str(self.timeout), str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=_environment(),
            start_new_session=True,  # one process group to kill; Ctrl-C stays with the parent
        )
        ready = wait([self.process.stdout], STARTUP)
        said = self.process.stdout.readline().decode().strip() if ready else "no word in time"
        if said != "ready":
            self.stop()
            raise RuntimeError(
                f"the answer verifier did not start ({said or 'it died'}); "
                "install the locked requirements (math-verify) and try again"
            )

    def stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):  # all of the group has ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def _environment() -> dict[str, str]:
    """What Python needs to start, and no token; a fixed hash seed makes sympy's order the same."""
    names = ("PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
    return {n: os.environ[n] for n in names if n in os.environ} | {"PYTHONHASHSEED": "0"}


class Verifier:
    """Worker processes that grade answers; a context manager that ends them.

    `timeout` is in seconds of processor time for one answer, `workers` the number of processes
    (default: one per core, at most 8). They start when a first answer needs them, and a worker that
    dies or takes too long is replaced. `counts` holds the completions graded by reason, `replaced`
    the workers that an answer ended.
    """

    def __init__(self, *, timeout: float = TIMEOUT, workers: int | None = None) -> None:
        if not 0 < timeout <= 3600:
            raise ValueError(f"timeout is {timeout} seconds; it must be above 0 and at most 3600")
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; at least one process is needed")
        self.owner = os.getpid()
        self.workers = [_Worker(timeout) for _ in range(workers or min(8, os.cpu_count() or 1))]
        self.counts, self.replaced = Counter(dict.fromkeys(REASONS, 0)), 0
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes. A forked child leaves those of its parent alone."""
        if self.owner == os.getpid():
            for worker in self.workers:
                worker.stop()
        atexit.unregister(self.close)

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The workers' verdict on each (gold, answer): right, wrong, unparseable, timeout, died."""
        distinct = list(dict.fromkeys(pairs))  # the answers of a group often agree
        if not distinct:
            return []
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self.workers:
            idle.put(worker)

        def ask(pair: tuple[str, str]) -> str:
            worker = idle.get()
            try:
                return worker.ask(*pair)
            finally:
                idle.put(worker)

        with ThreadPoolExecutor(len(self.workers)) as threads:
            verdict = dict(zip(distinct, threads.map(ask, distinct), strict=True))
        self.replaced += sum(v in ("timeout", "died") for v in verdict.values())
        return [verdict[pair] for pair in pairs]

    def grade(
        self, completions: Sequence[str], answers: Sequence[str], *, prefilled_think: bool = False
    ) -> list[Grade]:
        """As the function `grade`."""
        _check(completions, answers)
        boxes = [extract_boxed(c, prefilled_think=prefilled_think) for c in completions]
        pairs = [(_tidy(a), _tidy(b or "")) for a, b in zip(answers, boxes, strict=True)]
        reasons = ["no_box" if box is None else _quick(*pair) for box, pair in zip(boxes, pairs, strict=True)]
        open_ = [i for i, reason in enumerate(reasons) if reason is None]
        for i, verdict in zip(open_, self.verify([pairs[i] for i in open_]), strict=True):
            reasons[i] = "unparseable" if verdict == "died" else verdict
        self.counts.update(reasons)
        return [Grade(float(reason == "right"), reason) for reason in reasons]


def _check(completions: Sequence[str], answers: Sequence[str]) -> None:
    if len(completions) != len(answers):
        raise ValueError(
            f"{len(completions)} completions and {len(answers)} answers; give one answer for each"
        )
    for name, texts in (("completions", completions), ("answers", answers)):
        odd = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if odd is not None:
            kind = type(texts[odd]).__name__
            raise ValueError(f"{name}[{odd}] is a {kind}; it must be a string")
    empty = next((i for i, answer in enumerate(answers) if not answer.strip()), None)
    if empty is not None:
        raise ValueError(f"answers[{empty}] is empty; a problem needs its gold answer")


@functools.cache
def _shared(owner: int, timeout: float, workers: int | None) -> Verifier:
    """One verifier per process (`owner`, so that a fork makes its own) and setting."""
    return Verifier(timeout=timeout, workers=workers)


def grade(
    completions: Sequence[str],
    answers: Sequence[str],
    *,
    timeout: float = TIMEOUT,
    workers: int | None = None,
    prefilled_think: bool = False,
) -> list[Grade]:
    r"""Grade each completion's `\boxed` answer against its gold answer, method section 5.

    Two plain numbers or fractions are compared exactly, other answers by math-verify in worker processes
    that live until the program ends. Decimals must agree in 6 decimals and 5 digits. Reasons:
    right; wrong; no_box, no complete box in the answer; unparseable, not readable as mathematics or beyond
    the limits on length, depth and memory; timeout, over `timeout` seconds of processor time. Raises
    ValueError for lists of different lengths, for what is not text and for an empty gold answer,
    RuntimeError where math-verify cannot be started.
    """
    verifier = _shared(os.getpid(), timeout, workers)
    return verifier.grade(completions, answers, prefilled_think=prefilled_think)
