r"""Answer extraction and verification: the reward of a completion, and the reason for it.

The reward is 1 for a verified answer and 0 for everything else (strict matching on `\boxed{}`, method
section 5). Model text is never run and is compared in worker processes with hard limits on processor
time and memory (grading_worker.py). An answer that cannot be verified is never right.
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
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple, Self

from hicra.boxed import extract_boxed
from hicra.errors import HicraError

REASONS = ("right", "wrong", "no_box", "unparseable", "timeout")
TIMEOUT = 3.0  # seconds of processor time for one answer
MEMORY = 1 << 30  # bytes of address space of one worker
MAX_LENGTH, MAX_DEPTH = 1000, 40  # of an answer, in characters and in nested brackets
STARTUP = 120.0  # seconds that loading math-verify may take
CLOCK = 10  # a worker that needs this many times its processor time on the clock is stuck

_SIDE_BY_SIDE = re.compile(
    r"(?<![_^0-9])[0-9]+(?:[ $~]|\\[ ;:]|\\q?quad)+[0-9]"
)  # math-verify would add them
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


_SEPARATOR = r"(?:,?\\[,;:! ]|~|\{,\}|\\thinspace | )"
_GROUPED = re.compile(rf"(?<![0-9.])([0-9]{{1,3}})((?:{_SEPARATOR}[0-9]{{3}})+)(?![0-9])")  # 10\,000
_FIRST = r"\\?\$? ?-?(?:[0-9][0-9,.]*|\\frac ?(?:[0-9]|\{[0-9]+\}) ?(?:[0-9]|\{[0-9]+\}))"
_UNIT = re.compile(
    rf"^({_FIRST}) +((?!and\b|or\b)[A-Za-z]{{2}}[A-Za-z ]*)((?:\^\{{?[0-9]\}}?)?)$"
)  # 18 dollars
# Ways of writing that carry no meaning, and how each is written for the comparison: see docs/grading.md.
_TYPOGRAPHY = (
    (re.compile(r"[ \t\r\n]+"), " "),
    (_GROUPED, lambda groups: groups[1] + re.sub("[^0-9]", "", groups[2])),
    (re.compile(r"\\(?:mathrm|textrm|text|operatorname) ?\{ ?([A-Za-z]) ?\}"), r"{\1}"),  # an upright letter
    (re.compile(r"\\(?:varnothing\b|\{ ?\\\})"), r"\\emptyset"),
    (re.compile(r"\\[td]frac\b"), r"\\frac"),
    (_UNIT, r"\1 \\text{ \2}\3"),
)


def _tidy(answer: str) -> str:
    """The answer without what carries no meaning; no space around, no full stop at the end."""
    for pattern, plain in _TYPOGRAPHY:
        answer = pattern.sub(plain, answer)
    return answer.strip(" ").removesuffix(".").rstrip(" ")


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


class _Pool:
    """One process's workers, and who of them is idle. Threads share it; a fork makes its own."""

    def __init__(self, timeout: float, workers: int) -> None:
        self.workers = [_Worker(timeout) for _ in range(workers)]
        self.idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self.workers:
            self.idle.put(worker)
        self.lock, self.counts, self.replaced = threading.Lock(), Counter(dict.fromkeys(REASONS, 0)), 0

    def ask(self, pair: tuple[str, str]) -> str:
        worker = self.idle.get()
        try:
            return worker.ask(*pair)
        except BaseException:  # its answer would be taken for the next question's
            worker.stop()
            raise
        finally:
            self.idle.put(worker)

    def count(self, reasons: Sequence[str], replaced: int) -> None:
        with self.lock:
            self.counts.update(reasons)
            self.replaced += replaced

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()

    def let_go(self) -> None:
        """Close a parent's pipes in its fork; the workers stay the parent's."""
        for worker in self.workers:
            if worker.process is not None:
                worker.process.stdin.close()
                worker.process.stdout.close()


class Verifier:
    """Worker processes that grade answers; a context manager that ends them.

    `timeout` is in seconds of processor time for one answer, `workers` the number of processes
    (default: one per core, at most 8). They start when a first answer needs them, and a worker that
    dies or takes too long is replaced. Threads may share a verifier: each question has one worker to itself.
    A forked process that uses its parent's verifier gets workers of its own. `counts` holds the completions
    graded by reason, `replaced` the workers that an answer ended, both of this process.
    """

    def __init__(self, *, timeout: float = TIMEOUT, workers: int | None = None) -> None:
        if not 0 < timeout <= 3600:
            raise HicraError(f"timeout is {timeout} seconds; it must be above 0 and at most 3600")
        if workers is not None and workers < 1:
            raise HicraError(f"workers is {workers}; at least one process is needed")
        self._make = partial(_Pool, timeout, workers or min(8, os.cpu_count() or 1))
        self._pools: dict[int, _Pool] = {}
        atexit.register(self.close)

    @property
    def _pool(self) -> _Pool:
        """This process's pool. `setdefault` is atomic, so that threads that come first together share one."""
        found = self._pools.get(os.getpid())
        if found is None:
            found = self._pools.setdefault(os.getpid(), self._make())
            for parent in [pool for pid, pool in list(self._pools.items()) if pid != os.getpid()]:
                parent.let_go()
        return found

    @property
    def counts(self) -> Counter[str]:
        return self._pool.counts

    @property
    def replaced(self) -> int:
        return self._pool.replaced

    @property
    def workers(self) -> list[_Worker]:
        return self._pool.workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes. A forked child leaves those of its parent alone."""
        if own := self._pools.get(os.getpid()):
            own.stop()
        atexit.unregister(self.close)

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The workers' verdict on each (gold, answer): right, wrong, unparseable, timeout, died."""
        distinct = list(dict.fromkeys(pairs))  # the answers of a group often agree
        if not distinct:
            return []
        pool = self._pool
        with ThreadPoolExecutor(min(len(pool.workers), len(distinct))) as threads:
            verdict = dict(zip(distinct, threads.map(pool.ask, distinct), strict=True))
        pool.count((), sum(v in ("timeout", "died") for v in verdict.values()))
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
        self._pool.count(reasons, 0)
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


_SHARED: dict[tuple[float, int | None], Verifier] = {}  # by setting; a fork gets workers of its own


def _shared(timeout: float, workers: int | None) -> Verifier:
    """The one verifier of a setting; of threads that come first together one makes it."""
    return _SHARED.get((timeout, workers)) or _SHARED.setdefault(
        (timeout, workers), Verifier(timeout=timeout, workers=workers)
    )


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
    return _shared(timeout, workers).grade(completions, answers, prefilled_think=prefilled_think)
