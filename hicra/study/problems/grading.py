r"""Answer extraction and verification: the reward of a completion, and the reason for it.

The reward is 1 for a verified answer and 0 for everything else (strict matching on `\boxed{}`, method
section 5). Answers are read here (answers.py) and compared in worker processes with hard limits on
processor time and memory (grading_worker.py); model text is never run. An answer that cannot be verified
is never right. docs/grading.md says what is compared, normalised and strict on purpose.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple, Self

from hicra.boxed import extract_boxed
from hicra.errors import HicraError
from hicra.study.problems.answers import read

REASONS = ("right", "wrong", "no_box", "unparseable", "timeout")
TIMEOUT = 3.0  # seconds of processor time for one answer
MEMORY = 1 << 30  # bytes of address space of one worker
MAX_LENGTH, MAX_DEPTH = 1000, 40  # of an answer, in characters and in nested brackets
STARTUP = 120.0  # seconds that loading math-verify may take
CLOCK = 10  # a worker that needs this many times its processor time on the clock is stuck

_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<plain>[0-9]{1,100}(?:\.[0-9]{1,100})?)|(?P<a>[0-9]{1,100})/(?P<b>[0-9]{1,100})"
    r"|\\[dt]?frac\{(?P<x>[0-9]{1,100})\}\{(?P<y>[0-9]{1,100})\})"
)


class Grade(NamedTuple):
    """Reward 1.0 or 0.0, and why: right, wrong, no_box, unparseable or timeout."""

    reward: float
    reason: str


def quick(gold: str, answer: str) -> str | None:
    """A verdict without a worker: equal text, two plain numbers, words, or what cannot be read."""
    if gold == answer:
        return "right"
    numbers = _number(gold), _number(answer)
    if None not in numbers:
        if numbers[0] == numbers[1]:
            return "right"
        if "." not in gold + answer:  # decimals may agree after rounding: a worker decides
            return "wrong"
    if _doubtful(gold) or _doubtful(answer):
        return "unparseable"
    return _read_verdict(read(gold), read(answer))


def _read_verdict(gold, answer) -> str | None:
    """What the two trees settle by themselves: unreadable, the same, or words beside no words."""
    if gold is None or answer is None:
        return "unparseable"
    if gold == answer:
        return "right"
    return "wrong" if gold[0] == answer[0] == "text" else None


def _number(text: str) -> Fraction | None:
    """The exact value of a plain integer, decimal or fraction in ASCII digits, else None."""
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    top = found["plain"] or found["a"] or found["x"]
    bottom = found["b"] or found["y"] or "1"
    return Fraction(found["sign"] + top) / int(bottom) if int(bottom) else None


def _doubtful(answer: str) -> bool:
    """Empty, too long, too deep or not printable ASCII."""
    if not answer or len(answer) > MAX_LENGTH or not (answer.isascii() and answer.isprintable()):
        return True
    return _depth(answer) > MAX_DEPTH


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, abs(depth))
    return deepest


def tidy(answer: str) -> str:
    """Line breaks as spaces, no space around, no full stop at the end."""
    return re.sub(r"[ \t\r\n]+", " ", answer).strip(" ").removesuffix(".").rstrip(" ")


# --- worker processes ------------------------------------------------------------------------------


class _Worker:
    """One grading_worker.py process; ask() gives its verdict or the reason why there is none."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.process = timeout, None

    def ask(self, request: bytes) -> str:
        try:
            for _ in range(2):  # once more where the process itself was killed from outside
                if self.process is None:
                    self._start()
                verdict = self._request(request)
                if verdict:
                    return verdict
                self.stop()
        except (
            BaseException
        ):  # Ctrl-C or an alarm: the answer that is under way must not meet the next request
            self.stop()
            raise
        return "died"

    def _request(self, request: bytes) -> str:
        try:
            self.process.stdin.write(request)
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


class _Pool:
    """The workers of one process, each lent to one thread at a time; all callers share them."""

    def __init__(self, size: int, timeout: float) -> None:
        self.workers = [_Worker(timeout) for _ in range(size)]
        self.idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self.lock, self.closed = threading.Lock(), False  # the lock is for the counters alone
        for worker in self.workers:
            self.idle.put(worker)

    def ask(self, request: bytes) -> str:
        worker = self.idle.get()
        try:
            return worker.ask(request)
        finally:
            self.idle.put(worker)
            if self.closed:
                self.close()

    def close(self) -> None:
        """End the processes that no thread holds; the others end when they are given back."""
        self.closed = True
        idle = []
        with suppress(queue.Empty):
            while True:
                idle.append(self.idle.get_nowait())
        for worker in idle:
            worker.stop()
            self.idle.put(worker)

    def let_go(self) -> None:
        """Close the parent's pipes in its fork, so that its workers end with it."""
        for worker in self.workers:
            if worker.process is not None:
                worker.process.stdin.close()
                worker.process.stdout.close()


