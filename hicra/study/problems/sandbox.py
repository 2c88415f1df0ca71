"""The offline problem world: problems, worked solutions with true planning spans.

Four families of arithmetic problems. Each can be attacked by three or four *strategies* whose
success rates lie far apart: one works step by step and is easy to carry out, one answers in a single
hard step (sound, but a small model slips), and shortcuts fit only a few problems. A solution is

    strategic phrase, steps, [backtracing phrase, strategic phrase, steps,] conclusion with \\boxed{}

so which tokens plan and which compute is known by construction. The world is a test bed for the
study's instruments, not a language model: figures made from it say so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple

from hicra.errors import HicraError

# A strategy is a generator: it yields (expression, true value) and is sent the value the solution
# states; ("try", None) asks for a guess. It returns the answer that follows from the stated values.
Program = Generator[tuple[str, int | None], int, int]


@dataclass(frozen=True)
class SandboxProblem:
    """One problem: its family, its numbers, the prompt a policy reads and the true answer."""

    family: str
    numbers: tuple[int, ...]
    problem: str
    answer: str

    @property
    def prompt(self) -> str:
        return f"Problem: {self.problem}\nSolution:"


class Span(NamedTuple):
    """Characters [start, end) of a planning phrase, and the intent it states."""

    start: int
    end: int
    intent: str


@dataclass(frozen=True)
class WorkedSolution:
    text: str
    spans: tuple[Span, ...]
    strategies: tuple[str, ...]
    correct: bool


def _split(a: int, b: int) -> Program:
    tens, ones = a - a % 10, a % 10
    high = yield f"{tens} times {b}", tens * b
    low = yield f"{ones} times {b}", ones * b
    return (yield f"{high} plus {low}", high + low)


def _direct_product(a: int, b: int) -> Program:
    return (yield f"{a} times {b}", a * b)


def _round_off(a: int, b: int) -> Program:
    near = (a + 5) // 10 * 10
    return (yield f"{near} times {b}", near * b)


def _nearest_multiple(n: int, d: int) -> Program:
    multiple = yield f"{n // d} times {d}", n // d * d
    return (yield f"{n} minus {multiple}", n - multiple)


def _direct_remainder(n: int, d: int) -> Program:
    return (yield f"{n} mod {d}", n % d)


def _digit_sum(n: int, d: int) -> Program:
    return (yield f"{n // 10} plus {n % 10}", n // 10 + n % 10)


def _undo(b: int, c: int, r: int) -> Program:
    rest = yield f"{r} minus {c}", r - c
    return (yield f"{rest} over {b}", rest // b)


def _trial(b: int, c: int, r: int) -> Program:
    guess = yield "try", None
    product = yield f"{b} times {guess}", b * guess
    total = yield f"{product} plus {c}", product + c
    return guess if total == r else -1  # -1: the plan ends without an answer that fits


def _ignore_constant(b: int, c: int, r: int) -> Program:
    return (yield f"{r} over {b}", r // b)


def _direct_equation(b: int, c: int, r: int) -> Program:
    return (yield f"{r} minus {c} over {b}", (r - c) // b)


def _in_order(a: int, b: int, c: int) -> Program:
    first = yield f"{a} plus {b}", a + b
    return (yield f"{first} plus {c}", first + c)


def _at_once(a: int, b: int, c: int) -> Program:
    return (yield f"{a} plus {b} plus {c}", a + b + c)


def _middle(a: int, b: int, c: int) -> Program:
    return (yield f"{b} times 3", 3 * b)


@dataclass(frozen=True)
class Strategy:
    """A way to solve one family, with two wordings; every frame fits every wording."""

    name: str
    family: str
    wordings: tuple[str, str]
    program: Callable[..., Program]


STRATEGIES: tuple[Strategy, ...] = (
    Strategy("split", "product", ("split into tens and ones", "take the tens and ones apart"), _split),
    Strategy(
        "direct_product", "product", ("multiply in one go", "find the product directly"), _direct_product
    ),
    Strategy(
        "round_off", "product", ("round to the nearest ten", "use a rounded number instead"), _round_off
    ),
    Strategy(
        "nearest_multiple",
        "remainder",
        ("find the largest multiple below", "take away the closest multiple"),
        _nearest_multiple,
    ),
    Strategy(
        "direct_remainder",
        "remainder",
        ("read off the remainder", "see at once what remains"),
        _direct_remainder,
    ),
    Strategy("digit_sum", "remainder", ("look at the digit sum", "use the sum of the digits"), _digit_sum),
    Strategy("undo", "equation", ("undo the operations in turn", "work backwards from the result"), _undo),
    Strategy("trial", "equation", ("test a value for x", "guess a number and check it"), _trial),
    Strategy(
        "ignore_constant",
        "equation",
        ("leave the constant aside", "treat the constant as small"),
        _ignore_constant,
    ),
    Strategy(
        "direct_equation", "equation", ("solve for x in one go", "see at once what x is"), _direct_equation
    ),
    Strategy("in_order", "sum", ("add from left to right", "go through the numbers in order"), _in_order),
    Strategy("at_once", "sum", ("add everything at once", "take the total in one go"), _at_once),
    Strategy("middle", "sum", ("use the middle number", "take the middle number for all"), _middle),
)
FAMILIES = ("product", "remainder", "equation", "sum")
HELD_OUT_MOST = 256

# Every strategic intent is a frame and a wording: 4 x 2 ways by deduction, 4 x 2 by branching.
DEDUCTION = (
    "We know that we can",
    "It follows that we can",
    "The key idea is to",
    "Notice that we only need to",
)
BRANCHING = (
    "Let's try to",
    "One way forward is to",
    "Another approach is to",
    "Maybe we could instead",
)
BACKTRACING = (
    "But wait, that does not look right.",
    "Hold on, we should go back.",
    "But the problem asks for more.",
    "Hmm, this does not seem to fit.",
    "Let me check this again.",
    "On second thought, that was wrong.",
)
# Procedural boilerplate: as frequent as the phrases above, and no plan at all.
CONNECTIVES = ("", "", "so we get", "this gives us", "then we have", "and next")
EQUALS = ("makes", "is", "gives")
CONCLUSIONS = ("So the answer is", "Which gives us", "And that leaves", "The result is then")


def _numbers(family: str, rng: random.Random) -> tuple[int, ...]:
    if family == "product":
        return rng.randint(12, 99), rng.randint(3, 9)
    if family == "remainder":
        return rng.randint(20, 99), rng.randint(3, 9)
    if family == "equation":
        b, x, c = rng.randint(2, 9), rng.randint(2, 12), rng.randint(3, 20)
        return b, c, b * x + c
    return rng.randint(11, 49), rng.randint(11, 49), rng.randint(11, 49)


def make_problem(family: str, numbers: tuple[int, ...]) -> SandboxProblem:
    """The problem of `family` with these numbers; ValueError for an unknown family."""
    if family not in FAMILIES:
        raise HicraError(f"unknown problem family {family!r}; choose one of {', '.join(FAMILIES)}")
    a, b, c = (*numbers, 0)[:3]
    if family == "product":
        text, answer = f"What is {a} times {b}?", a * b
    elif family == "remainder":
        text, answer = f"What remains when {a} is divided by {b}?", a % b
    elif family == "equation":
        text, answer = f"Which x has {a} times x plus {b} equal to {c}?", (c - b) // a
    else:
        text, answer = f"What do {a}, {b} and {c} add up to?", a + b + c
    return SandboxProblem(family, numbers, text, str(answer))


def is_held_out(problem: SandboxProblem) -> bool:
    """A fixed eighth of all problems, by their numbers: never trained on, by any seed."""
    return sum(k * n for k, n in zip((7, 11, 13), problem.numbers, strict=False)) % 8 == 0


def problems(n: int, seed: int, *, held_out: bool = False) -> list[SandboxProblem]:
    """`n` problems, families in turn; training and held-out problems are disjoint by construction.

    Held-out problems are distinct from each other; training problems may recur. Raises ValueError
    for more held-out problems than the smallest family has.
    """
    if held_out and n > HELD_OUT_MOST:
        raise HicraError(f"{n} held-out problems asked; the world has at most {HELD_OUT_MOST}")
    rng, found, seen = random.Random(f"problems-{seed}-{held_out}"), [], set()
    while len(found) < n:
        problem = make_problem(FAMILIES[len(found) % 4], _numbers(FAMILIES[len(found) % 4], rng))
        if is_held_out(problem) == held_out and not (held_out and problem in seen):
            found.append(problem)
            seen.add(problem)
    return found


class _Writer:
    """Text being written, with the spans of its planning phrases."""

    def __init__(self) -> None:
        self.text, self.spans = "", []

    def add(self, piece: str, intent: str | None = None) -> None:
        self.text += " "
        if intent is not None:
            self.spans.append(Span(len(self.text), len(self.text) + len(piece), intent))
        self.text += piece


def _sentence(piece: str) -> str:
    return piece[0].upper() + piece[1:]


def _write_attempt(out: _Writer, strategy: Strategy, problem: SandboxProblem, rng: random.Random):
    frame, wording = rng.choice(DEDUCTION + BRANCHING), rng.choice(strategy.wordings)
    out.add(f"{frame} {wording}", strategy.name)
    out.text += "."
    program, stated = strategy.program(*problem.numbers), None
    while True:
        try:
            expression, value = program.send(stated)
        except StopIteration as end:
            return end.value
        if value is None:
            stated = rng.randint(2, 12)
            out.add(f"Try {stated}.")
            continue
        stated = value
        words = f"{rng.choice(CONNECTIVES)} {expression} {rng.choice(EQUALS)} {value}.".strip()
        out.add(_sentence(words))


def worked_solution(
    problem: SandboxProblem, rng: random.Random, *, p_backtrace: float = 0.15, best: float = 0.0
) -> WorkedSolution:
    """A solution whose arithmetic is right and whose strategies are picked almost at random.

    `best` is the probability of taking the first (reliable) strategy outright instead of a uniform
    draw. Every attempt is given up with probability `p_backtrace`, at most once.
    """
    choices = [s for s in STRATEGIES if s.family == problem.family]
    out, used = _Writer(), []
    while True:
        strategy = choices[0] if rng.random() < best else rng.choice(choices)
        used.append(strategy.name)
        answer = _write_attempt(out, strategy, problem, rng)
        if len(used) == 2 or (answer >= 0 and rng.random() >= p_backtrace):
            break
        out.add(rng.choice(BACKTRACING).rstrip("."), "backtrace")
        out.text += "."
    out.add(f"{rng.choice(CONCLUSIONS)} \\boxed{{{max(answer, 0)}}}.")
    return WorkedSolution(out.text, tuple(out.spans), tuple(used), str(answer) == problem.answer)
