"""A finished run on benchmarks: protocol, table, and what is refused."""

import json

from hicra.study.policy.evaluation import score_run

import pytest

from hicra.cli import main
from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunError
from hicra.study.training.plan import plan_run
from hicra.study.training.run import train

pytestmark = pytest.mark.filterwarnings("default")
SMOKE = {
    "steps": 1,
    "prompts_per_step": 2,
    "group_size": 2,
    "rows_per_pass": 2,
    "max_completion_length": 12,
    "eval_problems": 2,
    "eval_every": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(
        plan_run(get_profile("sandbox", **SMOKE), "grpo", 0), tmp_path_factory.mktemp("run") / "grpo"
    )


def test_a_finished_policy_is_scored_with_the_sets_samples(run, tmp_path, capsys):
    path = tmp_path / "amc23.jsonl"
    path.write_text(json.dumps({"problem": "Compute 3 times 4.", "answer": "12"}) + "\n")
    arguments = ["benchmarks", str(run.path), "--overrides", json.dumps({"benchmarks": [str(path)]})]
    assert main(arguments) == 0
    assert "amc23" in capsys.readouterr().out
    [row] = json.loads((run.path / "benchmarks.json").read_text())
    assert (row["problems"], row["samples"], row["n"]) == (1, 4, 4)
    assert 0 <= row["accuracy"] <= 1


def test_nothing_to_score_is_an_error(run, tmp_path):
    (run.path / "benchmarks.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="names no benchmark"):
        score_run(run.path, use_vllm=False)
    with pytest.raises(RunError, match="not a finished run"):
        score_run(tmp_path / "none", use_vllm=False)
    assert not (run.path / "benchmarks.json").exists()


def test_a_step_in_several_passes_records_every_completion(run):
    [row] = run.read("steps.jsonl")
    assert (row["n_completions"], row["n_groups"]) == (4, 2)
