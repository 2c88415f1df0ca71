"""Two wings and a wall: the method, which others import, and the study, which reproduces the paper."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hicra"
FILES = sorted(PACKAGE.rglob("*.py"))

# A folder, or a file beside the folders, and what else of hicra it may import. Nothing of the method
# is allowed `study`, and edges point one way.
METHOD = {
    "errors": "",
    "words": "",
    "files": "errors",
    "boxed": "",
    "batches": "errors",
    "credit": "errors",
    "spread": "errors files",
    "lexicon": "boxed errors files spread words",
    "planning": "errors files lexicon words",
    "dynamics": "batches errors files lexicon planning spread words",
    "trainer_checks": "credit errors",
    "trainer": "batches credit planning trainer_checks",
    "verl": "batches credit dynamics errors lexicon planning trainer_checks",
}
STUDY = {
    "study.sources": "",
    "study.profiles": "study.sources",
    "study.problems": "study.profiles study.sources",
    "study.record": "",
    "study.policy": "study.problems study.profiles study.record study.sources",
    "study.training": "study.policy study.problems study.profiles study.record study.sources",
    "study.verdicts": "study.problems study.profiles study.record",
    "study.figures": "study.problems study.record study.sources study.verdicts",
}
TOP = ("__init__", "__main__", "cli", "study")  # these put the rest together


def _room(dotted: str) -> str:
    """The folder that a dotted name below hicra lies in; a file beside the folders is a room of its own."""
    parts = dotted.split(".")
    return ".".join(parts[:2]) if parts[0] == "study" and parts[1] in _below_study() else parts[0]


def _below_study() -> set[str]:
    return {p.stem for p in (PACKAGE / "study").iterdir() if p.is_dir()} | {"profiles", "sources"}


def _imports(path: Path) -> set[str]:
    """Rooms that a file imports from, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hicra"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("hicra.")}
    return {_room(name.removeprefix("hicra.")) for name in found}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may(path):
    room = _room(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    if room in TOP:
        return
    table = METHOD | STUDY
    allowed = {room, *table[room].split(), *(METHOD if room in STUDY else ())}
    assert _imports(path) <= allowed


def test_nothing_of_the_method_imports_the_study():
    inside = [p for p in FILES if p.relative_to(PACKAGE).parts[0] not in ("study", "__main__.py", "cli.py")]
    assert len(inside) > 15
    assert [p.name for p in inside if any(room.startswith("study") for room in _imports(p))] == []


def test_the_table_has_no_circle():
    table = {room: set(allowed.split()) for room, allowed in (METHOD | STUDY).items()}
    done: set[str] = set()
    while len(done) < len(table):
        free = {room for room in table if room not in done and table[room] <= done}
        assert free, f"a circle among {sorted(set(table) - done)}"
        done |= free


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_unsloth_and_vllm_are_known_to_one_file_each(path):
    source = path.read_text()
    assert bool(re.search(r"^\s*import unsloth ", source, re.MULTILINE)) == (path.name == "unsloth_models.py")
    assert ("from vllm import" in source) == (path.name == "generation.py")
