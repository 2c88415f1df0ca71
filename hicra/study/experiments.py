"""The experiments: which runs the paper's figures, controls and claims need.

A condition is an arm with settings. Its name is the `arm` of tables and figures and the first part of
its run folder's name. A seed has the same problems in the same order in every condition, so differences are
paired; conditions that decide less have fewer seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hicra.dynamics.step_table import effective_weight
from hicra.errors import HicraError
from hicra.files import write_atomic
from hicra.spread import OnRay
from hicra.study import ray_runs
from hicra.study.launch import Job, places, train_all
from hicra.study.profiles import Profile, get_profile
from hicra.study.record.run_folder import PACKED, RECORDS, RunError, RunFolder, run_folders
from hicra.study.training.plan import plan_run

KEPT = ("manifest.json", *(f"{name}{PACKED}" for name in RECORDS))


class Condition(NamedTuple):
    """A credit rule, settings that differ from the common ones, and the question it answers."""

    arm: str
    overrides: dict
    question: str


WORLD = "families"  # the profile that the conditions are made for
# Pilots have other seeds, from 900 on.
DECIDING, FEWER = tuple(range(1000, 1010)), tuple(range(1000, 1005))
EASY, EVEN = {"base": "families/easy"}, {"problem_set": "families-even"}
# Longer than `make study`, which shows two seeds in a coffee break, and scored on many samples.
COMMON = {"steps": 120, "final_samples": 16, "seeds": DECIDING}


def _few(arm: str, question: str, **overrides) -> Condition:
    return Condition(arm, {"seeds": FEWER, **overrides}, question)


# In the order in which they are run: what decides most claims first.
CONDITIONS = {
    "grpo": Condition("grpo", {}, "the baseline"),
    "hicra": Condition("hicra", {}, "the paper's method, alpha 0.2"),
    "hicra0.9": Condition("hicra", {"alpha": 0.9}, "nearly the most amplification"),
    "scaled": Condition("scaled", {}, "HICRA's factor without its bonus"),
    "symmetric": Condition("symmetric", {}, "should failures blame planning more instead of less"),
    "hicra_all": Condition("hicra_all", {}, "do planning tokens matter at all"),
    "placebo": Condition("hicra", {"credit_lexicon": "families-placebo"}, "does it matter which tokens"),
    "yoked": Condition("yoked", {}, "HICRA's mean weight without its choice of prompts"),
    "symmetric0.9": _few("symmetric", "nearly the most weight", alpha=0.9),
    "scaled0.9": _few("scaled", "the largest factor without a bonus", alpha=0.9),
    "high_entropy": Condition("high_entropy", {}, "are uncertain tokens as good as planning tokens"),
    "entropy_reg": _few("entropy_reg", "is an entropy bonus on all tokens as good", entropy_coef=0.05),
    "oracle": _few("hicra", "the true spans, without the neutral words", credit_lexicon="oracle"),
    "recipe0": _few("hicra", "the recipe's lexicon", credit_lexicon="families-recipe0"),
    "recipe1": _few("hicra", "and with another seed of its clustering", credit_lexicon="families-recipe1"),
    "drop30": _few("hicra", "does the lexicon's completeness matter", credit_drop=0.3),
    "weighted0.5": _few("weighted", "half the planning credit", weights=(0.5,)),
    "weighted2": Condition("weighted", {"weights": (2.0,)}, "twice the planning credit"),
    "weighted4": _few("weighted", "four times the planning credit", weights=(4.0,)),
    "scaled_all": _few("scaled_all", "the factor alone, without a lexicon"),
    "fork_mask": _few("fork_mask", "only uncertain tokens learn"),
    "entropy_shaped": _few("entropy_shaped", "entropy added to every advantage"),
    "released": _few("released", "the second-hand variant"),
    "even-grpo": Condition("grpo", EVEN, "the baseline where problems are equally difficult"),
    "even-hicra": Condition("hicra", EVEN, "HICRA there"),
    "even-scaled": Condition("scaled", EVEN, "its factor there, which has nothing to tell apart"),
    "even-yoked": Condition("yoked", EVEN, "its mean weight there"),
    "easy-grpo": _few("grpo", "the baseline from a start above one half", **EASY),
    "easy-hicra": _few("hicra", "HICRA from there", **EASY),
    "easy-scaled": _few("scaled", "its factor from there", **EASY),
    "easy-yoked": _few("yoked", "its mean weight from there", **EASY),
}


def records_of(profile: str) -> str:
    """Where the records of a profile's experiments are, in data/."""
    return "families/records" if profile == WORLD else profile


def condition_profile(name: str, profile: str, **overrides) -> Profile:
    """The settings of a condition; another profile than the families' has seeds of its own.

    Raises HicraError for an unknown condition, and for one that needs the families' world elsewhere.
    """
    if name not in CONDITIONS:
        raise HicraError(f"unknown condition {name!r}; choose one of: {', '.join(CONDITIONS)}")
    settings = COMMON | CONDITIONS[name].overrides
    if profile != WORLD:
        settings = {key: value for key, value in settings.items() if key not in COMMON}
        if WORLD in str(settings):
            raise HicraError(
                f"condition {name!r} is of the profile {WORLD} ({settings}); {profile} has none like it"
            )
    return get_profile(profile, **settings | overrides)


