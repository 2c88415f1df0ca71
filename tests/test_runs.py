"""Run folders refuse what does not belong to them, and survive a torn write."""

import json
import os
import pickle
import shutil

import pytest

from hicra.files import canonical, folder_sha256, write_atomic
from hicra.study.record.checkpoints import SEAL, last_checkpoint, seal
from hicra.study.record.run_folder import RECORDS, RunError, RunFolder, run_folders
from hicra.study.record.run_tables import load_study
from tests.records import write_record

SETTINGS = {"steps": 3, "learning_rate": 1e-4, "seed": 0}


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open(SETTINGS, condition="hicra", world="a test")
    for step in range(3):
        run.append("steps.jsonl", {"step": step, "b": 1, "a": 2})
        run.append("rollouts.jsonl", {"step": step})
    for step in (0, 2):
        run.append("evals.jsonl", {"step": step})
    return run


def test_a_folder_made_with_other_settings_is_refused_and_kept(run):
    before = {p: p.read_bytes() for p in run.path.iterdir()}
    with pytest.raises(RunError, match=r"learning_rate: 0.0001 there, 0.001 asked"):
        run.open({**SETTINGS, "learning_rate": 1e-3}, condition="hicra")
    assert before == {p: p.read_bytes() for p in run.path.iterdir()}


def test_a_run_goes_on_with_the_sampler_it_was_begun_with(run):
    run.begin("transformers", resumed=False)
    with pytest.raises(RunError, match="begun with the sampler 'transformers', here .* 'own'"):
        run.begin("own", resumed=True)
    run.begin("own", resumed=False)  # no checkpoint: nothing of before is kept
    run.begin("own", resumed=True, float32_products="medium")
    assert run.sampler == RunFolder(run.path).sampler == "own"
    assert run.manifest()["float32_products"] == "medium"
    assert run.notices() == []
    run.begin("own", resumed=True, float32_products="highest")  # rounding alone: another processor
    assert run.manifest()["float32_products"] == "medium"
    assert run.notices() == ["begun with float32_products 'medium', gone on with 'highest'"]


def test_runs_of_two_samplers_are_not_compared(tmp_path):
    runs = [write_record(tmp_path, arm, 0) for arm in ("grpo", "hicra")]
    assert len(load_study(runs).evals) == 4
    runs[1].begin("own", resumed=False)
    with pytest.raises(RunError, match="different samplers .* 'own' .*hicra-.*'transformers' .*grpo-"):
        load_study(runs)


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
    path = run.path / "evals.jsonl.bz2"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RunError, match="evals.jsonl.bz2 was changed"):
        run.read("evals.jsonl")
    path.unlink()
    with pytest.raises(RunError, match="evals.jsonl.bz2 is missing"):
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


