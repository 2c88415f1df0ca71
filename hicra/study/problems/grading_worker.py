"""The program that compares two answers with math-verify; grading.Verifier runs it as a process.

    python grading_worker.py CPU_SECONDS MEMORY_BYTES

reads one JSON line [gold, answer] at a time and writes one word for it: right, wrong, unparseable,
timeout or died. The process itself never looks at an answer. It loads math-verify and forks a
server; the kernel ends a server that uses more than its processor time (SIGPROF) or cannot work in
its memory, and another one is forked in milliseconds, without loading math-verify again. Processor
time, not the clock, is limited, so that a busy machine does not change the rewards.

The module imports nothing of hicra and runs nothing of what it reads: math-verify's expression
extractor, which ends in Python's eval, is never used, only the LaTeX grammar.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import math
import mmap
import os
import re
import resource
import signal
import sys

# One of each kind: the parser learns its grammar before the first server is forked.
WARM_UP = (
    r"\frac{1}{2}", "0.25", "3/4", r"2\sqrt{3}", r"x^2-2x+1", r"\left(3, \frac{\pi}{2}\right)", "1,2,3",
    r"[1, 2) \cup (3, \infty)", "y = 2x+3", r"\text{Evelyn}", r"90^\circ", r"10\%", r"\$32,348", "1+2i",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\frac{\sqrt{5}-1}{2 \cdot 3}", "4.5e33",
    r"e^{-2 t} \cos(\omega t) + C_1", r"x \in [-2, 7]", r"\sin^2 x", r"\{1, 2\}", "-7!", r"\binom{5}{2}",
    "2^{n-1}", r"\log_2 3", "f(x)=2x", r"1 < x \le 3", r"\frac{a+b}{c}", "3:2", "AB", r"6 \pi \text{ cm}",
)  # fmt: skip
SERVED = 500  # answers per server: caches cannot fill the memory limit in a long run
RECYCLE = 3  # exit status of a server that has done its share
MARGIN = {"exact": 1e-10, "decimal": 1e-4}  # largest relative difference that can still be right
FAR = 1e-3  # a relative difference that is certainly wrong
DIGITS = 6  # decimals that a decimal answer must agree in, math-verify's default


def compare(gold: str, answer: str) -> str:
    """right, wrong or unparseable (either side). Asymmetric: `gold` is the reference."""
    from math_verify import verify

    wanted, given = parsed(gold), parsed(answer)
    if wanted is None or given is None:
        return "unparseable"
    if _far_apart(wanted, given):
        return "wrong"
    digits = _decimals(wanted, given)
    equal = verify(wanted, given, float_rounding=digits, timeout_seconds=None)
    sure = equal and _plain_statement(wanted, given) and _close(wanted, given)
    return "right" if sure and _same_units(gold, answer, wanted, given) else "wrong"


@functools.lru_cache(maxsize=1024)  # the gold answer recurs in its group
def parsed(text: str):
    """The sympy object that `text` as a whole stands for, or None."""
    from math_verify import LatexExtractionConfig, parse

    found = parse(
        f"\\boxed{{{_scientific(text)}}}",
        [LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return found[0] if len(found) == 1 else None


def _scientific(text: str) -> str:
    """4.5e33 as a power of ten: math-verify reads it as 4.5 times Euler's e times 33."""
    number = r"(?<![\w.\\])([0-9]+(?:\.[0-9]*)?)[eE]\+?(-?[0-9]+)(?![\w.])"
    return re.sub(number, r"\1 \\times 10^{\2}", text)


def _far_apart(wanted, given) -> bool:
    """True for expressions that differ at one point: what is wrong needs no simplification.

    Symbols are left out, as math-verify compares them by name, and percentages, by its own rule.
    """
    from sympy import Expr, Float, Symbol, UnevaluatedExpr

    both = (wanted, given)
    if any(not isinstance(x, Expr) or x.is_Symbol or x.has(UnevaluatedExpr) for x in both):
        return False
    names = sorted({s for x in both for s in x.atoms(Symbol)}, key=str)
    point = {s: Float(1.37 + 0.61803 * i) for i, s in enumerate(names)}
    try:
        a, b = (complex(x.xreplace(point).evalf()) for x in both)
    except (TypeError, ValueError, OverflowError):  # no number at this point, or none at all
        return False
    return abs(a - b) > FAR * max(abs(a), abs(b))


# --- what math-verify calls equal and this study does not ------------------------------------------


