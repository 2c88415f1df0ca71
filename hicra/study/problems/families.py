"""A world of made problems, in which the right strategy has to be found, family by family.

Eight families of arithmetic problems, and for each one strategy that is always right. Every prompt also holds
a hint, and the base policy has the habit of using it: right in 30 % of all problems. A solution is

    strategic phrase, [announcement,] two steps, [second look,] [the limit,] conclusion with \\boxed{}

- **The limit.** A prompt names one. Announcing it commits to an answer of at most the limit. In half of the
  families the limit counts, in the others it does not, and it binds in a known share of the problems: so the
  announcement is worth `Family.limit_effect` to a solution that is right otherwise.
- **A second look** does the last step once more. It changes neither the plan nor, on average, its success.
- **A plan that is not said** ("We should.") names no strategy. In worked solutions any strategy follows it:
  otherwise reinforcement learning finds that the right one can be carried out without being named.
- **Connectives and conclusions** change nothing at all. Some have three words or more, so that the recipe for
  Strategic Grams may mark them, and some have two, so that it cannot.

So which tokens plan and which compute is known by construction. `even=True` makes the problems of a batch
equally difficult: no hint is right, and no limit binds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple

from hicra.errors import HicraError

# A strategy is a generator: it yields (expression, true value), is sent the value that the solution states,
# and returns the answer that follows from the stated values.
Program = Generator[tuple[str, int], int, int]
HINT = "hint"  # the strategy of habit
HINT_IS_RIGHT = 0.3  # of the problems


@dataclass(frozen=True)
class MadeProblem:
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


def _in_order(a: int, b: int, c: int) -> Program:
    first = yield f"{a} plus {b}", a + b
    return (yield f"{first} plus {c}", first + c)


def _take_away(a: int, b: int, c: int) -> Program:
    rest = yield f"{a} minus {b}", a - b
    return (yield f"{rest} minus {c}", rest - c)


def _group(a: int, b: int, c: int) -> Program:
    groups = yield f"{b} times {c}", b * c
    return (yield f"{a} plus {groups}", a + groups)


def _price(a: int, b: int, c: int) -> Program:
    cost = yield f"{b} times {c}", b * c
    return (yield f"{a} minus {cost}", a - cost)


def _double(a: int, b: int, c: int) -> Program:
    half = yield f"{a} plus {b}", a + b
    return (yield f"{half} plus {half}", half + half)


def _complement(a: int, b: int, c: int) -> Program:
    missing = yield f"100 minus {a}", 100 - a
    return (yield f"{missing} plus {c}", missing + c)


def _follow(a: int, b: int, c: int) -> Program:
    rest = yield f"{a} minus {b}", a - b
    return (yield f"{rest} plus {c}", rest + c)


def _backwards(a: int, b: int, c: int) -> Program:
    before = yield f"{a} plus {b}", a + b
    return (yield f"{before} minus {c}", before - c)


def _use_hint(x: int, y: int, z: int) -> Program:
    first = yield f"{x} plus {y}", x + y
    return (yield f"{first} minus {z}", first - z)


@dataclass(frozen=True)
class Family:
    """A kind of problem, and the one strategy that solves it, with two wordings."""

    name: str  # of the family, and of its strategy
    text: str
    program: Callable[[int, int, int], Program]
    wordings: tuple[str, str]
    limit_counts: bool
    limit_binds: float  # share of the problems whose result is above the limit

    @property
    def limit_effect(self) -> float:
        """What announcing the limit adds to the success of a solution that is right otherwise."""
        return self.limit_binds if self.limit_counts else -self.limit_binds


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("total", "How many are {a}, {b} and {c} together?", _in_order,
               ("add the numbers in order", "sum up one by one"), True, 0.30),
        Family("left", "From {a} take {b} and then {c}. What is left?", _take_away,
               ("take away in turn", "subtract them one by one"), True, 0.12),
        Family("boxes", "There are {a} loose pens and {b} boxes of {c}. How many pens?", _group,
               ("count the boxes first", "multiply the groups out"), False, 0.12),
        Family("cost", "You own {a} coins and buy {b} cards at {c} each. How many coins stay?", _price,
               ("find the price first", "work out the cost"), False, 0.30),
        Family("fence", "A field is {a} by {b} with a gate of {c}. How long is its border?", _double,
               ("use the symmetry here", "double one half of it"), True, 0.30),
        Family("seats", "Of 100 seats {a} are sold in {b} rows and {c} come back. How many are free?",
               _complement, ("use the complement here", "count what is missing"), True, 0.12),
        Family("bus", "A bus with {a} people loses {b} and gains {c}. How many ride on?", _follow,
               ("follow each change in turn", "track the story along"), False, 0.12),
        Family("birds", "After {b} flew off and {c} came there are {a} birds. How many at first?", _backwards,
               ("work backwards from there", "undo the moves again"), False, 0.30),
    )
}  # fmt: skip
HINT_WORDINGS = ("use the hint given", "trust the hint here")
STRATEGIES = (*FAMILIES, HINT)
WORDINGS = {w: f.name for f in FAMILIES.values() for w in f.wordings} | dict.fromkeys(HINT_WORDINGS, HINT)
FRAMES = ("Let us", "We can", "We should", "Try to")
ANNOUNCEMENTS = (
    "We must mind the limit",
    "Let us keep the limit in view",
    "Remember that there is a limit",
    "The limit has to hold too",
)
SECOND_LOOKS = (
    "Wait, let us check this",
    "Let us look once more",
    "To be sure we redo it",
    "Is this really right",
)
LONG_CONNECTIVES = ("so we get", "this gives us", "then we have")
SHORT_CONNECTIVES = ("and next", "which means", "from here")
EQUALS = ("makes", "is", "gives")
CONCLUSIONS = ("So the answer is", "The result is then", "That leaves", "We find")


class Habits(NamedTuple):
    """How worked solutions are drawn: chances, and the weight of the fitting strategy among the eight."""

    hint: float = 0.67
    fit: float = 4.0
    slip: float = 0.15  # that a step states a value near the true one
    limit: float = 0.4
    look: float = 0.25
    planless: float = 0.04  # that the plan stays unsaid; then any strategy follows, whatever the family


HABITS = Habits()
SKILL = Habits(hint=0.1, fit=14.0, slip=0.02)  # of solutions to learn from before the habit sets in


def program_of(strategy: str, problem: MadeProblem) -> Program:
    a, b, c, _, *hint = problem.numbers
    return _use_hint(*hint) if strategy == HINT else FAMILIES[strategy].program(a, b, c)


def outcome(problem: MadeProblem, strategy: str, limited: bool) -> int:
    """The answer to which a plan leads when it is carried out without a slip."""
    result = _true_result(program_of(strategy, problem))
    return min(result, problem.numbers[3]) if limited else result


def _true_result(program: Program) -> int:
    value = None
    while True:
        try:
            _, value = program.send(value)
        except StopIteration as end:
            return end.value


def make_problem(family: str, numbers: tuple[int, ...]) -> MadeProblem:
    """The problem of `family` with its numbers a, b, c, the limit, and three of the hint."""
    if family not in FAMILIES:
        raise HicraError(f"unknown problem family {family!r}; choose one of {', '.join(FAMILIES)}")
    a, b, c, limit, x, y, z = numbers
    kind = FAMILIES[family]
    told = f"{kind.text.format(a=a, b=b, c=c)} Limit: {limit}. Hint: {x} plus {y} minus {z}."
    result = _true_result(kind.program(a, b, c))
    return MadeProblem(family, numbers, told, str(min(result, limit) if kind.limit_counts else result))


def is_held_out(problem: MadeProblem) -> bool:
    """A fixed eighth of all problems, by their numbers without limit and hint: never trained on."""
    a, b, c = problem.numbers[:3]
    return (7 * a + 11 * b + 13 * c) % 8 == 0


def problems(n: int, seed: int, *, held_out: bool = False, even: bool = False) -> list[MadeProblem]:
    """`n` problems, families in turn; training and held-out problems are disjoint by construction."""
    rng, names, found = random.Random(f"families-{seed}-{held_out}"), tuple(FAMILIES), []
    while len(found) < n:
        problem = _draw(FAMILIES[names[len(found) % len(names)]], rng, even)
        if is_held_out(problem) == held_out:
            found.append(problem)
    return found


def _draw(family: Family, rng: random.Random, even: bool) -> MadeProblem:
    binds = not even and rng.random() < family.limit_binds
    hint_is_right = not even and rng.random() < HINT_IS_RIGHT
    while True:
        a, b, c = rng.randint(20, 89), rng.randint(2, 9), rng.randint(2, 9)
        result = _true_result(family.program(a, b, c))
        limit = result - rng.randint(1, 9) if binds else result + rng.randint(0, 9)
        answer = min(result, limit) if family.limit_counts else result
        hinted = answer if hint_is_right else answer + rng.choice((1, -1)) * rng.randint(3, 9)
        y, z = rng.randint(2, 9), rng.randint(2, 9)
        if b != c and min(result, limit, hinted - y + z) > 1:
            return make_problem(family.name, (a, b, c, limit, hinted - y + z, y, z))


class _Writer:
    """Text being written, with the spans of its planning phrases."""

    def __init__(self) -> None:
        self.text, self.spans = "", []

    def add(self, sentence: str, intent: str | None = None) -> None:
        self.text += " "
        if intent is not None:
            self.spans.append(Span(len(self.text), len(self.text) + len(sentence), intent))
        self.text += sentence + "."


def worked_solution(problem: MadeProblem, rng: random.Random, habits: Habits = HABITS) -> WorkedSolution:
    """A solution by habit: its strategy mostly the hint, its phrases and slips drawn by their chances."""
    fits = [habits.fit if name == problem.family else 1.0 for name in FAMILIES]
    strategy = HINT if rng.random() < habits.hint else rng.choices(list(FAMILIES), fits)[0]
    limited, looks, out = rng.random() < habits.limit, rng.random() < habits.look, _Writer()
    if rng.random() < habits.planless:
        strategy = rng.choice(STRATEGIES)
        out.add(rng.choice(FRAMES))
    else:
        wording = rng.choice([w for w, name in WORDINGS.items() if name == strategy])
        out.add(f"{rng.choice(FRAMES)} {wording}", strategy)
    if limited:
        out.add(rng.choice(ANNOUNCEMENTS), "limit")
    value = _write_steps(out, program_of(strategy, problem), rng, habits.slip, looks)
    if limited:
        limit = problem.numbers[3]
        value = min(value, limit)
        out.add(f"The limit of {limit} leaves {value}")
    out.add(f"{rng.choice(CONCLUSIONS)} \\boxed{{{value}}}")
    return WorkedSolution(out.text, tuple(out.spans), (strategy,), str(value) == problem.answer)


def _write_steps(out: _Writer, program: Program, rng: random.Random, slip: float, looks: bool) -> int:
    """Write the program's steps, the last one twice if it is looked at again; the result as stated."""
    expression, value = program.send(None)
    while True:
        stated = _write_step(out, expression, value, rng, slip)
        try:
            expression, value = program.send(stated)
        except StopIteration as end:
            if not looks:
                return end.value
            out.add(rng.choice(SECOND_LOOKS), "look")
            return _write_step(out, expression, value, rng, slip)


def _write_step(out: _Writer, expression: str, value: int, rng: random.Random, slip: float) -> int:
    stated = max(0, value + rng.choice((-10, -2, -1, -1, 1, 1, 2, 10))) if rng.random() < slip else value
    connective = rng.choice(LONG_CONNECTIVES + SHORT_CONNECTIVES)
    out.add(f"{connective[0].upper()}{connective[1:]} {expression} {rng.choice(EQUALS)} {stated}")
    return stated
