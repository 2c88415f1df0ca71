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
import mmap
import os
import re
import resource
import signal
import sys
from collections.abc import Callable

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
EXACT = 400  # digits to which exact numbers must agree where no exact difference can be formed
MARGIN = 1e-4  # largest relative difference of decimals that can still be right
FAR = 1e-3  # a relative difference that is certainly wrong
DIGITS = 6  # decimals that a decimal answer must agree in, math-verify's default


def compare(gold: str, answer: str) -> str:
    """right, wrong or unparseable (either side). Asymmetric: `gold` is the reference."""
    for agree in (texts_agree, bases_agree):
        if (same := agree(gold, answer)) is not None:
            return "right" if same else "wrong"
    try:
        wanted, given = parsed(gold), parsed(answer)
    except MemoryError:
        raise
    except Exception:  # the parser raises what it likes; what it cannot read is not right
        return "unparseable"
    if wanted is None or given is None:
        return "unparseable"
    try:
        return "right" if keeps(gold, answer) and _equal(gold, answer, wanted, given) else "wrong"
    except MemoryError:
        raise
    except Exception:  # readable, but not shown to be equal
        return "wrong"


def _equal(gold: str, answer: str, wanted, given) -> bool:
    from math_verify import verify

    if _far_apart(wanted, given):
        return False
    equal = _exactly(wanted, given)
    if equal is None:
        digits = _decimals(wanted, given)
        equal = verify(wanted, given, float_rounding=digits, timeout_seconds=None)
        equal = equal and _close(wanted, given)
    return equal and _plain_statement(wanted, given) and _same_units(gold, answer, wanted, given)


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
    from sympy import Expr, Float, UnevaluatedExpr

    both = (wanted, given)
    if any(not isinstance(x, Expr) or x.is_Symbol or x.has(UnevaluatedExpr) for x in both):
        return False
    names = sorted({s for x in both for s in x.free_symbols}, key=str)
    point = {s: Float(1.37 + 0.61803 * i) for i, s in enumerate(names)}
    try:
        a, b = (_value(x.xreplace(point), 15) for x in both)
    except (TypeError, ValueError, NotImplementedError):  # no number at this point, or none at all
        return False
    return None not in (a, b) and abs(a - b) > FAR * max(abs(a), abs(b))


def _value(x, digits: int):
    """A number to so many digits, with an exponent of any size; None for what is no finite number."""
    from mpmath import isfinite, mpc, workdps

    with workdps(digits):
        real, imaginary = x.evalf(digits).as_real_imag()
        if not (real.is_Number and imaginary.is_Number):
            return None
        value = mpc(real._to_mpmath(int(digits * 3.33) + 1), imaginary._to_mpmath(int(digits * 3.33) + 1))
        return value if isfinite(value) else None


def _exactly(wanted, given) -> bool | None:
    """Whether two numbers without decimals are equal; None where that is not the question.

    Their difference decides where it is rational, else EXACT digits of both: as floats 10^-400 and 10^-401
    are the same.
    """
    from mpmath import mpf, workdps
    from sympy import Float, UnevaluatedExpr

    if any(not _is_number(x) or x.has(Float, UnevaluatedExpr) for x in (wanted, given)):
        return None
    difference = wanted.doit() - given.doit()
    if difference.is_Rational:
        return difference.is_zero
    a, b = (_value(x, EXACT) for x in (wanted, given))
    if a is None or b is None:
        return None
    with workdps(EXACT):
        return abs(a - b) <= mpf(10) ** (10 - EXACT) * max(abs(a), abs(b))


# --- what math-verify calls equal and this study does not ------------------------------------------


def _decimals(wanted, given) -> int:
    """Decimals to compare, so that 6.2e-8 does not round to the same as 0."""
    from mpmath import floor, isfinite, log10, mpf
    from sympy import Float

    sizes = [abs(mpf(x)) for side in (wanted, given) for x in side.atoms(Float)]
    exponents = [int(floor(log10(x))) for x in sizes if isfinite(x) and x > 0]
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
    """False for numbers that agree only because both are tiny, such as 1.2e-100 and 1.3e-101."""
    from sympy import Float, UnevaluatedExpr

    pair = [_leaves(side) for side in (wanted, given)]
    flat = [x for side in pair for x in side]
    if wanted == given or any(not _is_number(x) or x.has(UnevaluatedExpr) for x in flat):
        return True  # UnevaluatedExpr: a percentage, which math-verify takes with or without its sign
    if not any(x.has(Float) for x in flat):
        return _all_exactly(*pair)
    values = [[_value(x, 30) for x in side] for side in pair]
    if any(value is None for side in values for value in side):
        return True
    values = [sorted(side, key=lambda v: (v.real, v.imag)) for side in values]
    return all(abs(a - b) <= MARGIN * max(abs(a), abs(b)) for a, b in zip(*values, strict=False))


def _all_exactly(wanted: list, given: list) -> bool:
    """Whether each number on one side is exactly equal to one on the other."""
    return all(any(_exactly(a, b) in (True, None) for b in given) for a in wanted)


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
    """The unit behind a number, as its words with their powers: cm^2 is not cm, nor is it cm^3."""
    plain = re.sub(r"\\(?:text|mathrm|textrm|mbox)\b|\\[,;: ]|[{}$]", " ", text)
    plain = re.sub(r"\\[A-Za-z]+", " ", plain)
    words = re.findall(r"([A-Za-z]+)(?:\s*\^\s*([0-9]+))?", plain)
    return [w.lower().removesuffix("s") + power for w, power in words if w not in ("e", "E", "i")]


