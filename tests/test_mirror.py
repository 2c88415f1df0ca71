"""Runs go on from a mirror on another drive, whatever that drive did to it."""

import os
import tarfile
import time
from contextlib import suppress

import pytest

from hicra.errors import HicraError
from hicra.study import ray_runs
from hicra.study.ray_runs import receive
from hicra.study.record import mirror
from hicra.study.record.checkpoints import last_checkpoint, seal, step_of
from hicra.study.record.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    """A run under way, with 5 steps and the checkpoints of 2 and 4."""
    run = RunFolder(tmp_path / "runs" / "grpo-seed0")
    run.open({"steps": 8, "arm": "grpo", "seed": 0}, condition="grpo")
    for step in range(5):
        run.append("steps.jsonl", {"step": step})
        run.append("rollouts.jsonl", {"step": step})
    run.append("evals.jsonl", {"step": 0})
    for step in (2, 4):
        _checkpoint(run, step)
    return run


def _checkpoint(run, step):
    path = run.path / "checkpoints" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"moments" * 10_000)
    seal(path)


def _told(lines):
    """Wait for the first line."""
    while not lines:
        time.sleep(0.01)
    return lines


def _names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _lost(run, tmp_path):
    """The run on a new machine: the local disk is empty, the drive is not."""
    found = [
        line.replace(f"{tmp_path}/", "") for line in mirror.restore(tmp_path / "new", tmp_path / "drive")
    ]
    return RunFolder(tmp_path / "new" / run.path.name), found


def test_a_run_goes_on_on_another_machine_from_its_newest_checkpoint(run, tmp_path):
    mirror.update(run.path.parent, tmp_path / "drive")
    there, told = _lost(run, tmp_path)
    assert told == ["grpo-seed0 goes on from drive/grpo-seed0/step-4.tar"]
    assert last_checkpoint(there.path / "checkpoints").name == "checkpoint-4"
    assert there.manifest() == run.manifest()
    there.rewind(4)
    assert [row["step"] for row in there.read("steps.jsonl")] == [0, 1, 2, 3]
    assert list(mirror.restore(tmp_path / "new", tmp_path / "drive")) == []  # what is there is left alone


def test_the_mirror_keeps_two_checkpoints_and_writes_one_once(run, tmp_path):
    drive = tmp_path / "drive"
    mirror.update(run.path.parent, drive)
    [first] = drive.rglob("*.tar")
    before = first.stat().st_mtime_ns
    mirror.update(run.path.parent, drive)
    assert first.stat().st_mtime_ns == before
    for step in (6, 10):
        _checkpoint(run, step)
        mirror.update(run.path.parent, drive)
    assert _names(drive) == ["grpo-seed0/step-10.tar", "grpo-seed0/step-6.tar"]


@pytest.mark.parametrize(
    ("member", "offset"),
    [
        ("checkpoints/checkpoint-6", 0),  # nothing at all
        ("checkpoints/checkpoint-6/optimizer.pt", 20_000),
        ("rollouts.jsonl", 0),
        ("manifest.json", 0),  # where a tar file could end
        ("manifest.json", 600),
    ],
)
def test_a_half_uploaded_checkpoint_is_passed_over_with_a_notice(run, tmp_path, member, offset):
    drive = tmp_path / "drive"
    mirror.update(run.path.parent, drive)
    _checkpoint(run, 6)
    mirror.update(run.path.parent, drive)
    newest = drive / "grpo-seed0" / "step-6.tar"
    with tarfile.open(newest) as archive:
        end = archive.getmember(member).offset + offset
    os.truncate(newest, end)
    there, told = _lost(run, tmp_path)
    assert told == [
        "drive/grpo-seed0/step-6.tar is cut short; passed over",
        "grpo-seed0 goes on from drive/grpo-seed0/step-4.tar",
    ]
    assert last_checkpoint(there.path / "checkpoints").name == "checkpoint-4"
    _checkpoint(there, 6)
    mirror.update(there.path.parent, drive)  # mends it
    assert list(mirror.restore(tmp_path / "third", drive)) == [f"grpo-seed0 goes on from {newest}"]
    assert not [p for p in there.path.parent.iterdir() if p.name.startswith(".")]