def test_odd_line_ends_in_a_rollout_are_no_line_ends(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open(SETTINGS, condition="hicra")
    row = {"step": 0, "completion": "a\u2028b\x85c\x0bd\r\ne"}
    for name in RECORDS:
        run.append(name, row)
    run.rewind(1)
    assert run.read("rollouts.jsonl") == [row]
    run.finish()
    assert run.read("rollouts.jsonl") == [row]


def test_a_record_torn_inside_a_character_goes_on(run):
    with open(run.path / "rollouts.jsonl", "ab") as stream:
        stream.write('{"step": 3, "completion": "π'.encode()[:-1])
    run.rewind(3)
    assert [row["step"] for row in run.read("rollouts.jsonl")] == [0, 1, 2]


def test_other_weights_than_at_the_beginning_are_refused(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open(SETTINGS, condition="hicra", base_weights_sha256="a" * 64)
    run.same("base_weights_sha256", "a" * 64)
    with pytest.raises(RunError, match="begun with another base_weights_sha256 .aaaaaaaaaaaa, now bbb"):
        run.same("base_weights_sha256", "b" * 64)


def test_trained_weights_that_were_changed_are_named(run):
    with pytest.raises(RunError, match="policy is missing"):
        run.policy()
    (run.path / "policy").mkdir()
    weights = run.path / "policy" / "model.safetensors"
    weights.write_bytes(b"weights")
    run.finish(policy_sha256=folder_sha256(run.path / "policy", "*.safetensors"))
    (run.path / "policy" / "README.md").write_text("a card may change")
    assert run.policy() == run.path / "policy"
    weights.write_bytes(b"weighty")
    with pytest.raises(RunError, match="policy was changed after the run"):
        run.policy()


def test_an_edited_line_of_a_growing_record_is_named(run):
    path = run.path / "steps.jsonl"
    path.write_text(path.read_text().replace('"step": 1', '"step": '))
    with pytest.raises(RunError, match="steps.jsonl was edited .*delete"):
        run.rewind(2)


def _checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "optimizer.pt").write_bytes(b"moments")
    (path / "trainer_state.json").write_text("{}")
    return path


def test_a_drive_without_locks_is_told_and_used(tmp_path, monkeypatch):
    def no_locks(stream, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    told = pytest.warns(UserWarning, match="run cannot be locked .*no other process")
    with told, RunFolder(tmp_path / "run").lock():
        pass


def test_a_checkpoint_without_a_seal_is_passed_over(tmp_path):
    for step in (9, 10, 11):
        seal(_checkpoint(tmp_path, step))
    _checkpoint(tmp_path, 12)  # its process ended before all of it was written
    assert last_checkpoint(tmp_path).name == "checkpoint-11"
    assert last_checkpoint(tmp_path / "none") is None


def test_a_checkpoint_that_is_not_what_was_sealed_is_named_and_not_read(tmp_path):
    for step in (5, 10):
        seal(_checkpoint(tmp_path, step))
    victim = tmp_path / "checkpoint-10" / "optimizer.pt"
    victim.write_bytes(pickle.dumps(print))
    with pytest.raises(RunError, match=r"optimizer.pt was changed .*delete .*checkpoint-10"):
        last_checkpoint(tmp_path)
    shutil.rmtree(victim.parent)
    assert last_checkpoint(tmp_path).name == "checkpoint-5"


@pytest.mark.parametrize(
    ("name", "left", "told"),
    [("optimizer.pt", None, "is missing"), ("optimizer.pt", 3, "is cut short"), (SEAL, 9, "is cut short")],
)
def test_a_checkpoint_that_never_reached_the_drive_is_passed_over_with_a_notice(tmp_path, name, left, told):
    for step in (5, 10):
        seal(_checkpoint(tmp_path, step))
    victim = tmp_path / "checkpoint-10" / name
    victim.unlink() if left is None else victim.write_bytes(victim.read_bytes()[:left])
    notices = []
    assert last_checkpoint(tmp_path, notices.append).name == "checkpoint-5"
    assert notices == [f"checkpoint-10 passed over, {name} {told}"]


def test_a_seal_of_an_older_version_is_read(tmp_path):
    checkpoint = _checkpoint(tmp_path, 5)
    seal(checkpoint)
    sums = {name: text.split()[0] for name, text in json.loads((checkpoint / SEAL).read_text()).items()}
    (checkpoint / SEAL).write_text(json.dumps(sums))
    assert last_checkpoint(tmp_path) == checkpoint


def test_a_setting_that_came_later_counts_as_its_default(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open({"alpha": 0.2}, condition="hicra")
    run.check({"alpha": 0.2, "dtype": "float32"}, {"dtype": "float32", "alpha": 0.9})
    with pytest.raises(RunError, match="dtype: 'float32' there, 'float16' asked"):
        run.check({"alpha": 0.2, "dtype": "float16"}, {"dtype": "float32"})
    with pytest.raises(RunError, match="dtype: None there"):
        run.check({"alpha": 0.2, "dtype": "float32"})


def test_a_run_bears_its_condition_whatever_its_folder_is_called(tmp_path):
    run = RunFolder(tmp_path / "renamed")
    run.open({"arm": "hicra", "seed": 3}, condition="drop30")
    assert (run.condition, run.seed) == ("drop30", 3)
    assert [found.path for found in run_folders(tmp_path)] == [run.path]


def test_a_record_of_another_format_is_refused(run):
    run.manifest_path.write_text(run.manifest_path.read_text().replace('"format": 2', '"format": 1'))
    told = "run is a record of format 1, this version reads format 2"
    for use in (lambda: run.read("steps.jsonl"), lambda: run.check(SETTINGS), lambda: run.condition):
        with pytest.raises(RunError, match=told):
            use()
    assert not run.finished  # what needs no record goes on


def test_every_committed_record_bears_its_condition(root):
    runs = [run for name in ("records", "pilots") for run in run_folders(root / "data/families" / name)]
    assert len(runs) > 6
    for run in runs:
        assert run.path.name == f"{run.condition}-seed{run.seed}"
        assert all(run.read(name) for name in ("evals.jsonl", "steps.jsonl"))  # by their checksums
