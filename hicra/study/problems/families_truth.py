"""Reading solutions of the families' world back: what a text plans, and why a wrong one is wrong.

All of it works on what a policy sampled, not only on worked solutions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from hicra.study.problems.families import (
    ANNOUNCEMENTS,
    CONCLUSIONS,
    EQUALS,
    FRAMES,
    LONG_CONNECTIVES,
    SECOND_LOOKS,
    SHORT_CONNECTIVES,
    WORDINGS,
    MadeProblem,
    Span,
    outcome,
    program_of,
)


def _any(phrases) -> str:
    return "|".join(map(re.escape, phrases))


_PLAN = re.compile(f"(?:{_any(FRAMES)}) (?P<wording>{_any(WORDINGS)})")
_PLANNING = re.compile(f"{_PLAN.pattern}|(?P<limit>{_any(ANNOUNCEMENTS)})|(?P<look>{_any(SECOND_LOOKS)})")
_STEP = re.compile(rf"(\d+ (?:times|plus|minus) \d+) (?:{_any(EQUALS)}) (\d{{1,6}})")
_LIMIT = re.compile(r"The limit of (\d{1,6}) leaves (\d{1,6})")
_NEUTRAL = re.compile(rf"\b({_any(LONG_CONNECTIVES + SHORT_CONNECTIVES + CONCLUSIONS)})\b", re.IGNORECASE)
_BOX = re.compile(r"\\boxed\{(\d{1,6})\}")


class Failure(NamedTuple):
    """Why a completion is wrong: "planning" (wrong or unfinished plan) or "execution" (a slip)."""

    kind: str
    detail: str


class Reading(NamedTuple):
    """What a completion says, in its own words."""

    strategy: str | None  # the last that is stated
    limited: bool  # whether the limit is announced
    looks: int  # second looks
    neutral: tuple[str, ...]  # connectives and conclusions, in lower case and in order
    steps: tuple[tuple[str, int], ...]  # expression and stated value
    applied: tuple[int, int] | None  # the limit that is applied last, and what it leaves
    boxed: str | None


def read(completion: str) -> Reading:
    plans, boxes = _PLAN.findall(completion), _BOX.findall(completion)
    limits = _LIMIT.findall(completion)
    return Reading(
        strategy=WORDINGS[plans[-1]] if plans else None,
        limited=any(phrase in completion for phrase in ANNOUNCEMENTS),
        looks=sum(completion.count(phrase) for phrase in SECOND_LOOKS),
        neutral=tuple(phrase.lower() for phrase in _NEUTRAL.findall(completion)),
        steps=tuple((said, int(value)) for said, value in _STEP.findall(completion)),
        applied=(int(limits[-1][0]), int(limits[-1][1])) if limits else None,
        boxed=boxes[-1] if boxes else None,
    )


def choices(problems: Sequence[MadeProblem], completions: Sequence[str], right: Sequence[bool]) -> dict:
    """What completions chose, counted: plans by family, those that were right, phrases that change nothing.

    A plan is written "family/strategy", with "+limit" where the limit is announced.
    """
    told = [read(completion) for completion in completions]
    plans = [
        f"{problem.family}/{r.strategy or 'none'}{'+limit' if r.limited else ''}"
        for problem, r in zip(problems, told, strict=True)
    ]
    return {
        "plans": dict(Counter(plans)),
        "plans_right": dict(Counter(plan for plan, won in zip(plans, right, strict=True) if won)),
        "neutral": dict(Counter(phrase for r in told for phrase in r.neutral)),
        "looks": sum(r.looks for r in told),
    }


def true_spans(text: str) -> list[Span]:
    """Every planning phrase of the world in `text`, in order; connectives and conclusions are none."""
    return [Span(*m.span(), WORDINGS.get(m["wording"]) or m.lastgroup) for m in _PLANNING.finditer(text)]


def explain_failure(problem: MadeProblem, completion: str) -> Failure | None:
    """None where the boxed answer is right, else why it is wrong.

    A plan is a strategy and whether the limit is announced. One that would not lead to the answer even
    without a slip is a planning error; otherwise the first deviating statement is the execution error.
    """
    told = read(completion)
    if told.boxed == problem.answer:
        return None
    if told.strategy is None:
        return Failure("planning", "no plan of this world is stated")
    planned = outcome(problem, told.strategy, told.limited)
    if str(planned) != problem.answer:
        phrase = "with" if told.limited else "without"
        return Failure(
            "planning", f"{told.strategy} {phrase} the limit leads to {planned}, not {problem.answer}"
        )
    if told.boxed is None:
        return Failure("planning", "unfinished: no boxed answer")
    return Failure("execution", _first_deviation(problem, told))


def _first_deviation(problem: MadeProblem, told: Reading) -> str:
    """Where the statements leave the plan, each taken to follow from what was stated before it."""
    program, stated = program_of(told.strategy, problem), None
    expected: list[tuple[str, int]] = []
    for said in (*told.steps, None):
        try:
            expected.append(program.send(stated))
        except StopIteration:
            if said is None or told.looks == 0:
                break
            expected.append(expected[-1])
        if said != expected[-1]:
            return f"step {len(expected)}: {_equation(said)}, not {_equation(expected[-1])}"
        stated = said[1]
    if len(told.steps) > len(expected):
        return f"{_equation(told.steps[len(expected)])} is beyond the end of the plan"
    if told.limited and told.applied != (limit := (problem.numbers[3], min(stated, problem.numbers[3]))):
        return f"the limit leaves {told.applied}, not {limit}"
    return f"boxed {told.boxed}, not what was stated"


def _equation(said: tuple[str, int] | None) -> str:
    return "nothing" if said is None else f"{said[0]} = {said[1]}"
