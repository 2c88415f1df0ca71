"""`make gpu` where there is no GPU: what it runs, what it names as left out, and that it stops at a failure."""

import csv
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.gpu import __main__ as command
from tests.gpu import engine
from tests.gpu.card import Row

pytestmark = pytest.mark.filterwarnings("default")


def _checks(*functions):
    return tuple(command.Check(f.__name__, f) for f in functions)


def test_without_a_gpu_it_ends_well_and_names_what_it_left_out(tmp_path, root):
    if torch.cuda.is_available():
        pytest.skip("the whole of it is for this machine")
    arguments = ["-m", "tests.gpu", "--out", str(tmp_path), "--only", "1", "2", "6", "9", "11"]
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out: 6 engine (needs a GPU), 9 long rows (needs a GPU)" in done.stdout
    assert done.stdout.splitlines()[-1] == "CPU: all that was run is well"
    with open(tmp_path / "CPU.csv") as stream:
        rows = {(row["check"], row["what"]): row for row in csv.DictReader(stream)}
    assert rows["2 imports", "trainer"]["found"] == "GRPOTrainer"
    assert rows["11 sampler", "sampler"]["found"] == "own"
    assert {row["well"] for row in rows.values()} == {"True"}


def good(options):
    yield Row("a number", "1")


def bad(options):
    yield Row("another", "2", "3", well=False)
    yield Row("never", "reached")


def broken(options):
    yield Row("a number", "1")
    raise RuntimeError("no such kernel")


@pytest.mark.parametrize(
    ("second", "told"),
    [(bad, "another: 2   (wanted: 3)"), (broken, "ended with 1: RuntimeError: no such kernel")],
)
def test_it_stops_at_the_first_failure(monkeypatch, tmp_path, capsys, second, told):
    monkeypatch.setattr(command, "CHECKS", _checks(good, second, good))
    monkeypatch.setattr(command, "apart", lambda number, options, seconds: _here(number, options))
    assert command.main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert told in said
    assert said.splitlines()[-1] == f"CPU: 1 {second.__name__} failed"
    assert "2 good" not in said


def _here(number, options):
    """What a process of its own would do."""
    options.one = number
    try:
        code, log = command.one(options), ""
    except RuntimeError as error:
        code, log = 1, f"Traceback\n{type(error).__name__}: {error}\n"
    (options.out / f"{number}.log").write_text(log)
    return command.rows_of(number, options, code)


def test_a_check_that_takes_too_long_is_ended(tmp_path):
    options = SimpleNamespace(out=tmp_path, no_vllm=False, offline=False)
    rows = command.apart(3, options, seconds=0.5)
    assert [row.well for row in rows] == [False]
    assert rows[0].what == "ran out of time"


@pytest.mark.parametrize(
    ("gpu", "vllm", "no_vllm", "card", "why"),
    [
        (0, False, True, 0.0, ""),
        (14, True, False, 0.0, "needs a GPU"),
        (78, False, False, 15.6, "needs 78 GB"),
        (14, True, True, 15.6, "--no-vllm"),
        (14, True, False, 15.6, ""),
    ],
)
def test_why_a_check_is_left_out(gpu, vllm, no_vllm, card, why):
    assert command.Check("x", good, gpu, vllm).left_out(SimpleNamespace(no_vllm=no_vllm), card) == why


def test_the_engine_s_outputs_become_a_batch():
    def out(prompt, tokens):
        logprobs = [{token: SimpleNamespace(logprob=-float(token))} for token in tokens]
        return SimpleNamespace(
            prompt_token_ids=prompt, outputs=[SimpleNamespace(token_ids=tokens, logprobs=logprobs)]
        )

    batch, logps = engine.engine_batch([out([5], (1, 2, 3)), out([6, 7], (4,))], pad=0, device="cpu")
    assert batch["prompt_ids"].tolist() == [[0, 5], [6, 7]]
    assert batch["prompt_mask"].tolist() == [[0, 1], [1, 1]]
    assert batch["completion_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["completion_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert logps.tolist() == [[-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]]