# --- what is text, and what the parser drops -------------------------------------------------------

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_BASE = re.compile(r"([0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)_\{?(?:\\text\{)?\s*([a-z]+|[0-9]+)\s*\}?\}?")
_NAMED_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8"}
_NAMED_BASES |= {"nine": "9", "ten": "10", "twelve": "12", "sixteen": "16"}


def texts_agree(gold: str, answer: str) -> bool | None:
    """Whether two answers are the same words, or None where the gold is not text but mathematics.

    Text is what holds nothing but letters, in lists too, and is more than a product of variables: several
    words, capitals (HTH), something in \\text, or a longer word. Case, spaces, order in a bare list, and
    brackets around a single letter do not count.
    """
    wanted = _words_of(gold)
    if wanted is None:
        return None
    given = _words_of(answer, strict=False)
    return given is not None and wanted == given


def _words_of(answer: str, strict: bool = True) -> tuple | None:
    """The members of an answer in words, sorted where it is a bare list; None for what is not text."""
    plain = _WRAPPED.sub(r" \1 ", answer).replace("\\ ", " ").replace("~", " ").replace("$", "")
    plain = re.sub(r"\\(?:left|right|[,;:!])", " ", plain).strip(" .")
    inside = re.fullmatch(r"\((.*)\)", plain)
    members = [" ".join(m.split()) for m in (inside[1] if inside else plain).split(",")]
    if not all(re.fullmatch(r"[A-Za-z][A-Za-z' -]*|\([A-Za-z]\)", m) for m in members):
        return None
    if strict and not (_WRAPPED.search(answer) or any(map(_is_word, members))):
        return None
    words = [m.strip("()").lower() for m in members]
    return tuple(words if inside and len(words) > 1 else sorted(words))


def _is_word(run: str) -> bool:
    """False for what may be a product of variables: x, xy, abc, PQr."""
    if " " in run or "-" in run or "'" in run:
        return True
    if len(run) == 1 or run in _ALPHABET:
        return False
    return run.isupper() or len(run) > 3 or "o" in run.lower()


def keeps(gold: str, answer: str) -> bool:
    """Whether both say the same in what math-verify leaves out before it compares."""
    agree = (_brackets_agree, _as_many_members, _letters_agree, *(_same(marks) for marks in DROPPED))
    return all(same(gold, answer) for same in agree)


# Signs that math-verify's normalisation removes: derivatives and other points, what goes on, tied signs.
DROPPED = (r"'|\\prime", r"\\[lc]?dots|\.\.\.", r"\\mp")


def _same(marks: str) -> Callable[[str, str], bool]:
    return lambda gold, answer: len(re.findall(marks, gold)) == len(re.findall(marks, answer))


def _letters_agree(gold: str, answer: str) -> bool:
    """Capital and small letters are different variables, unless the answer is one letter.

    math-verify takes them for one, so where a letter stands in both sizes only the same text will do.
    """
    wanted, given = (set(re.findall("[A-Za-z]", _variables(text))) for text in (gold, answer))
    if any(x.swapcase() in wanted for x in wanted):
        return gold.replace(" ", "") == answer.replace(" ", "")
    alone = all(len(text.strip("() $")) == 1 for text in (gold, answer))
    return alone or not any(x.swapcase() in given - wanted for x in wanted - given)


def _variables(text: str) -> str:
    return re.sub(r"\\[A-Za-z]+", " ", _WRAPPED.sub(" ", text))


def bases_agree(gold: str, answer: str) -> bool | None:
    """Numbers in another base, None where the gold is none: the base may be left out, not changed."""
    (wanted, base), (given, own) = _numeral(gold), _numeral(answer)
    if base is None:
        return None if own is None else False
    return wanted == given and own in (None, base)


def _numeral(text: str) -> tuple[str, str | None]:
    plain = re.sub(r"\\[,;:! ]|[ ,$()]|\{,\}", "", text)
    found = _BASE.fullmatch(plain)
    if not found:
        return plain.lower().lstrip("0"), None
    return found[1].lower().lstrip("0"), _NAMED_BASES.get(found[2], found[2])


def _brackets_agree(gold: str, answer: str) -> bool:
    """A set is no point; a bare list is taken for either."""
    kinds = {_bracket(gold), _bracket(answer)}
    return kinds != {"{", "("}


def _bracket(text: str) -> str:
    opened = re.match(r"\s*\$?\s*(?:\\left)?\s*\\?([({\[])", text)
    return opened[1] if opened and "," in text else ""


def _as_many_members(gold: str, answer: str) -> bool:
    """Lists of equal length, repetitions counted: math-verify makes sets of them."""
    if any(r"\pm" in text for text in (gold, answer)):
        return True  # one member stands for two
    return _members(gold) == _members(answer)


def _members(text: str) -> int:
    plain = re.sub(r"\{,\}|(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text)
    plain = re.sub(r"\\(?:text|mbox)\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b", ",", plain)
    plain = re.sub(r"\\(?:left|right)|\$|\s", "", plain)
    if inside := re.fullmatch(r"(?:\(|\[|\\\{)([^()\[\]]*)(?:\)|\]|\\\})", plain):
        plain = inside[1]
    depth, n = 0, 1
    for sign in re.sub(r"\s*,(?:\s*,)+", ",", plain):
        depth += (sign in "([{") - (sign in ")]}")
        n += sign == "," and depth <= 0
    return n


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
