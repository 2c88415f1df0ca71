"""Experiments, lexicons and measurements on a Ray cluster of two nodes of this host, and what goes wrong there.

`make ray` runs this in an environment of its own; in the study's there is no Ray. A node is killed with all of
its processes. Where nothing goes wrong, results are those of one machine by tests/test_spread.py.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is an extra: make ray")

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hicra.cli import main
from hicra.dynamics.measure import measure
from hicra.lexicon.build import build_lexicon
from hicra.lexicon.corpus import Corpus, CorpusError
from hicra.spread import OnRay
from hicra.study.experiments import KEPT, run_experiments
from hicra.study.record.checkpoints import sealed
from hicra.study.record.run_folder import RunFolder, run_folders
from tests.conftest import ROOT, SMOKE
from tests.test_spread import _corpus, _rollouts

NODE = {"num_cpus": 2, "object_store_memory": 2**27}
CLIENT_PORT = 10_017
HEAD = {"include_dashboard": False, "ray_client_server_port": CLIENT_PORT}
SWEEP = {**SMOKE, "steps": 4, "seeds": [0, 1]}
TIMES = ("seconds", "wall_seconds")


@pytest.fixture(scope="module", autouse=True)
def home():
    """An empty home folder, which stays empty; its path is short, for Ray's sockets lie below TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="r") as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "home").mkdir()
        patch.setenv("HOME", f"{folder}/home")
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_TOKEN", "of-this-test")
        for name in ("initial_delay_ms", "period_ms"):  # a dead node is seen in seconds
            patch.setenv(f"RAY_health_check_{name}", "1000")
        patch.setenv("PYTHONPATH", str(ROOT))
        yield Path(folder) / "home"
        assert not (Path(folder) / "home" / ".ray").exists()


@pytest.fixture(scope="module")
def cluster(home):
    """A cluster of one node, with which this process is connected."""
    made = Cluster(initialize_head=True, head_node_args={**NODE, **HEAD})
    try:
        ray.init(made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@contextlib.contextmanager
def _node(cluster, **options):
    node = cluster.add_node(**NODE, **options)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


@pytest.fixture
def second(cluster):
    with _node(cluster) as node:
        yield node


@pytest.fixture
def full(cluster, small):
    """A node whose temporary files lie on the small disk."""
    with _node(cluster, env_vars={"TMPDIR": str(small)}) as node:
        yield node


@pytest.fixture
def small():
    """A disk of 1 MB."""
    with tempfile.TemporaryDirectory(prefix="full") as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip("no small disk can be mounted here: it needs root")
        yield Path(folder)
        subprocess.run(["umount", "-l", folder], check=True)


def _held(marks, function, *arguments):
    """`function`, once the test says so; a mark tells that it has begun here."""
    (Path(marks) / f"{os.getpid()}").touch()
    while not (Path(marks) / "go").exists():
        time.sleep(0.05)
    return function(*arguments)


class Held(OnRay):
    """Sends all calls of one function to a node, where they wait until they are told to go."""

    def __init__(self, name, node, marks):
        super().__init__()
        self.name, self.marks = name, str(marks)
        self.there = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=True)}

    def submit(self, gives, function, call, **options):
        if function.__name__ == self.name:
            return super().submit(gives, _held, (self.marks, function, *call), **self.there)
        return super().submit(gives, function, call, **options)


def _lexicon(paths, spread=None):
    return build_lexicon(
        Corpus(paths, boxed_only=False, one_per="question"), n_clusters=3, min_df=2, spread=spread
    )


def _until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextlib.contextmanager
def _killed(cluster, node, marks):
    """Kills the node when a held function has begun on it, and lets all go."""

    def kill():
        _until(lambda: any(marks.iterdir()))
        cluster.remove_node(node, allow_graceful=False)
        (marks / "go").touch()

    marks.mkdir()
    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()
    assert len(list(marks.iterdir())) > 2  # it ran there, and again elsewhere


