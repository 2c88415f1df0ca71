"""The program that compares two answers; grading.Verifier runs it as a process.

    python grading_worker.py CPU_SECONDS MEMORY_BYTES

reads one JSON line [gold, answer] at a time, two trees of answers.py, and writes one word for it: right,
wrong, unparseable, timeout or died. The process itself never looks at an answer. It loads the parser and
forks a server; the kernel ends a server that uses more than its processor time (SIGPROF) or cannot work
in its memory, and another one is forked in milliseconds, without loading anything again. Processor time,
not the clock, is limited, so that a busy machine does not change the rewards.

It imports nothing of hicra but the comparison beside it, and runs nothing of what it reads.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
import mmap
import os
import resource
import signal
import sys
from pathlib import Path

# One of each kind: the parser learns its grammar before the first server is forked.
WARM_UP = (
    r"\frac{1}{2}", "0.25", "3/4", r"2\sqrt{3}", "x^{2}-2x+1", r"\frac{\pi }{2}", r"[1+2]\cdot (3)", "1+2i",
    r"\frac{\sqrt{5}-1}{2\cdot 3}", r"4.5\cdot 10^{33}", r"e^{-2t}\cos (\variable{omega}t)+\variable{CZ5fZ1}",
    r"\sin^{2} x", "-7!", r"\binom{5}{2}", "2^{n-1}", r"\log_{2} 3", r"\frac{a+b}{c}", "AB",
    r"\lfloor x\rfloor ", r"\sqrt[3]{2}", r"|x-1|",
    r"\frac{1}{3}E-x(x+1)", r"\emptyset ", r"\mathbb{R}", r"-\infty ",
)  # fmt: skip
SERVED = 500  # answers per server: caches cannot fill the memory limit in a long run
RECYCLE = 3  # exit status of a server that has done its share


def comparison():
    """The module answer_comparison beside this file."""
    path = Path(__file__).with_name("answer_comparison.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verdict(compare, gold, answer) -> str:
    """right, wrong or unparseable (either side). Asymmetric: `gold` is the reference.

    The parser and sympy raise whatever they like over other people's text. While reading that means
    unparseable, while comparing that the answer could not be verified; only memory is the kernel's.
    """
    try:
        compare.parse(gold)
        compare.parse(answer)
    except MemoryError:
        raise
    except Exception:
        return "unparseable"
    try:
        return "right" if compare.same(gold, answer) else "wrong"
    except MemoryError:
        raise
    except Exception:
        return "wrong"


def serve(compare, busy: mmap.mmap, seconds: float, memory: int) -> None:
    """Answer requests until the input ends, under limits that the kernel enforces."""
    for limit, value in (("AS", memory), ("CORE", 0), ("FSIZE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (value, value))
    for _ in range(SERVED):
        line = sys.stdin.buffer.readline()
        if not line:
            os._exit(0)
        busy[0] = 1
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF's default action ends the process
        word = verdict(compare, *json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        busy[0] = 0
        say(word)
    os._exit(RECYCLE)


def supervise(compare, seconds: float, memory: int) -> None:
    """Keep one server running; say what became of the answer that ended it."""
    busy = mmap.mmap(-1, 1)  # shared with the servers: is an answer under way?
    while True:
        server = os.fork()
        if server == 0:
            try:
                serve(compare, busy, seconds, memory)
            finally:  # an exception must end the server, not go on as a second supervisor
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
        if status == 0 or (status != RECYCLE and not busy[0]):
            return
        if busy[0]:
            busy[0] = 0
            say("timeout" if status == -signal.SIGPROF else "died")


def say(word: str) -> None:
    os.write(sys.stdout.fileno(), word.encode() + b"\n")


def main() -> None:
    logging.disable(logging.CRITICAL)
    try:
        compare = comparison()
        words = {verdict(compare, ["expr", text], ["expr", f"{text}+0"]) for text in WARM_UP[:-3]}
        words |= {verdict(compare, ["expr", text], ["expr", f" {text}"]) for text in WARM_UP[-3:]}
    except ImportError as error:
        say(f"math-verify cannot be imported: {error}")
        return
    if words != {"right"}:
        say(f"math-verify does not work: {words}")
        return
    say("ready")
    gc.freeze()  # servers share what is loaded
    gc.set_threshold(20_000)  # parsing makes garbage faster than it is worth collecting
    supervise(compare, float(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
