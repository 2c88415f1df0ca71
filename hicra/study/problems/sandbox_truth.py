"""Reading sandbox solutions back: true planning spans of any text, and why a wrong one is wrong.

Both work on what a policy sampled, not only on worked solutions: phrases are recognised by their
wording, and a failure is labelled by carrying out the stated plan again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from hicra.study.problems.sandbox import (
    BACKTRACING,
    BRANCHING,
    DEDUCTION,
    EQUALS,
    STRATEGIES,
    Program,
    SandboxProblem,
    Span,
)


class Failure(NamedTuple):
    """Why a completion is wrong: "planning" (wrong or unfinished plan) or "execution" (a slip)."""

    kind: str
    detail: str


_WORDING = {w: s.name for s in STRATEGIES for w in s.wordings}
_FRAMES = "|".join(map(re.escape, DEDUCTION + BRANCHING))
_PLAN = re.compile(f"(?:{_FRAMES}) ({'|'.join(map(re.escape, _WORDING))})")
_BACK = re.compile("|".join(re.escape(b.rstrip(".")) for b in BACKTRACING))
_STEP = re.compile(
    rf"Try (?P<guess>\d{{1,6}})\.|(?P<expr>\d+(?: (?:times|plus|minus|over|mod) \d+)+) "
    rf"(?:{'|'.join(EQUALS)}) (?P<value>\d{{1,6}})",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\boxed\{(\d{1,6})\}")


def true_spans(text: str) -> list[Span]:
    """Every planning phrase of the world in `text`, in order (works on sampled text as well)."""
    spans = [Span(*m.span(), _WORDING[m[1]]) for m in _PLAN.finditer(text)]
    return sorted(spans + [Span(*m.span(), "backtrace") for m in _BACK.finditer(text)])


def _statements(text: str) -> Iterator[tuple[str, int]]:
    for m in _STEP.finditer(text):
        yield ("try", int(m["guess"])) if m["guess"] else (m["expr"], int(m["value"]))


def _follow(program: Program, statements: list[tuple[str, int]], *, stated: bool) -> int | Failure:
    """Run `program` on what the solution states, or on true values (guesses stay the solution's)."""
    send = None
    for position in range(len(statements) + 1):
        try:
            expression, value = program.send(send)
        except StopIteration as end:
            return end.value
        if position == len(statements):
            return Failure("planning", f"unfinished: {expression} is missing")
        said, result = statements[position]
        send = result if stated or value is None else value
        if stated and (said != expression or value not in (None, result)):
            return Failure("execution", f"step {position + 1}: {said} = {result}, not {expression} = {value}")
    return Failure("execution", "statements beyond the end of the plan")


def explain_failure(problem: SandboxProblem, completion: str) -> Failure | None:
    """None where the boxed answer is right, else why it is wrong.

    The last attempt decides. It is replayed with true arithmetic first: a plan that would not have
    reached the answer is a planning error; otherwise the first deviating step is the execution error.
    """
    boxes = _BOX.findall(completion)
    if boxes and boxes[-1] == problem.answer:
        return None
    plans = [m for m in _PLAN.finditer(completion)]
    if not plans:
        return Failure("planning", "no plan of this world is stated")
    strategy = next(s for s in STRATEGIES if s.name == _WORDING[plans[-1][1]])
    if strategy.family != problem.family:
        return Failure("planning", f"{strategy.name} does not fit a {problem.family} problem")
    statements = list(_statements(completion[plans[-1].end() :]))
    planned = _follow(strategy.program(*problem.numbers), statements, stated=False)
    if isinstance(planned, Failure):
        return planned
    if str(planned) != problem.answer:
        return Failure("planning", f"{strategy.name} leads to {planned}, not {problem.answer}")
    if not boxes:
        return Failure("planning", "unfinished: no boxed answer")
    slip = _follow(strategy.program(*problem.numbers), statements, stated=True)
    return slip if isinstance(slip, Failure) else Failure("execution", f"boxed {boxes[-1]}, not {slip}")
