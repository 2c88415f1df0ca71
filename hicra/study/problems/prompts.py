"""What a policy is asked: the prompts of a profile's problem set, with their gold answers.

Problems that are made carry what they are made of, by which failures are labelled exactly; others do not.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import NamedTuple

from hicra.errors import HicraError
from hicra.study.problems.contamination import Report, refuse_contaminated
from hicra.study.problems.families import MadeProblem
from hicra.study.problems.families_truth import Failure
from hicra.study.problems.problem_sets import Fields, Problem, read_set, samples_of, set_name, split
from hicra.study.problems.worlds import WORLDS
from hicra.study.profiles import Profile
from hicra.study.sources import set_title


class Task(NamedTuple):
    """A prompt as the policy reads it, the gold answer, and the problem that was made for it, if any."""

    prompt: str
    answer: str
    world: MadeProblem | None = None

    def row(self) -> dict:
        """Columns of a training data set."""
        world = json.dumps(asdict(self.world)) if self.world else ""
        return {"prompt": self.prompt, "answer": self.answer, "problem": world}


def problem_of_row(column: str) -> MadeProblem:
    """The problem that a row's column `problem` holds."""
    world = json.loads(column)
    return MadeProblem(**{**world, "numbers": tuple(world["numbers"])})


def training_tasks(profile: Profile, n: int, seed: int) -> list[Task]:
    """`n` training tasks in the order in which the seed's runs see them; they may recur."""
    if world := WORLDS.get(profile.problem_set):
        chosen = world.problems(n, seed)
        assert not any(map(world.is_held_out, chosen))
        return [_task(profile, p) for p in chosen]
    return [_task(profile, p) for p in _cycled(_split(profile)[0], n, f"tasks-{seed}")]


def held_out_tasks(profile: Profile) -> list[Task]:
    """The profile's fixed evaluation tasks: the same for every arm and seed, never trained on."""
    if world := WORLDS.get(profile.problem_set):
        return [_task(profile, p) for p in world.problems(profile.eval_problems, 0, held_out=True)]
    return [_task(profile, p) for p in _split(profile)[1]]


def benchmark_tasks(profile: Profile) -> dict[str, tuple[list[Task], int]]:
    """Name -> tasks and samples a problem, for every benchmark of the profile."""
    sets = {source: read_set(source, _fields(profile)) for source in profile.benchmarks}
    return {
        set_name(source): ([_task(profile, p) for p in problems], samples_of(source))
        for source, problems in sets.items()
    }


def fitting(tasks: Sequence[Task], tokenizer, longest: int) -> list[Task]:
    """The tasks whose prompts have at most `longest` tokens. Raises HicraError where none has."""
    lengths = map(len, tokenizer([task.prompt for task in tasks])["input_ids"])
    found = [task for task, length in zip(tasks, lengths, strict=True) if length <= longest]
    if not found:
        raise HicraError(f"every prompt is longer than max_prompt_length={longest} tokens; raise it")
    return found


def prompt_text(profile: Profile, problem: str) -> str:
    """The problem in the profile's template, whose other braces (of a \\boxed{}) stay as they are."""
    return profile.prompt_template.replace("{problem}", problem)


def worked_pairs(n: int, seed: int, world: str = "families", *how) -> list[tuple[MadeProblem, str]]:
    """`n` of a made set's training problems, each with a worked solution; `how` is the world's own."""
    made, rng = WORLDS[world], random.Random(f"worked-{seed}")
    return [(p, made.worked_solution(p, rng, *how).text) for p in made.problems(n, seed)]


def worked_rows(profile: Profile, n: int, *, skill: bool = False) -> list[dict[str, str]]:
    """`n` training prompts of the profile with worked solutions as completions, for a warm start.

    `skill`: a made set's strategies mostly fit, where by habit few do; other sets have one kind of solution.

    Raises HicraError for a problem set without solutions.
    """
    if profile.problem_set in WORLDS:
        how = (WORLDS[profile.problem_set].skill,) if skill else ()
        pairs = [(p.problem, text) for p, text in worked_pairs(n, int(skill), profile.problem_set, *how)]
    else:
        solved = [p for p in _split(profile)[0] if p.solution]
        if not solved:
            raise HicraError(
                f"{set_title(profile.problem_set)} has no worked solutions to warm start on; give its "
                "records a field `solution`, or set warm_start_steps to 0"
            )
        chosen = _cycled(solved, n, "worked-0")
        pairs = [(p.problem, boxed_solution(p)) for p in chosen]
    return [{"prompt": prompt_text(profile, problem), "completion": text} for problem, text in pairs]


def boxed_solution(problem: Problem) -> str:
    """A solution as a policy should write it: without GSM8K's calculator marks, the answer in a box."""
    text = re.sub(r"<<[^<>]*>>", "", problem.solution).partition("####")[0].strip()
    return text if "\\boxed" in text else f"{text}\n\\boxed{{{problem.answer}}}"


def _cycled(problems: Sequence[Problem], n: int, seed: str) -> list[Problem]:
    """`n` of the problems in an order drawn by `seed`; all of them before one recurs."""
    rng, order = random.Random(seed), []
    while len(order) < n:
        order += rng.sample(problems, len(problems))
    return order[:n]


def explainer(profile: Profile) -> Callable[[Task, str], Failure | None] | None:
    """What labels a failed completion of a task, or None where the problem set has no exact labels."""
    if world := WORLDS.get(profile.problem_set):
        return lambda task, completion: world.explain_failure(task.world, completion)
    return None


def _task(profile: Profile, problem: MadeProblem | Problem) -> Task:
    world = problem if isinstance(problem, MadeProblem) else None
    return Task(prompt_text(profile, problem.problem), problem.answer, world)


def _fields(profile: Profile) -> Fields:
    return Fields(profile.problem_field, profile.answer_field, profile.answer_mark or None)


def _split(profile: Profile) -> tuple[list[Problem], list[Problem]]:
    return split(clean_problems(profile)[0], profile.eval_problems, seed=0)


def clean_problems(profile: Profile) -> tuple[list[Problem], Report | None]:
    """The profile's problems without those of its benchmarks, and what was removed.

    The report is None where the profile names no benchmark. Raises ProblemError where nothing is left.
    """
    return _clean(profile.problem_set, profile.benchmarks, _fields(profile), profile.allow_contamination)


@cache
def _clean(
    problem_set: str | tuple[str, ...], names: tuple[str, ...], fields: Fields, allow: bool
) -> tuple[list[Problem], Report | None]:
    problems = read_set(problem_set, fields)
    if not names:
        return problems, None
    benchmarks = {set_name(name): read_set(name, fields) for name in names}
    return refuse_contaminated(problems, benchmarks, allow=allow)
