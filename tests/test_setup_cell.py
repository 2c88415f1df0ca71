"""A bare runtime: nothing but a notebook file in an empty folder, and a wheel of this checkout.

The packages of the lock are lent to it, so that pip finds them installed; the study itself is not.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent


def _run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    kept = ["hicra", "data", "requirements", "pyproject.toml", "README.md", "LICENSE"]
    for name in kept:  # a build writes into its source
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, source / name)
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source)
    return next(out.glob("hicra-*.whl"))


def test_the_set_up_cell_makes_a_notebook_run_from_an_empty_folder(wheel, tmp_path):
    bare = tmp_path / "bare"
    _run(sys.executable, "-m", "venv", bare)
    python = bare / "bin" / "python"
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    missing = "import importlib.util as u; print(u.find_spec('hicra'), u.find_spec('torch') is not None)"
    folder = tmp_path / "empty" / "here"
    folder.mkdir(parents=True)
    assert _run(python, "-c", missing, cwd=folder).split() == ["None", "True"]
    shutil.copy(ROOT / "notebooks" / "06_boundary.ipynb", folder)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HICRA_SOURCE": str(wheel)}
    run = "import papermill; papermill.execute_notebook('06_boundary.ipynb', 'done.ipynb', kernel_name='python3')"
    _run(python, "-c", run, cwd=folder, env=environment)
    done = nbformat.read(folder / "done.ipynb", as_version=4)
    assert "version" in str(done.cells[4].outputs)
    assert any("image/png" in str(o.get("data", "")) for c in done.cells for o in c.get("outputs", []))
    assert _run(python, "-c", missing, cwd=folder).split()[-1] == "True"
    installed = _run(python, "-c", "import hicra; print(hicra.__file__)", cwd=folder)
    assert str(bare) in installed
    # Once it is installed the cell does nothing: a source that is nowhere is not asked for.
    _run(python, "-c", run, cwd=folder, env={**environment, "HICRA_SOURCE": "/nowhere"})
