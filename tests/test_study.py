"""The notebooks: their form, the strict runner, and all of them executed at smoke size."""

import ast

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from hicra.cli import main
from hicra.files import write_atomic
from hicra.study import notebooks
from hicra.study.notebooks import (
    NOTEBOOKS,
    PLACES,
    STUDY,
    StudyError,
    check_parameters,
    published,
    run_notebook,
    run_study,
    stamp,
    stamped,
)

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
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 15
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.walk(tree))
    for cell in _cells(path, "markdown"):
        assert len(cell.source.split()) <= 80, cell.source
    assert all("#" in line for line in _parameters(path).source.splitlines())


@pytest.mark.parametrize("name", STUDY)
def test_a_committed_notebook_shows_what_its_source_and_the_records_give(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    assert stamped(path) == stamp(path, {}), "run `make notebooks` and commit"
    assert any(cell.outputs for cell in _cells(path, "code"))
    assert not PLACES.search(path.read_text())


def test_a_changed_source_or_parameter_changes_the_stamp(tmp_path):
    path = tmp_path / "02_grpo_baseline.ipynb"
    path.write_text((NOTEBOOKS / path.name).read_text())
    before = stamp(path, {})
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].outputs = []
    nbformat.write(notebook, path)
    assert stamp(path, {}) == before != stamp(path, {"arm": "hicra"})
    notebook.cells[0].source += " "
    nbformat.write(notebook, path)
    assert stamp(path, {}) != before


def test_a_published_notebook_holds_no_trace_of_the_machine(tmp_path):
    path = tmp_path / "x.ipynb"
    cells = [nbformat.v4.new_code_cell("1", metadata={"tags": ["injected-parameters"]})]
    cells += [nbformat.v4.new_code_cell("2", metadata={"papermill": {"duration": 1.0}}, execution_count=7)]
    cells[1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="50%|##"),
        nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=7),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata = {
        "papermill": {"duration": 1.0},
        "kernelspec": {"name": "python3"},
        "hicra": {"stamp": "s", "code": "c"},
    }
    nbformat.write(notebook, path)
    assert published(path).metadata["hicra"] == {"stamp": "s"}
    [cell] = published(path).cells
    assert (cell.metadata, cell.execution_count, len(cell.outputs)) == ({}, None, 1)
    assert cell.outputs[0].execution_count is None
    notebook.cells[1].outputs[1].data["text/plain"] = "saved in /home/somebody/hicra/runs"
    nbformat.write(notebook, path)
    with pytest.raises(StudyError, match="/home/somebody/hicra/runs.*do not print paths"):
        published(path)


def test_a_copy_is_reused_until_its_source_or_the_code_changes(tmp_path, capsys, monkeypatch):
    code = tmp_path / "code"
    write_atomic(code / "a.py", "1")
    monkeypatch.setattr(notebooks, "PACKAGE", code)
    cell = nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "a.ipynb")
    given = (tmp_path / "a.ipynb", tmp_path / "out/a.ipynb", {"x": 2}, tmp_path)
    run_notebook(*given)
    assert "done in" in capsys.readouterr().out
    run_notebook(*given)
    assert "done before, kept" in capsys.readouterr().out
    write_atomic(code / "a.py", "2")
    run_notebook(*given)
    assert "done in" in capsys.readouterr().out


def test_hicra_differs_from_grpo_in_its_arm_and_in_what_it_compares():
    two, three = (_parameters(NOTEBOOKS / f"{n}.ipynb").source for n in ("02_grpo_baseline", "03_hicra"))
    differ = [(a, b) for a, b in zip(two.splitlines(), three.splitlines(), strict=True) if a != b]
    assert [line.split("  #")[0] for pair in differ for line in pair] == [
        'arm: str = "grpo"',
        'arm: str = "hicra"',
    ]
    sources = [
        [c.source for c in _cells(NOTEBOOKS / f"{n}.ipynb", "code")] for n in ("02_grpo_baseline", "03_hicra")
    ]
    assert sum(source in sources[1] for source in sources[0]) >= len(sources[0]) - 2


def test_the_runner_is_strict(tmp_path):
    with pytest.raises(StudyError, match="no parameter profil; it takes: .*profile"):
        check_parameters(PATHS[1], {"profil": "families"})
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
@pytest.mark.parametrize("name", [p.stem for p in PATHS if p.stem not in (*STUDY, "colab")])
def test_other_notebooks_run_at_smoke_size(tmp_path, smoke, name):
    run_study("families", runs=tmp_path, figures=tmp_path, overrides=smoke, only=(name,))
    assert (tmp_path / "families" / "notebooks" / f"{name}.ipynb").exists()


@pytest.mark.filterwarnings("default")
def test_the_whole_study_runs_at_smoke_size_and_is_reused(tmp_path, smoke, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ThisMustNotBeShown")
    where = {"runs": tmp_path / "runs", "figures": tmp_path / "figures", "overrides": smoke}
    run_study("families", **where)
    executed = tmp_path / "runs" / "families" / "notebooks"
    assert {p.stem for p in executed.iterdir()} == set(STUDY)
    assert not any("hf_ThisMustNotBeShown" in p.read_text() for p in executed.iterdir())
    drawn = {p.name for p in (tmp_path / "figures").iterdir()}
    for figure in ("fig02_two_phase", "fig04_hicra_vs_grpo", "fig12_entropy_overlap"):
        assert {f"{figure}_families.svg", f"{figure}_families.png"} <= drawn
    assert "results_families.csv" in drawn
    assert "02_grpo_baseline: done in" in capsys.readouterr().out

    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    run_study("families", **where)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert capsys.readouterr().out.count("done before, kept") == len(STUDY)