def _decimals(wanted, given) -> int:
    """Decimals to compare, so that 6.2e-8 does not round to the same as 0."""
    from sympy import Float

    sizes = [abs(float(x)) for side in (wanted, given) for x in side.atoms(Float)]
    exponents = [math.floor(math.log10(x)) for x in sizes if 0 < x < math.inf]
    return max([DIGITS, *(DIGITS - 2 - e for e in exponents)])


def _plain_statement(wanted, given) -> bool:
    """False for "3 = 5" where 5 is wanted, and for relations in other unknowns than the gold's."""
    from sympy.core.function import AppliedUndef
    from sympy.core.relational import Relational
    from sympy.logic.boolalg import And

    relations = given.atoms(Relational)
    if wanted.atoms(Relational):
        return not relations or wanted.free_symbols == given.free_symbols
    named = all(r.lhs.is_Symbol or isinstance(r.lhs, AppliedUndef) for r in relations)
    return named and not given.atoms(And)


def _close(wanted, given) -> bool:
    """False for numbers that agree only because both are tiny, such as e^-100 and e^-101."""
    from sympy import Float, N, UnevaluatedExpr

    pair = [_leaves(side) for side in (wanted, given)]
    flat = [x for side in pair for x in side]
    if wanted == given or any(not _is_number(x) or x.has(UnevaluatedExpr) for x in flat):
        return True  # UnevaluatedExpr: a percentage, which math-verify takes with or without its sign
    values = [sorted((complex(N(x)) for x in side), key=lambda v: (v.real, v.imag)) for side in pair]
    margin = MARGIN["decimal" if any(x.atoms(Float) for x in flat) else "exact"]
    pairs = zip(*values, strict=False)
    return all(a == b or abs(a - b) <= margin * max(abs(a), abs(b)) for a, b in pairs)


def _is_number(side) -> bool:
    from sympy import Expr

    return isinstance(side, Expr) and side.is_number


def _leaves(side) -> list:
    """The members of a set, tuple, interval or matrix, the value of "x = 5", or the thing itself."""
    from sympy import Eq, FiniteSet, Interval, MatrixBase, Tuple

    if isinstance(side, Eq):
        return _leaves(side.rhs)
    if isinstance(side, Interval):
        return [side.start, side.end]
    if isinstance(side, MatrixBase):
        return list(side.flat())
    if isinstance(side, FiniteSet | Tuple):
        return [leaf for member in side.args for leaf in _leaves(member)]
    return [side]


def _same_units(gold: str, answer: str, wanted, given) -> bool:
    """False for 3 cm where 3 m is wanted; a number without its unit is taken."""
    if not (_is_number(wanted) and _is_number(given)):
        return True
    units = [_letters(text) for text in (gold, answer)]
    return not all(units) or units[0] == units[1]


def _letters(text: str) -> list[str]:
    words = re.findall(r"[A-Za-z]+", re.sub(r"\\[A-Za-z]+", " ", text))
    return [w.lower().removesuffix("s") for w in words if w not in ("e", "E", "i")]


# --- the process -----------------------------------------------------------------------------------


def serve(busy: mmap.mmap, seconds: float, memory: int) -> None:
    """Answer requests until the input ends, under limits that the kernel enforces."""
    for limit, value in (("AS", memory), ("CORE", 0), ("FSIZE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (value, value))
    for _ in range(SERVED):
        line = sys.stdin.buffer.readline()
        if not line:
            os._exit(0)
        busy[0] = 1
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF's default action ends the process
        verdict = compare(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        busy[0] = 0
        say(verdict)
    os._exit(RECYCLE)


def supervise(seconds: float, memory: int) -> None:
    """Keep one server running; say what became of the answer that ended it."""
    busy = mmap.mmap(-1, 1)  # shared with the servers: is an answer under way?
    while True:
        server = os.fork()
        if server == 0:
            try:
                serve(busy, seconds, memory)
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
    logging.disable(logging.CRITICAL)  # "timeout is disabled" is what is wanted here
    try:
        verdicts = [compare(text, f" {text}") for text in WARM_UP]
    except ImportError as error:
        say(f"math-verify cannot be imported: {error}")
        return
    if set(verdicts) != {"right"}:
        say(f"math-verify does not work: {verdicts}")
        return
    say("ready")
    gc.freeze()  # servers share what is loaded
    gc.set_threshold(20_000)  # parsing makes garbage faster than it is worth collecting
    supervise(float(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
