"""Tasks and bases: what a profile asks, and from which policy it starts."""

import json
import math
from dataclasses import replace

from hicra.study.policy.base_models import base_folder
from hicra.study.policy.rollouts import Rollout, score_on_true_spans

import pytest

from hicra.files import data_root
from hicra.lexicon.lexicon import Lexicon
from hicra.study.problems.families import is_held_out
from hicra.study.problems.problem_sets import Problem, ProblemError
from hicra.study.problems.prompts import (
    benchmark_tasks,
    boxed_solution,
    clean_problems,
    explainer,
    fitting,
    held_out_tasks,
    problem_of_row,
    training_tasks,
    worked_rows,
)
from hicra.study.problems.worlds import WORLDS
from hicra.study.profiles import get_profile
from hicra.study.sources import MADE


@pytest.fixture
def arithmetic(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"problem": f"What is {i} plus 1?", "answer": i + 1} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return get_profile("families", problem_set=str(path), eval_problems=4)


def test_made_tasks_carry_their_world():
    profile = get_profile("families", eval_problems=8)
    tasks = training_tasks(profile, 8, seed=3)
    assert tasks == training_tasks(profile, 8, seed=3) != training_tasks(profile, 8, seed=4)
    assert all(task.prompt == task.world.prompt for task in tasks)
    assert not any(is_held_out(task.world) for task in tasks)
    assert all(is_held_out(task.world) for task in held_out_tasks(profile))
    assert json.loads(tasks[0].row()["problem"])["family"] == "total"
    assert explainer(profile)(tasks[0], "no plan").kind == "planning"


def test_a_template_goes_around_the_problem():
    [task] = training_tasks(get_profile("families", prompt_template="Q: {problem} A:"), 1, seed=0)
    assert task.prompt == f"Q: {task.world.problem} A:"
    with pytest.raises(ValueError, match="has no {problem}"):
        get_profile("families", prompt_template="Q:")


def test_a_file_is_split_for_good(arithmetic):
    held_out = {task.prompt for task in held_out_tasks(arithmetic)}
    assert len(held_out) == 4
    tasks = training_tasks(arithmetic, 20, seed=0)  # more than there are: they recur
    assert {task.prompt for task in tasks}.isdisjoint(held_out)
    assert len({task.prompt for task in tasks[:8]}) == len({task.prompt for task in tasks}) == 8
    assert tasks != training_tasks(arithmetic, 20, seed=1)
    assert tasks[0].row()["problem"] == ""
    assert explainer(arithmetic) is None


def test_prompts_that_are_too_long_are_left_out(arithmetic):
    def tokenizer(texts):
        return {"input_ids": [text.split() for text in texts]}

    tasks = training_tasks(arithmetic, 8, seed=0)
    tasks[3] = tasks[3]._replace(prompt="much longer than " * 20)
    assert fitting(tasks, tokenizer, 20) == tasks[:3] + tasks[4:]
    with pytest.raises(ValueError, match="every prompt is longer than max_prompt_length=1"):
        fitting(tasks, tokenizer, 1)


def test_a_benchmark_s_problem_is_trained_on_only_when_told(tmp_path, arithmetic):
    bench = tmp_path / "bench.jsonl"
    bench.write_text('{"problem": "What is 3 plus 1?", "answer": 4}\n')
    clean = replace(arithmetic, benchmarks=(str(bench),))
    kept, report = clean_problems(clean)
    assert (len(kept), len(report.overlaps)) == (11, 1)
    kept, report = clean_problems(replace(clean, allow_contamination=True))
    assert (len(kept), len(report.overlaps)) == (12, 1)


