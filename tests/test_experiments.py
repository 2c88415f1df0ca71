"""Experiments: conditions that can be run, runs that are missing, records that are kept."""

import shutil

import pytest

from hicra.lexicon.lexicon import Lexicon
from hicra.study import experiments
from hicra.study.experiments import (
    CONDITIONS,
    KEPT,
    condition_profile,
    experiment_jobs,
    forecast,
    run_experiments,
)
from hicra.study.profiles import ARMS, get_profile
from hicra.study.record.run_folder import RunError, RunFolder, run_folders
from tests.records import write_record


def test_every_condition_could_start_and_differs(tmp_path):
    own = [name for name in CONDITIONS if "yoked" not in name]
    jobs = list(experiment_jobs("runs", own, profile="families", records=tmp_path, seeds=[1000]))
    assert {job.plan.arm for job in jobs} == set(ARMS) - {"yoked"}
    assert len({str(job.plan.settings) for job in jobs}) == len(jobs)
    assert {job.plan.settings["lexicon_sha256"] for job in jobs} == {Lexicon.load("families").sha256}
    assert {job.plan.settings["steps"] for job in jobs} == {120}
    same = [j.plan.settings["prompts_sha256"] for j in jobs if not j.plan.condition.startswith("even-")]
    assert len(set(same)) == 1  # arms of one seed see the same problems
    seeds = {name: condition_profile(name, "families").seeds for name in CONDITIONS}
    assert set(seeds.values()) == {tuple(range(1000, 1005)), tuple(range(1000, 1010))}
    assert len(seeds["grpo"]) == len(seeds["yoked"]) == 10
    with pytest.raises(ValueError, match="unknown condition 'hicro'"):
        condition_profile("hicro", "families")


def test_a_yoked_run_has_the_weights_that_hicra_had(tmp_path):
    own = {"profile": "families", "records": tmp_path, "seeds": [7], "steps": 2, "eval_every": 1}
    with pytest.raises(ValueError, match="weights from hicra-seed7, which is not in .*; name 'hicra' among"):
        list(experiment_jobs("runs", ["yoked"], **own))
    leader = RunFolder(tmp_path / "hicra-seed7")
    leader.open({"arm": "hicra", "seed": 7}, condition="hicra")
    # Of 4 each: one and three right, 10 and 30 planning tokens; k = (10 * 0.5 - 30 * 0.5) / 40. Then no mixed group.
    for won in ([1, 3], [0, 4]):
        row = {"n_completions": 8, "n_groups": 2, "group_successes": won, "group_planning": [10, 30]}
        leader.append("steps.jsonl", row)
    for name in ("evals.jsonl", "rollouts.jsonl"):
        leader.append(name, {})
    leader.finish()
    [job] = experiment_jobs("runs", ["yoked"], **own)
    assert job.plan.arm == "yoked"
    assert job.plan.profile.weights == (1 + 0.2 * 2 * -0.25, 1.0)


def test_the_yoked_are_made_when_those_they_follow_are_there(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(experiments, "weights_of", lambda steps, alpha: (0.9,))
    _run(tmp_path, ["yoked", "hicra"], profile="families", seeds=[0])
    assert trained == ["hicra-seed0", "yoked-seed0"]


def test_every_committed_record_is_known_again_by_its_settings(root):
    records = root / "data/families/records"
    made = {run.condition for run in run_folders(records)}
    jobs = {
        j.folder.path.name: j for j in experiment_jobs(records, made, profile="families", records=records)
    }
    for run in run_folders(records):
        jobs[run.path.name].plan.check(run)
        assert run.finished
        assert run.condition == jobs[run.path.name].plan.condition


def test_another_profile_has_its_own_steps_and_seeds():
    jobs = list(experiment_jobs("runs", ("grpo", "hicra0.9"), profile="smollm2"))
    assert [job.folder.path.name for job in jobs] == ["grpo-seed0", "hicra0.9-seed0"]
    assert jobs[0].plan.profile == get_profile("smollm2")
    assert jobs[1].plan.profile.alpha == 0.9
    for name in ("easy-hicra", "placebo"):
        with pytest.raises(ValueError, match="is of the profile families"):
            condition_profile(name, "smollm2")


@pytest.fixture
def trained(monkeypatch):
    """Training that only writes a record; the names of the runs it was asked for."""
    asked = []

    def train_all(jobs, *, report, finished, workers):
        for job in jobs:
            asked.append(job.folder.path.name)
            plan = job.plan
            write_record(job.folder.path.parent, plan.condition, plan.seed, settings=plan.settings)
            (job.folder.path / "policy").mkdir()
            finished(job)

    monkeypatch.setattr(experiments, "train_all", train_all)
    return asked


def _run(tmp_path, names=("grpo", "hicra"), **overrides):
    lines = []
    settings = {"profile": "families", "seeds": [0, 1]} | overrides
    folders = (tmp_path / "runs", tmp_path / "records")
    run_experiments(*folders, names, report=lines.append, workers=2, **settings)
    return lines


def test_only_missing_runs_are_made_and_only_records_kept(tmp_path, trained):
    assert _run(tmp_path)[0] == "4 of 4 runs are missing"
    assert trained == ["grpo-seed0", "grpo-seed1", "hicra-seed0", "hicra-seed1"]
    record = RunFolder(tmp_path / "records" / "hicra-seed1")
    assert sorted(p.name for p in record.path.iterdir()) == sorted(KEPT)
    assert record.finished
    assert record.read("steps.jsonl")
    assert _run(tmp_path)[0] == "0 of 4 runs are missing"
    assert len(trained) == 4


def test_a_record_made_with_other_settings_is_refused(tmp_path, trained):
    _run(tmp_path)
    with pytest.raises(RunError, match="alpha"):
        _run(tmp_path, alpha=0.3)
    assert len(trained) == 4


def test_missing_runs_are_not_made_by_another_sampler_than_the_records(tmp_path, trained):
    _run(tmp_path)  # written as if by transformers' generate, as records without a sampler were
    (tmp_path / "records" / "hicra-seed1" / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(RunError, match="3 records, .* by 'transformers'; the 1 missing .* 'own' here"):
        _run(tmp_path)
    assert len(trained) == 4


def test_the_forecast_is_from_the_runs_there_are(tmp_path):
    write_record(tmp_path, "grpo", 0)  # 100 s
    assert forecast(tmp_path, 72, 80, 2) == "72 of 80 runs are missing: about 1.0 h, 2 side by side"


def test_the_forecast_counts_gpus_where_no_number_is_asked_for(tmp_path, trained, monkeypatch):
    write_record(tmp_path / "records", "hicra", 5)  # 100 s
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    lines = []
    folders = (tmp_path / "runs", tmp_path / "records")
    run_experiments(*folders, ("grpo",), profile="families", seeds=list(range(8)), report=lines.append)
    assert lines[0].endswith("4 side by side")
