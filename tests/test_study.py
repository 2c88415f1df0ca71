"""The notebooks: their form, the strict runner, and all of them executed at smoke size."""

import ast

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from hicra.__main__ import main
from hicra.study.notebooks import NOTEBOOKS, STUDY, StudyError, check_parameters, run_study

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


def _cells(path, kind):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def _parameters(path):
    return next(c for c in _cells(path, "code") if "parameters" in c.metadata.get("tags", []))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_notebook_is_in_the_house_style(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 30
    assert "widgets" not in notebook.metadata
    for cell in _cells(path, "code"):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 15
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.walk(tree))
    for cell in _cells(path, "markdown"):
        assert len(cell.source.split()) <= 80, cell.source
    assert all("#" in line for line in _parameters(path).source.splitlines())


def test_hicra_is_grpo_with_another_parameters_cell():
    two, three = (NOTEBOOKS / f"{n}.ipynb" for n in ("02_grpo_baseline", "03_hicra"))
    differ = [  # notebook names stand in their badges, which are Markdown
        (a.source, b.source)
        for a, b in zip(_cells(two, "code"), _cells(three, "code"), strict=True)
        if a.source != b.source
    ]
    assert differ == [(_parameters(two).source, _parameters(three).source)]
    changed = [(a, b) for a, b in zip(*(d.splitlines() for d in differ[0]), strict=True) if a != b]
    assert [line.split("  #")[0] for pair in changed for line in pair] == [
        'arm: str = "grpo"',
        'arm: str = "hicra"',
    ]


def test_the_runner_is_strict(tmp_path):
    with pytest.raises(StudyError, match="no parameter profil; it takes: .*profile"):
        check_parameters(PATHS[0], {"profil": "sandbox"})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    path = tmp_path / "untagged.ipynb"
    nbformat.write(notebook, path)
    with pytest.raises(StudyError, match="0 cells tagged 'parameters'"):
        check_parameters(path, {})
    with pytest.raises(StudyError, match="no notebook"):
        check_parameters(tmp_path / "nowhere.ipynb", {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "laptop"], "unknown profile 'laptop'"),
        (["--overrides", '{"step": 2}'], "unknown profile field 'step'"),
        (["--only", "07_nothing"], "no notebook"),
    ],
)
def test_wrong_input_changes_nothing_on_disk(tmp_path, capsys, arguments, message):
    out = ["--runs", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures")]
    assert main(["study", *arguments, *out]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [p.stem for p in PATHS if p.stem not in STUDY])
def test_other_notebooks_run_at_smoke_size(tmp_path, smoke, name):
    run_study("sandbox", runs=tmp_path, figures=tmp_path, overrides=smoke, only=(name,))
    assert (tmp_path / "sandbox" / "notebooks" / f"{name}.ipynb").exists()


@pytest.mark.filterwarnings("default")
def test_the_whole_study_runs_at_smoke_size_and_is_reused(tmp_path, smoke, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ThisMustNotBeShown")
    where = {"runs": tmp_path / "runs", "figures": tmp_path / "figures", "overrides": smoke}
    run_study("sandbox", **where)
    executed = tmp_path / "runs" / "sandbox" / "notebooks"
    assert {p.stem for p in executed.iterdir()} == set(STUDY)
    assert not any("hf_ThisMustNotBeShown" in p.read_text() for p in executed.iterdir())
    drawn = {p.name for p in (tmp_path / "figures").iterdir()}
    for figure in ("fig02_two_phase", "fig04_hicra_vs_grpo", "fig12_entropy_overlap"):
        assert {f"{figure}_sandbox.svg", f"{figure}_sandbox.png"} <= drawn
    assert "results_sandbox.csv" in drawn
    assert "02_grpo_baseline: done in" in capsys.readouterr().out

    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    run_study("sandbox", **where)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert capsys.readouterr().out.count("done before, kept") == len(STUDY)