@pytest.mark.parametrize("function", ["encoded", "exact_counts", "add", "_merge"])
def test_a_node_killed_in_the_map_or_the_reduce_of_a_lexicon(cluster, second, tmp_path, function):
    paths = _corpus(tmp_path / "corpus")
    with _killed(cluster, second, tmp_path / "marks"):
        found = _lexicon(paths, Held(function, second, tmp_path / "marks"))
    one = _lexicon(paths)
    assert (found.clusters, dict(found.provenance)) == (one.clusters, dict(one.provenance))


@pytest.mark.parametrize("function", ["stored", "_step", "_run"])
def test_a_node_killed_while_it_measures(cluster, second, tmp_path, function):
    paths = _rollouts(tmp_path)
    with _killed(cluster, second, tmp_path / "marks"):
        found = measure(paths, "listing1", resamples=20, spread=Held(function, second, tmp_path / "marks"))
    one = measure(paths, "listing1", resamples=20)
    for name in ("steps", "changes", "grams", "success"):
        assert getattr(found, name).to_csv() == getattr(one, name).to_csv()


@pytest.mark.usefixtures("cluster")
def test_a_full_disk_in_the_map(full, small, tmp_path):
    (small / "filler").write_bytes(
        bytes(shutil.disk_usage(small).free - 2**13)
    )  # without any, it is not used
    paths = _corpus(tmp_path / "corpus", 3000)
    told = []
    found = _lexicon(paths, OnRay(told.append))
    assert found.clusters == _lexicon(paths).clusters
    [line] = told
    assert str(small) in line
    assert full.node_id[:8] in line


