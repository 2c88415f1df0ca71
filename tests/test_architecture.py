"""The import table of the README: edges point downward only, and no other edge exists."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hicra"

ALLOWED = {
    "credit": "",
    "entropy": "",
    "dynamics": "entropy",
    "words": "",
    "rewards": "verify_worker",
    "verify_worker": "",
    "paths": "",
    "jsonl": "",
    "runs": "",
    "checkpoints": "runs",
    "sandbox": "",
    "replay": "sandbox",
    "profiles": "",
    "lexicon": "paths runs words",
    "planning": "lexicon words",
    "ngrams": "runs words",
    "contrast": "ngrams",
    "corpus": "jsonl rewards runs words",
    "strategic_grams": "contrast lexicon ngrams",
    "scoring": "",
    "sentences": "jsonl lexicon",
    "problems": "jsonl rewards words",
    "problem_sets": "paths problems",
    "base_policy": "tasks",
    "bases": "engine paths profiles runs tasks",
    "tasks": "problem_sets problems profiles replay sandbox",
    "engine": "",
    "evaluate": "dynamics rewards",
    "benchmarks": "engine evaluate profiles runs tasks",
    "recorder": "credit lexicon rewards runs words",
    "trainer": "checkpoints credit planning recorder",
    "rollouts": "bases engine lexicon planning profiles replay rewards scoring strategic_grams tasks",
    "training": (
        "bases checkpoints engine evaluate lexicon model_card paths planning profiles recorder replay runs "
        "sandbox tasks trainer"
    ),
    "model_card": "engine runs",
    "estimates": "engine profiles",
    "preflight": "bases engine estimates lexicon paths planning profiles rewards tasks training",
    "launch": "bases profiles runs training",
    "placebo": "lexicon words",
    "experiments": "launch profiles runs training",
    "compass": "verdicts",
    "quantities": "compass",
    "claims": "paths quantities verdicts",
    "frames": "dynamics entropy lexicon runs",
    "verdicts": "",
    "figure_style": "runs verdicts",
    "figures": "figure_style verdicts viewer",
    "health_figures": "figure_style",
    "control_figures": "figure_style figures verdicts",
    "tables": "annotation figure_style lexicon replay runs verdicts",
    "catalogue": "control_figures figures frames paths quantities runs",
    "gallery": "catalogue claims compass figure_style runs tables viewer",
    "calibration": "frames launch profiles runs",
    "viewer": "runs",
    "judge": "",
    "arguments": "",
    "annotation": "jsonl lexicon runs words",
    "notebook": "training",
    "study": "launch paths runs",
    "__init__": "credit lexicon planning strategic_grams",
}
FILES = sorted(p for p in PACKAGE.glob("*.py") if p.stem != "__main__")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "hicra":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hicra."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hicra.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_imports_only_what_the_table_allows(path):
    assert path.stem in ALLOWED, f"{path.name} is not in the table; add it and its README line"
    assert _imports(path) <= set(ALLOWED[path.stem].split())


def test_the_table_has_no_circle():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        free = {name for name in ALLOWED if name not in done and set(ALLOWED[name].split()) <= done}
        assert free, f"a circle among {sorted(set(ALLOWED) - done)}"
        done |= free


def test_every_file_has_its_line_in_the_readme():
    readme = (PACKAGE.parent / "README.md").read_text()
    missing = [p.name for p in PACKAGE.glob("*.py") if f"`{p.name}`" not in readme]
    assert missing == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_unsloth_and_vllm_are_known_to_the_engine_alone(path):
    source = path.read_text()
    knows = "import unsloth" in source or "import vllm" in source or "from vllm" in source
    assert knows == (path.stem == "engine")