class Verifier:
    """Worker processes that grade answers; a context manager that ends them.

    Threads, asyncio tasks and forked processes may use one verifier at the same time: a process that was
    forked from the one that made it starts workers of its own. `timeout` is in seconds of processor time for
    one answer, `workers` the number of processes (default: one per core, at most 8). They start when a first
    answer needs them, and a worker that dies or takes too long is replaced. `counts` holds the completions
    graded by reason, `replaced` the workers that an answer ended.
    """

    def __init__(self, *, timeout: float = TIMEOUT, workers: int | None = None) -> None:
        if not 0 < timeout <= 3600:
            raise HicraError(f"timeout is {timeout} seconds; it must be above 0 and at most 3600")
        if workers is not None and workers < 1:
            raise HicraError(f"workers is {workers}; at least one process is needed")
        self.timeout, self.size = timeout, workers or min(8, os.cpu_count() or 1)
        self.pools: dict[int, _Pool] = {}  # by process id, so that a fork never touches its parent's
        self.counts, self.replaced = Counter(dict.fromkeys(REASONS, 0)), 0
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes. A forked child leaves those of its parent alone."""
        pool = self.pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close()

    @property
    def pool(self) -> _Pool:
        """This process's workers. `setdefault` is atomic: threads that come first together get one pool."""
        if own := self.pools.get(os.getpid()):
            return own
        for pid, pool in list(self.pools.items()):
            if pid != os.getpid():
                pool.let_go()
        return self.pools.setdefault(os.getpid(), _Pool(self.size, self.timeout))

    @property
    def workers(self) -> list[_Worker]:
        return self.pool.workers

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The workers' verdict on each (gold, answer): right, wrong, unparseable, timeout, died."""
        distinct = list(dict.fromkeys(pairs))  # the answers of a group often agree
        pool = self.pool

        def ask(pair: tuple[str, str]) -> str:
            trees = [read(text) for text in pair]
            return "unparseable" if None in trees else pool.ask(json.dumps(trees).encode() + b"\n")

        if len(distinct) < 2:
            verdicts = list(map(ask, distinct))
        else:
            with ThreadPoolExecutor(min(len(distinct), self.size)) as threads:
                verdicts = list(threads.map(ask, distinct))
        with pool.lock:
            self.replaced += sum(v in ("timeout", "died") for v in verdicts)
        verdict = dict(zip(distinct, verdicts, strict=True))
        return [verdict[pair] for pair in pairs]

    def grade(
        self, completions: Sequence[str], answers: Sequence[str], *, prefilled_think: bool = False
    ) -> list[Grade]:
        """As the function `grade`."""
        _check(completions, answers)
        boxes = [extract_boxed(c, prefilled_think=prefilled_think) for c in completions]
        pairs = [(tidy(a), tidy(b or "")) for a, b in zip(answers, boxes, strict=True)]
        reasons = ["no_box" if box is None else quick(*pair) for box, pair in zip(boxes, pairs, strict=True)]
        open_ = [i for i, reason in enumerate(reasons) if reason is None]
        for i, verdict in zip(open_, self.verify([pairs[i] for i in open_]), strict=True):
            reasons[i] = "unparseable" if verdict == "died" else verdict
        with self.pool.lock:
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


_SHARED: dict[tuple[float, int | None], Verifier] = {}  # a verifier per setting, for the function `grade`


def grade(
    completions: Sequence[str],
    answers: Sequence[str],
    *,
    timeout: float = TIMEOUT,
    workers: int | None = None,
    prefilled_think: bool = False,
) -> list[Grade]:
    r"""Grade each completion's `\boxed` answer against its gold answer, method section 5.

    Numbers are compared exactly, decimals in 6 decimals and 5 digits, words as text (docs/grading.md), in
    worker processes that live until the program ends. Threads, forked processes and asyncio may call this
    at the same time; in a coroutine, `await asyncio.to_thread(grade, ...)` lets others go on. Reasons:
    right; wrong; no_box, no complete box in the answer; unparseable, not readable as an answer or beyond
    the limits on length, depth and memory; timeout, over `timeout` seconds of processor time. Raises
    ValueError for lists of different lengths, for what is not text and for an empty gold answer,
    RuntimeError where math-verify cannot be started.

    >>> grade([r"so it is \boxed{\frac{2}{4}}"], ["0.5"])
    [Grade(reward=1.0, reason='right')]
    """
    verifier = _SHARED.get((timeout, workers))
    if verifier is None:  # setdefault is atomic: of two first calls, one verifier stays
        verifier = _SHARED.setdefault((timeout, workers), Verifier(timeout=timeout, workers=workers))
    return verifier.grade(completions, answers, prefilled_think=prefilled_think)
