"""What an outsider installs: a small wheel, light to import, with extras that are named where they are missing."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SITE = Path(sysconfig.get_path("purelib"))
# The method's declared dependencies with what they need, and nothing else.
LIGHT = (
    "numpy pandas dateutil pytz six.py tzdata typer shellingham rich markdown_it mdurl pygments annotated_doc"
)
LIGHT += " typing_extensions.py typing_inspection pydantic pydantic_core annotated_types regex scipy scipy.libs numpy.libs"


def _run(*command, ok=True, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert (done.returncode == 0) == ok, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    source.mkdir()
    for name in (
        "hicra",
        "data",
        "requirements",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):  # a build writes there
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source)
    return next(out.glob("hicra-*.whl"))


@pytest.fixture(scope="module")
def light(wheel, tmp_path_factory):
    """Python of an environment that holds the wheel and the method's dependencies alone."""
    return _environment(tmp_path_factory.mktemp("light"), wheel, lent=LIGHT.split())


@pytest.fixture(scope="module")
def full(wheel, tmp_path_factory):
    """The same with everything that is locked."""
    return _environment(tmp_path_factory.mktemp("full"), wheel, lent=None)


def _environment(folder, wheel, lent):
    _run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    if lent is None:
        (site / "lent.pth").write_text(f"{SITE}\n")
    for name in lent or ():
        if (SITE / name).exists():
            (site / name).symlink_to(SITE / name)
    _run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    return python


def test_the_wheel_is_small_and_holds_no_run_records(wheel):
    assert wheel.stat().st_size < 2_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert "hicra/_data/lexicons/listing1.json" in names
    assert "hicra/py.typed" in names
    assert not any("records/" in name or name.endswith((".safetensors", ".gz", ".bz2")) for name in names)


def test_importing_hicra_loads_nothing(light, tmp_path):
    program = (
        "import sys, hicra; print(sorted({'numpy', 'pandas', 'torch'} & set(sys.modules)), hicra.__file__)"
    )
    found = _run(light, "-c", program, cwd=tmp_path)
    assert found.startswith("[]")
    assert str(light.parents[1]) in found


def test_text_is_marked_without_torch(light, tmp_path):
    program = "from hicra import Lexicon; print([m.gram for m in Lexicon.load('listing1').find('Wait, let me check.')])"
    assert "'let me'" in _run(light, "-c", program, cwd=tmp_path)
    program = "from hicra.lexicon.build import cluster_table; from hicra import Lexicon; "
    program += "print(len(cluster_table(Lexicon.load('skyt1-paper'))))"
    assert int(_run(light, "-c", program, cwd=tmp_path)) > 100


@pytest.mark.parametrize(
    ("program", "extra"),
    [
        ("from hicra import PlanningTagger", "hicra[trl]"),
        ("from hicra import hicra_advantages", "hicra[trl]"),
        ("import hicra.trainer", "hicra[trl]"),
        (
            "from hicra import build_lexicon; build_lexicon(['so we can see that it is so ' * 9] * 9)",
            "hicra[study]",
        ),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(light, tmp_path, program, extra):
    said = _run(light, "-c", program, cwd=tmp_path, ok=False).strip().splitlines()[-1]
    assert "Error: " in said
    assert f"pip install '{extra}'" in said


def test_the_command_is_installed_and_the_study_asks_for_a_clone(light, full, tmp_path):
    assert "lexicon" in _run(light.parent / "hicra", "--help", cwd=tmp_path)
    said = _run(light.parent / "hicra", "cards", cwd=tmp_path)
    assert "listing1" in said
    said = _run(full.parent / "hicra", "study", cwd=tmp_path, ok=False).strip().splitlines()
    assert said == [
        "hicra: claims.yaml is in the repository, not in the installed package; run this from a clone"
    ]


def _snippets():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_readmes_snippets_run_where_the_wheel_is_installed(full, tmp_path):
    """In one program, as a reader pastes them; a model of ours stands in for the one that would be fetched."""
    program = "\n".join(_snippets()).replace("Qwen/Qwen2.5-0.5B-Instruct", str(ROOT / "data/families/base"))
    (tmp_path / "pasted.py").write_text(program)
    environment = {
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    said = _run(full, "pasted.py", cwd=tmp_path, env=environment)
    assert "train_loss" in said