def test_a_warm_start_is_on_the_problem_set_s_own_solutions(tmp_path, arithmetic):
    path = tmp_path / "school.jsonl"
    solution = "He has 2+3=<<2+3=5>>5 apples.\n#### 5"
    rows = [{"problem": f"Ann has {i} apples?", "answer": "5", "solution": solution} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    school = get_profile("smollm2", problem_set=str(path), eval_problems=2)
    pairs = worked_rows(school, 9)
    assert len(pairs) == 9
    assert {pair["completion"] for pair in pairs} == {"He has 2+3=5 apples.\n\\boxed{5}"}
    held_out = {task.prompt for task in held_out_tasks(school)}
    assert {pair["prompt"] for pair in pairs}.isdisjoint(held_out)
    assert school.world == "SmolLM2-135M-Instruct on school.jsonl"
    assert boxed_solution(Problem("p", "5", "f:1", r"So \boxed{5}.")) == r"So \boxed{5}."
    with pytest.raises(ValueError, match="no worked solutions to warm start on; .*warm_start_steps to 0"):
        worked_rows(arithmetic, 1)


def test_a_warm_start_teaches_skill_before_habit():
    profile, n = get_profile("smollm2"), 400
    problems = training_tasks(profile, n, seed=1)
    skilled, habitual = (worked_rows(profile, n, skill=skill) for skill in (True, False))
    assert [row["prompt"] for row in skilled] == [problem.prompt for problem in problems]
    assert {row["prompt"] for row in skilled} != {row["prompt"] for row in habitual}
    hints = [sum("hint" in row["completion"] for row in rows) / n for rows in (skilled, habitual)]
    assert hints == pytest.approx([0.1, 0.65], abs=0.06)
    right = [
        explainer(profile)(problem, row["completion"]) is None
        for problem, row in zip(problems, skilled, strict=True)
    ]
    assert sum(right) / n > 0.45  # by the hint alone it would be 0.3 at most


def test_the_fields_of_a_problem_file_can_be_named(tmp_path):
    path, bench = tmp_path / "school.jsonl", tmp_path / "bench.jsonl"
    rows = [{"question": f"What is {i} plus 1?", "final": f"It is more.\n#### {i + 1}"} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench.write_text(json.dumps({"question": "What is 2 times 9?", "final": "#### 18"}) + "\n")
    named = {"problem_field": "question", "answer_field": "final", "answer_mark": "####"}
    settings = {"problem_set": str(path), "benchmarks": [str(bench)], "eval_problems": 2}
    profile = get_profile("families", **settings, **named)
    assert {task.answer for task in training_tasks(profile, 4, seed=0)} <= set("123456")
    [(tasks, _)] = benchmark_tasks(profile).values()
    assert [task.answer for task in tasks] == ["18"]
    assert worked_rows(profile, 1)[0]["completion"].startswith("It is more.\n\\boxed{")
    with pytest.raises(ProblemError, match=r"'problem' is missing .*final, question.*set problem_field"):
        training_tasks(get_profile("families", **settings), 1, seed=0)


def test_problem_sets_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"problem": "x"}\n')
    with pytest.raises(ProblemError, match="field 'answer' is missing"):
        training_tasks(get_profile("families", problem_set=str(tmp_path / "p.jsonl")), 1, seed=0)
    with pytest.raises(ProblemError, match="is not a commit"):
        training_tasks(get_profile("families", problem_set="hub:openai/gsm8k@main:train"), 1, seed=0)


def test_bases_are_folders_hub_ids_or_packages():
    assert base_folder(get_profile("families")) == data_root() / "families/base"
    with pytest.raises(ValueError, match="hub:Qwen/Qwen3-4B-Base is pinned to no commit"):
        base_folder(get_profile("families", base="hub:Qwen/Qwen3-4B-Base"))
    with pytest.raises(FileNotFoundError, match="package no_such_weights"):
        base_folder(get_profile("families", base="package:no_such_weights"))


def test_a_model_on_the_hub_is_fetched_at_its_commit(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(model, **options):
        asked.append((model, options["revision"]))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    for name in ("colab", "paper"):
        assert base_folder(get_profile(name)) == tmp_path
    assert [model for model, _ in asked] == ["Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen3-4B-Base"]
    assert all(len(revision) == 40 for _, revision in asked)


def test_a_box_in_the_template_stays(tmp_path):
    [task] = training_tasks(get_profile("families", prompt_template="\\boxed{} {problem}"), 1, seed=0)
    assert task.prompt == f"\\boxed{{}} {task.world.problem}"


def test_training_problems_of_a_benchmark_are_left_out(arithmetic, tmp_path):
    path = tmp_path / "bench.jsonl"
    rows = [{"problem": f"what is {i} plus 1", "answer": i + 1} for i in (3, 5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    profile = replace(arithmetic, benchmarks=(str(path),))
    clean, report = clean_problems(profile)
    assert len(clean) == 10
    assert report.counts() == {("bench", "exact"): 2}
    prompts = {task.prompt for task in [*training_tasks(profile, 60, seed=0), *held_out_tasks(profile)]}
    assert not any(f"What is {i} plus" in prompt for prompt in prompts for i in (3, 5))
    tasks, samples = benchmark_tasks(profile)["bench"]
    assert [task.answer for task in tasks] == ["4", "6"]
    assert samples == 1
    assert clean_problems(arithmetic)[1] is None


def test_nobody_knows_the_true_spans_of_other_problems(arithmetic):
    score = score_on_true_spans(Lexicon.load("listing1"), [Rollout("p", "let me check", True)], arithmetic)
    assert all(math.isnan(value) for value in score[:3])


@pytest.mark.parametrize("name", WORLDS)
def test_a_made_set_gives_tasks_solutions_and_exact_labels(name):
    profile = get_profile("families", problem_set=name, eval_problems=16)
    tasks, held_out = training_tasks(profile, 16, 3), held_out_tasks(profile)
    assert tasks == training_tasks(profile, 16, 3)
    assert not {t.prompt for t in tasks} & {t.prompt for t in held_out}
    assert len(worked_rows(profile, 4)) == 4
    for task in tasks:
        assert problem_of_row(task.row()["problem"]) == task.world
        assert explainer(profile)(task, f"\\boxed{{{task.answer}}}") is None
        assert explainer(profile)(task, "no plan").kind == "planning"


def test_every_set_that_is_made_is_named():
    assert tuple(WORLDS) == MADE
