"""Named problem sets: every one pinned, read with its own fields."""

import re

import pytest

from hicra.study.problems.problem_sets import ProblemError, named_sets, read_set, samples_of, set_name
from hicra.study.profiles import PROFILES
from hicra.study.sources import MADE

ROW = {
    "problem": "p",
    "question": "q",
    "prompt": "r",
    "answer": "so\n#### 7",
    "solution": "it is $\\boxed{\\frac{1}{2}}$",
}


@pytest.fixture
def hub(monkeypatch):
    asked = []

    def load_dataset(name, config, **options):
        asked.append((name, config, options))
        return [ROW]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return asked


def test_every_set_is_pinned_to_a_commit_or_wants_a_file():
    sets = named_sets()
    pinned = [name for name, s in sets.items() if s.hub]
    assert set(sets) - set(pinned) == {"minerva_math", "olympiadbench"}
    assert all(re.fullmatch("[0-9a-f]{40}", sets[name].revision) for name in pinned)
    assert all(s.licence for s in sets.values())


def test_the_profiles_name_sets_that_there_are():
    for profile in PROFILES.values():
        named = [*profile.benchmarks, *profile.problem_set.split("+")]
        assert set(named) - set(MADE) <= set(named_sets()), profile.name


def test_the_papers_samples():
    assert [samples_of(n) for n in ("aime24", "aime25", "amc23", "math500")] == [32, 32, 4, 1]


def test_sets_are_read_with_their_own_fields_and_joined(hub):
    found = read_set("gsm8k-train+math-train+dapo-math-17k")
    assert [(p.problem, p.answer) for p in found] == [
        ("q", "7"),
        ("p", "\\frac{1}{2}"),
        ("r", ROW["solution"]),
    ]
    assert [(name, config, options["split"]) for name, config, options in hub] == [
        ("openai/gsm8k", "main", "train"),
        ("DigitalLearningGmbH/MATH-lighteval", None, "train"),
        ("open-r1/DAPO-Math-17k-Processed", "en", "train"),
    ]


def test_a_file_stands_for_the_set_of_its_name(tmp_path):
    path = tmp_path / "amc23.jsonl"
    path.write_text('{"problem": "x", "answer": 1}\n')
    assert read_set(str(path))[0].answer == "1"
    assert (set_name(str(path)), samples_of(str(path))) == ("amc23", 4)


def test_unknown_and_unpinned_sets_are_named(hub):
    with pytest.raises(ProblemError, match="no file gsm9k, and no set of that name; the names are: gsm8k"):
        read_set("gsm9k")
    with pytest.raises(ProblemError, match="give a file minerva_math.jsonl instead"):
        read_set("minerva_math")
    assert hub == []
