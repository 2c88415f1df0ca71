"""The reward: 1 for a completion whose boxed answer is verified, else 0; and all that grading found out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hicra.study.problems.grading import grade
from hicra.study.record.run_folder import RunError
from hicra.study.training.messages import plain_text


class Graded(NamedTuple):
    """The B completions of one process in a step, graded; those of a group stand together."""

    prompts: list[str]
    texts: list[str]
    ended: list[bool]  # by an end token, not at the length limit
    reasons: list[str]  # why the reward is what it is
    errors: list[str | None] | None  # the kind of each failure; None where failures have no exact labels
    rewards: Tensor  # (B,)
    choices: dict | None = None  # what was chosen, counted, where the problems' world knows it


class VerifiedAnswer:
    """TRL's reward function, by the data set's columns `answer` and `problem`.

    TRL hands on the rewards alone; what else was found stands in `graded` until the next call.
    `explain(problem, completion)` gives a failure's kind, `count(problems, completions, right)` the choices
    that were made; both are None where nothing is known exactly.
    """

    __name__ = "verified_answer"  # TRL names rewards by this

    def __init__(
        self,
        *,
        group_size: int,
        ends: Collection[int],
        prefilled_think: bool,
        explain: Callable[[str, str], str] | None,
        count: Callable[..., dict] | None = None,
    ) -> None:
        self.group_size, self.ends = group_size, ends
        self.prefilled_think, self.explain, self.count = prefilled_think, explain, count
        self.graded: Graded | None = None

    def __call__(self, prompts, completions, completion_ids, answer, problem, **_) -> list[float]:
        prompts = [plain_text(prompt) for prompt in prompts]
        completions = [plain_text(completion, "assistant") for completion in completions]  # not tools
        _check_groups(prompts, self.group_size)
        grades = grade(completions, answer, prefilled_think=self.prefilled_think)
        ended = [ids[-1] in self.ends for ids in completion_ids]
        reasons = [
            "truncated" if g.reason == "no_box" and not e else g.reason
            for g, e in zip(grades, ended, strict=True)
        ]
        errors = self.explain and [
            None if g.reward else self.explain(p, c)
            for p, c, g in zip(problem, completions, grades, strict=True)
        ]
        rewards = torch.tensor([g.reward for g in grades])  # (B,)
        choices = self.count and self.count(problem, completions, [g.reward > 0 for g in grades])
        self.graded = Graded(prompts, completions, ended, reasons, errors, rewards, choices)
        return rewards.tolist()


def _check_groups(prompts: Sequence, group_size: int) -> None:
    """A group's statistics need all of it in one process, in order."""
    for start in range(0, len(prompts), group_size):
        if len(set(prompts[start : start + group_size])) != 1:
            raise RunError("a process was given parts of groups; processes must share prompts evenly")
