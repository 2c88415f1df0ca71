"""Tasks and bases: what a profile asks, and from which policy it starts."""

import json

import pytest

from hicra.bases import base_folder
from hicra.paths import data_path
from hicra.problems import ProblemError
from hicra.profiles import get_profile
from hicra.sandbox import is_held_out
from hicra.tasks import explainer, held_out_tasks, training_tasks


@pytest.fixture
def arithmetic(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"problem": f"What is {i} plus 1?", "answer": i + 1} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return get_profile("sandbox", problem_set=str(path), eval_problems=4)


def test_sandbox_tasks_carry_their_world():
    profile = get_profile("sandbox", eval_problems=8)
    tasks = training_tasks(profile, 8, seed=3)
    assert tasks == training_tasks(profile, 8, seed=3) != training_tasks(profile, 8, seed=4)
    assert all(task.prompt == task.world.prompt for task in tasks)
    assert not any(is_held_out(task.world) for task in tasks)
    assert all(is_held_out(task.world) for task in held_out_tasks(profile))
    assert json.loads(tasks[0].row()["problem"])["family"] == "product"
    assert explainer(profile)(tasks[0], "no plan").kind == "planning"


def test_a_template_goes_around_the_problem():
    [task] = training_tasks(get_profile("sandbox", prompt_template="Q: {problem} A:"), 1, seed=0)
    assert task.prompt == f"Q: {task.world.problem} A:"
    with pytest.raises(ValueError, match="has no {problem}"):
        get_profile("sandbox", prompt_template="Q:")


def test_a_file_is_split_for_good(arithmetic):
    held_out = {task.prompt for task in held_out_tasks(arithmetic)}
    assert len(held_out) == 4
    tasks = training_tasks(arithmetic, 20, seed=0)  # more than there are: they recur
    assert {task.prompt for task in tasks}.isdisjoint(held_out)
    assert len({task.prompt for task in tasks[:8]}) == len({task.prompt for task in tasks}) == 8
    assert tasks != training_tasks(arithmetic, 20, seed=1)
    assert tasks[0].row()["problem"] == ""
    assert explainer(arithmetic) is None


def test_problem_sets_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"problem": "x"}\n')
    with pytest.raises(ProblemError, match="field 'answer' is missing"):
        training_tasks(get_profile("sandbox", problem_set=str(tmp_path / "p.jsonl")), 1, seed=0)
    with pytest.raises(ProblemError, match="is not a commit"):
        training_tasks(get_profile("sandbox", problem_set="hub:openai/gsm8k@main:train"), 1, seed=0)


def test_bases_are_folders_hub_ids_or_packages():
    assert base_folder(get_profile("sandbox")) == data_path("sandbox/base")
    assert base_folder(get_profile("sandbox", base="hub:Qwen/Qwen3-4B-Base")) == "Qwen/Qwen3-4B-Base"
    with pytest.raises(FileNotFoundError, match="package no_such_weights"):
        base_folder(get_profile("sandbox", base="package:no_such_weights"))