def _command(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "hicra", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_cluster_of_this_machine_leaves_nothing_in_the_home_folder(tmp_path):
    """A token is not given here, so that Ray would write one."""
    paths, home = _corpus(tmp_path / "corpus"), tmp_path / "home"
    home.mkdir()
    arguments = ["lexicon", "--solutions", *paths, "--any-answer", "--n-clusters", 3]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_TOKEN"}
    for on in ([], ["--on", "local"]):
        out = tmp_path / f"out{len(on)}" / "made.json"
        done = subprocess.run(
            [sys.executable, "-m", "hicra", *map(str, [*arguments, "--out", out, *on])],
            env={**environment, "HOME": str(home)},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out0" / "made.json").read_bytes() == out.read_bytes()
    assert list(home.iterdir()) == []


@pytest.mark.usefixtures("second")
def test_the_first_bad_source_is_named_as_on_one_machine(tmp_path):
    paths = _corpus(tmp_path / "corpus")
    for bad in paths[1], paths[3]:
        bad.write_text('{"response": 3}\n')
    with pytest.raises(CorpusError, match="^.*1.jsonl, line 1: field 'response' holds 3, not a text$"):
        _lexicon(paths, OnRay())


def test_where_no_cluster_is_one_line_says_so(capsys, tmp_path):
    paths = _corpus(tmp_path / "corpus")
    out = tmp_path / "made.json"
    assert main(["lexicon", "--solutions", *map(str, paths), "--out", str(out), "--on", "127.0.0.1:1"]) == 2
    assert capsys.readouterr().err.startswith("hicra: --on 127.0.0.1:1: no Ray cluster there")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The records of runs that were made without a cluster."""
    folder = tmp_path_factory.mktemp("alone")
    _sweep(folder)
    return _records(folder)


def _sweep(folder, spread=None, report=print):
    run_experiments(
        folder / "runs",
        folder / "records",
        ["grpo", "hicra"],
        profile="families",
        report=report,
        workers=None if spread else 2,
        spread=spread,
        **SWEEP,
    )


def _records(folder):
    """What the runs' records say, without their times."""
    found = {}
    for run in run_folders(folder / "records"):
        assert sorted(path.name for path in run.path.iterdir()) == sorted(KEPT)
        rows = [run.read(name) for name in ("steps.jsonl", "evals.jsonl", "rollouts.jsonl")]
        for row in [row for table in rows for row in table]:
            row.pop("seconds", None)
        found[run.path.name] = [run.manifest()["policy_sha256"], *rows]
    return found


def test_a_node_killed_in_a_sweep(cluster, second, tmp_path, alone):
    told = []

    def kill():
        """When a run of the second node has a checkpoint."""
        there = lambda: [n for n in told if n.endswith("1/4") or "2/4" in n]  # noqa: E731
        _until(lambda: there() and len(list((tmp_path / "runs").glob("*/checkpoints/*"))) >= 3, 300)
        cluster.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    _sweep(tmp_path, OnRay(told.append), told.append)
    thread.join()
    assert _records(tmp_path) == alone
    lost = [line for line in told if "goes on elsewhere" in line]
    assert 1 <= len({line.split()[0] for line in lost}) <= 2
    assert any(not line.endswith("step 0") for line in lost)
    for run in run_folders(tmp_path / "runs"):
        assert run.policy()  # back whole
        assert not sealed(run.path / "checkpoints")


def _sweeping(folder, address, conditions=("grpo", "hicra"), **overrides):
    arguments = ["experiments", "--conditions", *conditions, "--runs", folder / "runs", "--on", address]
    overrides = json.dumps({**SWEEP, **overrides})
    arguments += ["--records", folder / "records", "--overrides", overrides]
    return _command(*arguments)


def test_a_driver_killed_in_a_sweep_and_started_again(cluster, second, tmp_path, alone):
    first = _sweeping(tmp_path, cluster.address)
    _until(lambda: len(list((tmp_path / "runs").glob("*/checkpoints/*"))) >= 3, 300)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    made = {run.path.name for run in run_folders(tmp_path / "records")}
    begun = {p.parent.parent.parent.name for p in (tmp_path / "runs").glob("*/checkpoints/*/checksums.json")}
    assert begun - made
    again = _sweeping(tmp_path, cluster.address)
    said = again.communicate(timeout=500)[0]
    assert again.returncode == 0, said
    assert _records(tmp_path) == alone
    assert not any(f"{name} done" in said for name in made)
    assert f"{4 - len(made)} of 4 runs are missing" in said


def test_a_driver_outside_of_the_cluster(cluster, tmp_path):
    """As a client, which ray:// is: a lexicon, and a run whose folder comes back."""
    paths, out = _corpus(tmp_path / "corpus"), tmp_path / "made.json"
    arguments = ["lexicon", "--solutions", *paths, "--any-answer", "--n-clusters", 3, "--out", out]
    done = _command(*arguments, "--on", f"ray://127.0.0.1:{CLIENT_PORT}")
    said = done.communicate(timeout=300)[0]
    assert done.returncode == 0, said
    made = json.loads(out.read_text())
    assert [row["gram"] for row in made["grams"]] == list(
        build_lexicon(Corpus(paths, boxed_only=False), n_clusters=3).grams
    )
    done = _sweeping(tmp_path, f"ray://127.0.0.1:{CLIENT_PORT}", conditions=["grpo"], seeds=[0])
    said = done.communicate(timeout=300)[0]
    assert done.returncode == 0, said
    assert RunFolder(tmp_path / "runs" / "grpo-seed0").policy()
    assert RunFolder(tmp_path / "records" / "grpo-seed0").finished


def test_a_driver_killed_in_a_lexicon_and_started_again(cluster, second, tmp_path):
    paths, out = _corpus(tmp_path / "corpus"), tmp_path / "out" / "made.json"
    arguments = ["lexicon", "--solutions", *paths, "--any-answer", "--n-clusters", 3]
    first = _command(*arguments, "--out", out, "--on", cluster.address)
    _until(lambda: ray.available_resources().get("CPU", 0) < 4)  # a task of its has a node
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not out.exists()
    for more in (["--out", out, "--on", cluster.address], ["--out", tmp_path / "made.json"]):
        done = _command(*arguments, *more)
        said = done.communicate(timeout=300)[0]
        assert done.returncode == 0, said
    assert out.read_bytes() == (tmp_path / "made.json").read_bytes()


def test_a_full_disk_in_a_sweep(full, small, tmp_path, alone):
    told = []
    _sweep(tmp_path, OnRay(told.append), told.append)
    assert _records(tmp_path) == alone
    [line] = [line for line in told if "no space left" in line]
    assert str(small) in line
    assert full.node_id[:8] in line
    assert RunFolder(tmp_path / "runs" / "grpo-seed0").finished
