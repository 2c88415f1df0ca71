"""Training processes end: those that share a run when it is done, all of them when who started them is gone."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from hicra.study.training import process
from hicra.study.training.process import certain_end
from tests.benchmarks.soak import ending

SECONDS = 15  # in which everything must have ended; a loaded machine's


def _alive(family):
    return [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def _wait_until(true, seconds):
    limit = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < limit:
        time.sleep(0.1)
    return found


def _family(started, word):
    """The processes below `started`, once the command line of one has `word`."""

    def look():
        below = psutil.Process(started.pid).children(recursive=True)
        try:
            return below if any(word in " ".join(p.cmdline()) for p in below) else []
        except psutil.NoSuchProcess:
            return []

    return _wait_until(look, 120)


def _experiments(folder, **overrides):
    told = json.dumps({"seeds": [0], "steps": 500, "checkpoint_every": 1, **overrides})
    where = ["--runs", str(folder / "runs"), "--records", str(folder / "records")]
    return [sys.executable, "-m", "hicra", "experiments", "--conditions", "grpo", *where, "--overrides", told]


def _study(folder):
    where = ["--runs", str(folder / "runs"), "--figures", str(folder / "figures")]
    return [sys.executable, "-m", "hicra", "study", "--only", "02_grpo_baseline", *where]


def _ended_by(sign, command, root, *, once=None):
    """Whether everything below a command ends with it, and what it ended with."""
    log = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=root, stdout=log, stderr=log, start_new_session=True) as started:
        try:
            family = _family(started, "hicra.study.training.process")
            assert family, "no training process was started"
            if once:
                assert _wait_until(once, 120), "training did not begin"
                family = psutil.Process(started.pid).children(recursive=True)
            started.send_signal(sign)
            started.wait(SECONDS + 60)
            return _wait_until(lambda: not _alive(family), SECONDS)
        finally:
            for left in _alive(family):
                left.kill()
            started.kill()


SIGNALS = [signal.SIGHUP, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def _signals_are_heard():
    """Under nohup, and in a shell's background, signals are ignored, and processes inherit that.

    A handler they do not inherit: they begin with the default.
    """
    ignored = [s for s in SIGNALS if signal.getsignal(s) == signal.SIG_IGN]
    for sign in ignored:
        signal.signal(sign, lambda *_: None)
    yield
    for sign in ignored:
        signal.signal(sign, signal.SIG_IGN)


@pytest.mark.parametrize("sign", SIGNALS, ids=lambda s: s.name)
def test_training_ends_with_whoever_started_it(root, tmp_path, sign):
    assert _ended_by(sign, _experiments(tmp_path), root)


def test_training_under_way_ends_and_can_go_on(root, tmp_path):
    record = tmp_path / "runs" / "grpo-seed0" / "steps.jsonl"
    assert _ended_by(signal.SIGKILL, _experiments(tmp_path), root, once=record.exists)


@pytest.mark.parametrize("sign", [signal.SIGHUP, signal.SIGKILL], ids=lambda s: s.name)
def test_every_process_of_a_shared_run_ends(root, tmp_path, sign):
    record = tmp_path / "runs" / "grpo-seed0" / "steps.jsonl"
    assert _ended_by(sign, _experiments(tmp_path, processes=2), root, once=record.exists)


@pytest.mark.parametrize("sign", SIGNALS, ids=lambda s: s.name)
def test_training_started_by_a_notebook_ends_with_the_study(root, tmp_path, sign):
    assert _ended_by(sign, _study(tmp_path), root)


def test_a_launcher_that_was_gone_before_is_noticed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    asked = {"launcher": gone.pid, "profile": "families", "overrides": {}, "arm": "grpo", "seed": 0}
    told = json.dumps({**asked, "condition": "grpo", "folder": str(tmp_path / "run")})
    done = subprocess.run(
        [sys.executable, "-m", process.__name__, told], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "has ended, so it ends too" in done.stderr
    assert not (tmp_path / "run").exists()


def test_two_processes_that_share_a_run_end():
    assert ending(20) == 20


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("pass", 0, ""),
        ("raise HicraError('lower the rate')", 1, "hicra: lower the rate\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("sys.exit(3)", 1, "SystemExit"),
    ],
)
def test_the_end_tells_what_happened_and_runs_what_waits_for_it(body, code, told):
    program = (
        "import atexit, sys\nfrom hicra.errors import HicraError\n"
        "from hicra.study.training.process import certain_end\n"
        "class Stuck:\n    def __del__(self): print('destroyed', flush=True)\n"
        "stuck = Stuck()\natexit.register(print, 'flushed')\n"
        f"with certain_end(shared=True):\n    {body}\nprint('not reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (code, "flushed\n")
    assert told in done.stderr if told else not done.stderr


def test_a_process_alone_goes_on_after_its_run():
    with certain_end(shared=False):
        pass
    with pytest.raises(ZeroDivisionError), certain_end(shared=False):
        1 / 0  # noqa: B018
