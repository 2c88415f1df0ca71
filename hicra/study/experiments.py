"""The sandbox's experiments: which runs the paper's figures, controls and claims need.

A condition is an arm with settings. Its name is the `arm` of tables and figures and the first part of
its run folder's name. Every condition has the same seeds and every seed the same problems in the same
order, so differences are paired.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hicra.errors import HicraError
from hicra.files import write_atomic
from hicra.spread import OnRay
from hicra.study import ray_runs
from hicra.study.launch import Job, train_all
from hicra.study.profiles import Profile, get_profile
from hicra.study.record.run_folder import RECORDS, RunError, RunFolder, run_folders
from hicra.study.training.plan import plan_run

SEEDS = (10, 11, 12, 13, 14)  # unused before; calibration and settings saw others
# Fewer steps than `make study` takes: 90 runs have to fit into an afternoon on two cores.
COMMON = {"steps": 60, "eval_every": 20, "eval_samples": 2}
KEPT = ("manifest.json", *(f"{name}.gz" for name in RECORDS))


class Condition(NamedTuple):
    """A credit rule, settings that differ from the common ones, and the question it answers."""

    arm: str
    overrides: dict
    question: str


# In the order in which they are run: what decides most claims first.
CONDITIONS = {
    "grpo": Condition("grpo", {}, "the baseline"),
    "hicra": Condition("hicra", {}, "the paper's method, alpha 0.2, lexicon by its recipe"),
    "oracle": Condition("hicra", {"credit_lexicon": "oracle"}, "is the idea right, whatever the lexicon"),
    "placebo": Condition("hicra", {"credit_lexicon": "sandbox-placebo"}, "does it matter which tokens"),
    "high_entropy": Condition("high_entropy", {}, "are uncertain tokens as good as planning tokens"),
    "entropy_reg": Condition("entropy_reg", {}, "is an entropy bonus on all tokens as good"),
    "entropy_reg0.2": Condition(
        "entropy_reg", {"entropy_coef": 0.2}, "and where the bonus is strong enough to be seen"
    ),
    "drop30": Condition("hicra", {"credit_drop": 0.3}, "does the lexicon's completeness matter"),
    "symmetric": Condition("symmetric", {}, "should failures blame planning more instead of less"),
    "weak-grpo": Condition("grpo", {"base": "sandbox/weak"}, "the baseline without procedural skill"),
    "weak-hicra": Condition("hicra", {"base": "sandbox/weak"}, "does HICRA need procedural skill"),
    "alpha0.1": Condition("hicra", {"alpha": 0.1}, "less amplification"),
    "alpha0.5": Condition("hicra", {"alpha": 0.5}, "more amplification"),
    "alpha0.9": Condition("hicra", {"alpha": 0.9}, "nearly the most amplification"),
    "gated": Condition("gated", {}, "the second-hand variant"),
    "listing1": Condition("hicra", {"credit_lexicon": "listing1"}, "the paper's own list"),
    "skyt1-paper": Condition("hicra", {"credit_lexicon": "skyt1-paper"}, "real traces, preset paper"),
    "skyt1-hicra": Condition("hicra", {"credit_lexicon": "skyt1-hicra"}, "real traces, preset hicra"),
}


def condition_profile(name: str, profile: str, **overrides) -> Profile:
    """The settings of a condition; steps and seeds of another profile than the sandbox are its own.

    Raises HicraError for an unknown condition, and for one that needs the sandbox elsewhere.
    """
    if name not in CONDITIONS:
        raise HicraError(f"unknown condition {name!r}; choose one of: {', '.join(CONDITIONS)}")
    settings = CONDITIONS[name].overrides
    if profile == "sandbox":
        settings = {**COMMON, "seeds": SEEDS, **settings}
    elif "sandbox" in str(settings):
        raise HicraError(f"condition {name!r} is the sandbox's own ({settings}); {profile} has none like it")
    return get_profile(profile, **{**settings, **overrides})


def experiment_jobs(root: Path | str, names: Sequence[str], *, profile: str, **overrides) -> Iterator[Job]:
    """A run for every condition and seed, condition by condition."""
    for name in names:
        own = condition_profile(name, profile, **overrides)
        for seed in own.seeds:
            plan = plan_run(own, CONDITIONS[name].arm, seed, condition=name)
            yield Job(plan, RunFolder(Path(root) / f"{name}-seed{seed}"))


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
    jobs = list(experiment_jobs(root, names, profile=profile, **overrides))
    missing = []
    for job in jobs:
        record = RunFolder(records / job.folder.path.name)
        job.plan.check(record)
        missing += [] if record.finished else [job]
    at_once = workers or os.cpu_count() or 1
    if spread and missing and not workers:
        at_once = ray_runs.places(spread.nodes, missing[0].plan.profile)
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
    hours = missing * statistics.median(walls) / workers / 3600
    return f"{line}: about {hours:.1f} h, {workers} side by side"
