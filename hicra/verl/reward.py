"""A reward for verl: custom_reward_function: {path: pkg://hicra.verl.reward, name: compute_score}."""

from __future__ import annotations


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info=None, **_) -> float:
    r"""1 where the last \boxed{} is the answer, by verl's own comparison of MATH, else 0.

    verl would choose a grading by the name of the data, and its grading of DAPO and AIME gives 1 and -1.
    The study's own grader cannot stand here: its parser and verl's configuration need different antlr4.
    """
    from verl.utils.reward_score.math_reward import compute_score as grade

    return grade(solution_str, ground_truth)
