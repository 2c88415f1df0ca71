"""One exception class for what a user can mend; the command line prints it alone as one line."""

import importlib
import inspect
import pkgutil

from hicra.study.policy.base_models import base_folder

import pytest

import hicra
from hicra.errors import HicraError, MissingError
from hicra.files import iter_jsonl
from hicra.lexicon.build import build_lexicon
from hicra.lexicon.lexicon import Lexicon
from hicra.study.experiments import condition_profile
from hicra.study.problems.problem_sets import read_set
from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunFolder
from hicra.study.training.plan import plan_run

INSIDE = "hicra.study.problems.answer_"  # signals of the grading program, which none of them leaves
ELSEWHERE = "hicra.verl.trainer"  # needs verl, whose pins differ: make verl


def _own_exceptions():
    for module in pkgutil.walk_packages(hicra.__path__, "hicra."):
        if module.name.startswith(INSIDE) or module.name == ELSEWHERE:
            continue
        if module.name.rpartition(".")[2] != "__main__" and not module.name.startswith("hicra._"):
            for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if issubclass(found, Exception) and found.__module__ == module.name:
                    yield found


def test_every_exception_of_the_project_is_of_one_class():
    found = set(_own_exceptions())
    assert {"RunError", "ProblemError", "JsonlError", "LexiconError"} <= {e.__name__ for e in found}
    assert [e.__name__ for e in found if not issubclass(e, HicraError)] == []


def test_a_missing_file_is_also_pythons_own_error():
    error = MissingError("no file x; write it")
    assert isinstance(error, FileNotFoundError)
    assert isinstance(error, ValueError)
    assert str(error) == "no file x; write it"


MISTAKES = {
    "profile": lambda tmp: get_profile("laptop"),
    "field": lambda tmp: get_profile("families", step=3),
    "value": lambda tmp: get_profile("families", alpha=2),
    "arm": lambda tmp: plan_run(get_profile("families"), "hicro", 0),
    "condition": lambda tmp: condition_profile("hicro", "families"),
    "lexicon": lambda tmp: Lexicon.load("nothing"),
    "drop": lambda tmp: Lexicon.load("families").drop(1.0, 0),
    "preset": lambda tmp: build_lexicon(["a text"], preset="poem"),
    "no solutions": lambda tmp: build_lexicon([]),
    "problem set": lambda tmp: read_set("gsm9k"),
    "file": lambda tmp: list(iter_jsonl(tmp / "none.jsonl")),
    "run folder": lambda tmp: RunFolder(tmp).manifest(),
    "package": lambda tmp: base_folder(get_profile("families", base="package:no_such_weights")),
    "unpinned model": lambda tmp: base_folder(get_profile("families", base="hub:owner/name")),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_of_the_user_is_the_projects_error(mistake, tmp_path):
    with pytest.raises(HicraError):
        mistake(tmp_path)
