"""One plan of a run: everything that is decided before it begins, made here and passed on."""

from __future__ import annotations

from dataclasses import dataclass

from hicra.errors import HicraError
from hicra.lexicon.lexicon import Lexicon
from hicra.study.problems.prompts import Task, training_tasks
from hicra.study.profiles import ARMS, DEFAULTS, Profile
from hicra.study.record.run_folder import RunFolder
from hicra.study.sources import ORACLE, SAME
from hicra.study.training.settings import decisive_settings


@dataclass(frozen=True, eq=False)
class RunPlan:
    """A run of an arm with a seed, decided but not begun; `plan_run` makes it."""

    profile: Profile
    arm: str  # the rule of credit
    seed: int
    condition: str  # what tables and figures call it: an arm with settings of its own has its own name
    tasks: tuple[Task, ...]  # the prompts, in order
    observed: Lexicon  # what the record calls planning
    credited: Lexicon | None  # what marks tokens for credit; None: the made world's true spans
    settings: dict  # what decides the numbers, JSON-able

    def check(self, run: RunFolder) -> None:
        """RunError for a folder that was made with other settings; writes nothing."""
        run.check(self.settings, DEFAULTS)


def plan_run(profile: Profile, arm: str, seed: int, condition: str = "") -> RunPlan:
    """The plan of a run; `condition` is the arm's name where it is not given.

    The seed decides the prompts, so arms of one seed see the same in the same order. Raises HicraError for an
    unknown arm, a group that is too small for it, and what the lexicons and the problem set raise.
    """
    if arm not in ARMS:
        raise HicraError(f"unknown arm {arm!r}; choose one of: {', '.join(ARMS)}")
    if arm in ("scaled", "scaled_all") and profile.group_size < 3:
        raise HicraError(
            f"arm {arm!r} needs a group_size of 3 or more, not {profile.group_size}: see its docstring"
        )
    if (arm in ("weighted", "yoked")) != bool(profile.weights):
        raise HicraError(
            f"arm {arm!r} with weights={list(profile.weights)}: weighted and yoked need them, and others "
            "must have none"
        )
    tasks = tuple(training_tasks(profile, profile.steps * profile.prompts_per_step, seed))
    observed, credited = Lexicon.load(profile.lexicon), _credited(profile, seed)
    settings = decisive_settings(profile, arm, seed, tasks=tasks, observed=observed, credited=credited)
    return RunPlan(profile, arm, seed, condition or arm, tasks, observed, credited, settings)


def _credited(profile: Profile, seed: int) -> Lexicon | None:
    if profile.credit_lexicon == ORACLE:
        return None
    same = profile.credit_lexicon == SAME
    lexicon = Lexicon.load(profile.lexicon if same else profile.credit_lexicon)
    return lexicon.drop(profile.credit_drop, seed) if profile.credit_drop else lexicon
