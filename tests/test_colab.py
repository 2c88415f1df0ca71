"""The Colab notebook, run from an empty folder in the state in which Colab starts.

That is: another Python runs the cells, with packages of its own (a torchvision that does not match our torch
among them), and the environment names places that are not ours. Nothing is downloaded: in uv's place a
script makes the environment from the packages that are installed here, and writes down what it was told.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from hashlib import sha256
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
SITE = Path(sysconfig.get_path("purelib"))
# IPython and what it needs, none of it compiled for one Python.
KERNEL = (
    "IPython asttokens decorator.py executing ipython_pygments_lexers.py jedi matplotlib_inline parso pexpect"
)
KERNEL += (
    " prompt_toolkit psutil ptyprocess pure_eval pygments stack_data traitlets typing_extensions.py wcwidth"
)
RUN_CELLS = """\
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell, given = InteractiveShell.instance(), json.loads(sys.argv[2])
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        done = shell.run_cell("".join(cell["source"]).replace(" 03_hicra", ""))  # as long again; in test_study
        done.raise_error()
        if "parameters" in cell["metadata"].get("tags", []):
            shell.user_ns.update(given)
        if done.result is not None:
            print("shown:", "data:image/png" in done.result.data, "GRPO" in done.result.data)
"""
UV = """\
#!{python}
import json, os, subprocess, sys
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if "UV_CONSTRAINT" in os.environ:
    sys.exit("constraints of another environment")
if sys.argv[1] == "venv":
    subprocess.run([{python!r}, "-m", "venv", "--without-pip", ".venv"], check=True)
    lent = subprocess.run([".venv/bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                          capture_output=True, text=True, check=True).stdout.strip()
    os.symlink({share!r}, ".venv/share")
    with open(lent + "/lent.pth", "w") as stream:
        stream.write(os.getcwd() + "\\n" + {site!r} + "\\n")
"""


@pytest.fixture(scope="module")
def other_python():
    """Python 3.13 or 3.12 where the machine has one, else ours."""
    for minor in ("3.13", "3.12"):
        environment = {**os.environ, "PYENV_VERSION": minor}  # where pyenv chooses
        try:
            command = [f"python{minor}", "-c", "import sys; print(sys.executable)"]
            return subprocess.check_output(
                command, text=True, env=environment, stderr=subprocess.DEVNULL
            ).strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    return sys.executable


@pytest.fixture
def colab(tmp_path, other_python):
    """Python of the environment that runs the cells."""
    subprocess.run([other_python, "-m", "venv", "--without-pip", tmp_path / "kernel"], check=True)
    [site] = (tmp_path / "kernel" / "lib").glob("python*/site-packages")
    for name in KERNEL.split():
        if (SITE / name).exists():
            (site / name).symlink_to(SITE / name)
    _write(site / "google/colab/drive.py", "def mount(path): print('mounted', path)")
    for folder in (site, tmp_path / "colabs_own"):
        _write(
            folder / "torchvision/__init__.py",
            "raise RuntimeError('operator torchvision::nms does not exist')",
        )
    _write(
        site / "torchvision-0.26.0.dist-info/METADATA",
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.26.0\n",
    )
    return tmp_path / "kernel" / "bin" / "python"


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _content(folder):
    return {
        p.relative_to(folder): sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def _environment(tmp_path):
    """What Colab sets for its own Python, and the programs of a plain machine."""
    for name in ("make", "git", "bash", "env"):
        assert shutil.which(name, path="/usr/bin:/bin"), f"{name} is not installed"
    spec = {
        "argv": [str(tmp_path / "kernel/bin/python"), "-m", "colab_kernel_launcher"],
        "display_name": "Colab",
    }
    _write(tmp_path / "jupyter/kernels/python3/kernel.json", json.dumps({**spec, "language": "python"}))
    return {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(tmp_path / "colabs_own"),
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "MPLBACKEND": "module://colabs_own",
        "UV_CONSTRAINT": str(tmp_path / "constraints.txt"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def test_the_notebook_runs_beside_colabs_own_packages_and_leaves_them_alone(tmp_path, colab, smoke):
    log, content = tmp_path / "uv.log", tmp_path / "content"
    content.mkdir()
    _write(
        tmp_path / "bin/uv",
        UV.format(python=sys.executable, log=str(log), site=str(SITE), share=f"{sys.prefix}/share"),
    )
    (tmp_path / "bin/uv").chmod(0o755)
    before = _content(tmp_path / "kernel")
    given = {
        "repository": f"file://{ROOT}",
        "folder": str(content / "hicra"),
        "mirror": str(tmp_path / "drive/hicra"),
        "profile": "families",
        "overrides": smoke,
    }
    command = [colab, "-c", RUN_CELLS, ROOT / "notebooks/colab.ipynb", json.dumps(given)]
    done = subprocess.run(
        command, cwd=content, env=_environment(tmp_path), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert re.findall("shown: .*", done.stdout) == ["shown: True True"] * 2

    assert _content(tmp_path / "kernel") == before
    assert [p.name for p in content.iterdir()] == ["hicra"]
    venv, locks, own = (json.loads(line) for line in log.read_text().splitlines())
    assert (venv[0], venv[-1]) == ("venv", ".venv")
    for call in (locks, own):
        assert call[:2] == ["pip", "install"]
        assert call[call.index("--python") + 1] == ".venv"
        assert "--no-deps" in call
    named = [ROOT / locks[i + 1] for i, word in enumerate(locks) if word == "-r"]
    assert named == [ROOT / "requirements/lock.txt", ROOT / "requirements/gpu.txt"]
    assert "torch==2.13.0" in locks

    mirrored = {
        str(p.relative_to(tmp_path / "drive/hicra/families")) for p in (tmp_path / "drive").rglob("*.*")
    }
    assert {"grpo-seed0/finished.tar", "notebooks/04_figures.ipynb"} <= mirrored
    executed = nbformat.read(content / "hicra/runs/families/notebooks/02_grpo_baseline.ipynb", as_version=4)
    assert executed.metadata["language_info"]["version"] == ".".join(map(str, sys.version_info[:3]))
