"""What keeps contributions in order: hooks, workflows and the citation agree with the project's own facts."""

import re
import subprocess
import tomllib
from datetime import date

import pytest
import yaml

from tests.conftest import SLOW


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def hooks(root):
    [local] = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"]
    return {hook["id"]: hook for hook in local["hooks"]}


def test_hooks_use_the_locked_linter(root, hooks):
    pins = (root / "requirements" / "pins.in").read_text().split()
    assert hooks["ruff-check"]["additional_dependencies"] == hooks["ruff-format"]["additional_dependencies"]
    assert set(hooks["ruff-check"]["additional_dependencies"]) <= set(pins)
    tools = [tool for hook in hooks.values() for tool in hook.get("additional_dependencies", ())]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", tool) for tool in tools)


def test_the_stamp_hook_finds_its_tests(root, hooks):
    words = hooks["notebook-stamp"]["entry"].split()
    path, name = words[words.index("-q") + 1], words[words.index("-k") + 1]
    assert f"def test_a_{name}" in (root / path).read_text()


@pytest.mark.parametrize(("name", "expected"), [("tests", ["test", "quick"]), ("study", ["study"])])
def test_a_workflow_calls_targets_that_exist(root, name, expected):
    workflow = yaml.safe_load((root / ".github" / "workflows" / f"{name}.yml").read_text())
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = [word for run in runs for word in re.findall(r"make (\w+)", run)]
    assert targets == expected
    subprocess.run(["make", "-n", *targets], cwd=root, check=True, capture_output=True)


def test_ci_workflow_and_contributors_run_the_same_suite(root):
    assert "exec make test" in (root / ".ci" / "run").read_text()
    page = (root / "CONTRIBUTING.md").read_text()
    for target in re.findall(r"^make (\w+)", page, re.MULTILINE):
        subprocess.run(["make", "-n", target], cwd=root, check=True, capture_output=True)
    assert len(page.splitlines()) < 60


def test_the_types_of_the_whole_method_are_checked(root, project):
    checked = project["tool"]["mypy"]
    assert checked["files"] == ["hicra"]
    assert checked["exclude"] == ["^hicra/study/", "^hicra/cli[.]py$"]
    assert (root / "hicra" / "py.typed").exists()


def test_every_slow_file_is_there(root):
    assert sorted(name for name in SLOW if not (root / "tests" / f"{name}.py").exists()) == []


def test_the_citation_is_whole_and_of_this_version(root, project):
    """The rules of CFF 1.2.0 that it could break by hand; the hook asks the schema itself."""
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert (cited["version"], cited["license"]) == (
        project["project"]["version"],
        project["project"]["license"],
    )
    [paper] = cited["references"]
    assert {"type", "title", "authors"} <= set(paper)
    for person in [*cited["authors"], *paper["authors"]]:
        assert set(person) in ({"name"}, {"family-names", "given-names"})
        assert all(isinstance(value, str) and value for value in person.values())
    assert 2025 <= paper["year"] <= date.today().year
