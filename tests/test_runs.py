"""Run folders refuse what does not belong to them, and survive a torn write."""

import json
import os

import pytest

from hicra.runs import RunError, RunFolder, canonical, folder_sha256, write_atomic
from hicra.training import last_checkpoint

SETTINGS = {"steps": 3, "learning_rate": 1e-4, "seed": 0}


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open(SETTINGS, world="a test")
    for step in range(3):
        run.append("steps.jsonl", {"step": step, "b": 1, "a": 2})
        run.append("rollouts.jsonl", {"step": step})
    for step in (0, 2):
        run.append("evals.jsonl", {"step": step})
    return run


def test_a_folder_made_with_other_settings_is_refused_and_kept(run):
    before = {p: p.read_bytes() for p in run.path.iterdir()}
    with pytest.raises(RunError, match=r"learning_rate: 0.0001 there, 0.001 asked"):
        run.open({**SETTINGS, "learning_rate": 1e-3})
    assert before == {p: p.read_bytes() for p in run.path.iterdir()}


def test_a_finished_run_reads_back_what_was_recorded(run):
    run.finish(wall_seconds=1.0)
    assert run.finished
    assert [row["step"] for row in run.read("steps.jsonl")] == [0, 1, 2]
    assert run.progress() == (3, 3)


def test_rewinding_to_a_checkpoint_drops_what_came_after_it(run):
    with open(run.path / "steps.jsonl", "a") as stream:
        stream.write('{"step": 3, "torn')
    run.rewind(2)
    assert [row["step"] for row in run.read("steps.jsonl")] == [0, 1]
    assert [row["step"] for row in run.read("evals.jsonl")] == [0, 2]
    run.rewind(0)
    assert run.read("steps.jsonl") == run.read("evals.jsonl") == []


def test_a_changed_or_missing_record_is_named(run):
    run.finish()
    path = run.path / "evals.jsonl.gz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RunError, match="evals.jsonl.gz was changed"):
        run.read("evals.jsonl")
    path.unlink()
    with pytest.raises(RunError, match="evals.jsonl.gz is missing"):
        run.read("evals.jsonl")


def test_a_torn_manifest_is_named(run):
    run.manifest_path.write_text('{"settings": ')
    with pytest.raises(RunError, match="manifest.json is torn or edited"):
        run.manifest()
    with pytest.raises(RunError, match="holds no run record"):
        RunFolder(run.path / "nowhere").manifest()


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_hashes_do_not_depend_on_order(tmp_path):
    assert canonical({"b": 1, "a": [2]}) == canonical(json.loads('{"a": [2], "b": 1}'))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for folder, names in (("one", "ab"), ("two", "ba")):
        for name in names:
            (tmp_path / folder / name).write_text(name)
    assert folder_sha256(tmp_path / "one") == folder_sha256(tmp_path / "two")


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    one, two = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with one.lock(), pytest.raises(RunError, match="another process is writing"), two.lock():
        pass
    with two.lock():
        pass


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    for step, state in ((9, "{}"), (10, "{}"), (11, "{to"), (12, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path).name == "checkpoint-10"
    assert last_checkpoint(tmp_path / "none") is None


def test_a_setting_that_came_later_counts_as_its_default(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open({"alpha": 0.2})
    run.check({"alpha": 0.2, "dtype": "float32"}, {"dtype": "float32", "alpha": 0.9})
    with pytest.raises(RunError, match="dtype: 'float32' there, 'float16' asked"):
        run.check({"alpha": 0.2, "dtype": "float16"}, {"dtype": "float32"})
    with pytest.raises(RunError, match="dtype: None there"):
        run.check({"alpha": 0.2, "dtype": "float32"})
