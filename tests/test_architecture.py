"""The wall: what the method's files may not know."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hicra"
FILES = sorted(PACKAGE.rglob("*.py"))
KNOWS_UNSLOTH = {"engine.py", "unsloth_models.py"}


def _imports(path: Path) -> set[str]:
    """Dotted names of everything of hicra that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hicra":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "hicra"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_unsloth_and_vllm_are_known_to_one_file_alone(path):
    source = path.read_text()
    knows = "import unsloth" in source or "import vllm" in source or "from vllm" in source
    assert knows == (path.name in KNOWS_UNSLOTH)