def experiment_jobs(
    root: Path | str, names: Sequence[str], *, profile: str, records: Path | str = "", **overrides
) -> Iterator[Job]:
    """A run for every condition and seed, condition by condition.

    A yoked run takes its weights from the record, in `records`, of the HICRA run of its seed; HicraError
    where there is none.
    """
    for name in names:
        own = condition_profile(name, profile, **overrides)
        arm = CONDITIONS[name].arm
        for seed in own.seeds:
            settings = own
            if arm == "yoked":
                followed = name.replace("yoked", "hicra")
                leader = RunFolder(Path(records) / f"{followed}-seed{seed}")
                if not leader.finished:
                    raise HicraError(
                        f"{name} takes its weights from {leader.path.name}, which is not in {records}; name "
                        f"{followed!r} among the conditions too"
                    )
                settings = replace(own, weights=weights_of(leader.read("steps.jsonl"), own.alpha))
            plan = plan_run(settings, arm, seed, condition=name)
            yield Job(plan, RunFolder(Path(root) / f"{name}-seed{seed}"))


def weights_of(steps: Sequence[Mapping], alpha: float) -> tuple[float, ...]:
    """The mean weight of planning credit that HICRA had at each step of a record; 1 where it had none."""
    found = (effective_weight([row], alpha) for row in steps)
    return tuple(1.0 if math.isnan(weight) else round(weight, 6) for weight in found)


def run_experiments(
    root: Path | str,
    records: Path | str,
    names: Sequence[str],
    *,
    profile: str,
    report: Callable[[str], None],
    workers: int | None = None,
    spread: OnRay | None = None,
    **overrides,
) -> None:
    """Make the runs whose record is not yet in `records`, and copy each record there as it ends.

    Runs grow in `root` and are resumed from there; `spread` makes them on its nodes, from where every sealed
    checkpoint comes back to `root`. Raises HicraError for an unknown condition, and as `train_all`; a record
    in `records` made with other settings is refused too.
    """
    records = Path(records)
    yoked = [name for name in names if "yoked" in name]
    if yoked and len(yoked) < len(names):  # they need the records of the others
        for part in ([name for name in names if name not in yoked], yoked):
            run_experiments(
                root,
                records,
                part,
                profile=profile,
                report=report,
                workers=workers,
                spread=spread,
                **overrides,
            )
        return
    jobs = list(experiment_jobs(root, names, profile=profile, records=records, **overrides))
    missing = []
    for job in jobs:
        record = RunFolder(records / job.folder.path.name)
        job.plan.check(record)
        missing += [] if record.finished else [job]
    at_once = workers or 1
    if missing and (spread or not workers):
        wanted = missing[0].plan.profile
        free = ray_runs.places(spread.nodes, wanted) if spread else len(places(wanted.processes))
        at_once = min(workers or free, free)
    report(forecast(records, len(missing), len(jobs), at_once))
    _refuse_two_samplers([RunFolder(records / job.folder.path.name) for job in jobs], missing, spread)

    def keep(job: Job) -> None:
        export(job.folder, records)
        report(f"{job.folder.path.name} done")

    for job in missing:
        if job.folder.finished:
            keep(job)
    if spread:
        ray_runs.train_on_cluster(missing, spread, report=report, finished=keep, workers=workers)
    else:
        train_all(missing, report=report, finished=keep, workers=workers)


def _refuse_two_samplers(records: Sequence[RunFolder], missing: Sequence[Job], spread: OnRay | None) -> None:
    """RunError for records that could not be compared with the runs that are missing."""
    made = [run for run in [*records, *(job.folder for job in missing)] if run.finished]
    wanted = [job for job in missing if not job.folder.finished]
    if not (made and wanted):
        return
    from hicra.study.policy.rollouts import sampler_of

    profile = wanted[0].plan.profile
    here = ray_runs.sampler_there(spread, profile) if spread else sampler_of(profile)
    if other := [run for run in made if run.sampler != here]:
        raise RunError(
            f"{len(other)} records, such as {other[0].path}, were sampled by {other[0].sampler!r}; the "
            f"{len(wanted)} missing runs would be by {here!r} here, and the two cannot be compared. "
            "Give other folders, by --runs and --records, and make all of them anew"
        )


def export(run: RunFolder, records: Path) -> Path:
    """Copy a finished run's record, and nothing else of it; the manifest last, so it is whole or not."""
    target = records / run.path.name
    for name in reversed(KEPT):
        write_atomic(target / name, (run.path / name).read_bytes())
    return target


def forecast(records: Path, missing: int, total: int, workers: int) -> str:
    """One line: what is missing, and how long it takes if runs take as long as those that are there."""
    walls = [run.manifest()["wall_seconds"] for run in run_folders(records)]
    line = f"{missing} of {total} runs are missing"
    if not (walls and missing):
        return line
    hours = math.ceil(missing / workers) * statistics.median(walls) / 3600
    return f"{line}: about {hours:.1f} h, {workers} side by side"