def test_a_finished_run_comes_back_whole_without_its_checkpoints(run, tmp_path):
    (run.path / "policy").mkdir()
    (run.path / "policy" / "adapter.safetensors").write_bytes(b"weights")
    run.finish()
    mirror.update(run.path.parent, tmp_path / "drive")
    there, told = _lost(run, tmp_path)
    assert told == ["grpo-seed0 goes on from drive/grpo-seed0/finished.tar"]
    assert there.finished
    assert there.read("steps.jsonl") == run.read("steps.jsonl")
    kept = [name for name in _names(run.path) if not name.startswith(("checkpoints", ".lock"))]
    assert _names(there.path) == kept


def test_a_run_begun_anew_takes_the_place_of_the_one_before(run, tmp_path):
    drive = tmp_path / "drive"
    run.finish()
    mirror.update(run.path.parent, drive)
    anew = RunFolder(tmp_path / "new" / "grpo-seed0")
    anew.open({"steps": 9, "arm": "grpo", "seed": 0}, condition="grpo")
    _checkpoint(anew, 2)
    mirror.update(anew.path.parent, drive)
    assert _names(drive) == ["grpo-seed0/step-2.tar"]


def test_the_mirror_is_brought_up_to_date_at_the_end_and_holds_the_notebooks(run, tmp_path):
    drive = tmp_path / "drive"
    with mirror.mirrored(run.path.parent, drive):
        (run.path.parent / "notebooks").mkdir()
        (run.path.parent / "notebooks" / "02.ipynb").write_text("{}")
    assert _names(drive) == ["grpo-seed0/step-4.tar", "notebooks/02.ipynb"]


def test_a_full_drive_is_told_and_no_run_is_ended_by_it(run, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(mirror.tarfile, "open", full)
    told, went_on = [], []
    with (
        pytest.raises(HicraError, match="not up to date .*No space left.*whole in"),
        mirror.mirrored(run.path.parent, tmp_path / "drive", told.append),
    ):
        went_on.append(_told(told))
    assert went_on
    assert len(told) == 1
    assert not list((tmp_path / "drive").rglob("*.tar"))


def test_a_mirror_in_the_runs_own_folder_is_refused(run):
    with (
        pytest.raises(HicraError, match="would be that folder itself"),
        mirror.mirrored(run.path.parent, run.path.parent),
    ):
        pass


def _sent(run, tmp_path, name):
    mirror.update_run(run, tmp_path / name)
    return mirror.newest_first(tmp_path / name)[0].read_bytes()


def _cut_short(monkeypatch, there, archive, allowed):
    """Receive so many of an archive's files."""
    replace, left = os.replace, iter(range(allowed))
    with monkeypatch.context() as patch, suppress(StopIteration):
        patch.setattr(ray_runs.os, "replace", lambda source, target: (next(left), replace(source, target)))
        receive(there, archive)


@pytest.mark.parametrize("allowed", range(7))
def test_what_a_node_sends_can_be_gone_on_from_however_little_of_it_arrived(
    run, tmp_path, monkeypatch, allowed
):
    """The newest checkpoint that is there has all its records, and a run that says it is finished is whole."""
    archives = [_sent(run, tmp_path, "first")]
    for step in (5, 6):
        run.append("steps.jsonl", {"step": step})
    _checkpoint(run, 6)
    archives.append(_sent(run, tmp_path, "second"))
    run.finish()
    archives.append(_sent(run, tmp_path, "third"))
    there = RunFolder(tmp_path / "driver" / "grpo-seed0")
    there.path.mkdir(parents=True)
    receive(there, archives[0])
    _cut_short(monkeypatch, there, archives[1], allowed)
    newest = step_of(last_checkpoint(there.path / "checkpoints"))
    assert newest == (6 if allowed > 4 else 4)  # three records and the manifest come first
    there.rewind(newest)
    assert [row["step"] for row in there.read("steps.jsonl")] == list(range(newest))
    receive(there, archives[1])
    _cut_short(monkeypatch, there, archives[2], allowed)
    assert there.finished == (allowed > 3)
    if not there.finished:
        assert last_checkpoint(there.path / "checkpoints")
        receive(there, archives[2])
    assert there.read("steps.jsonl") == run.read("steps.jsonl")
    assert not {"checkpoints", "steps.jsonl", ".received"} & {path.name for path in there.path.iterdir()}
