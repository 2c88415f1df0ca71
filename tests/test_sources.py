"""Names and paths are two name spaces; a path means the same wherever it is used."""

import json
import os

from hicra.study.policy.base_models import base_folder

import pytest

from hicra.cli import main
from hicra.errors import HicraError, MissingError
from hicra.files import data_root, folder_sha256
from hicra.lexicon.lexicon import Lexicon
from hicra.study import sources
from hicra.study.experiments import CONDITIONS
from hicra.study.figures.catalogue import load_experiments
from hicra.study.notebooks import run_study
from hicra.study.problems.problem_sets import named_sets, read_set, set_name
from hicra.study.problems.prompts import benchmark_tasks, training_tasks
from hicra.study.profiles import get_profile
from hicra.study.training.plan import plan_run
from hicra.study.verdicts.claims import load_claims


def _problems(path, word="plus"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"problem": f"What is {i} {word} 1?", "answer": str(i + 1)} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's folder with problems, a lexicon and a base of their own."""
    _problems(tmp_path / "problems.jsonl")
    Lexicon.from_grams(["let us see"], "mine").save(tmp_path / "mine.json")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OWN = {
    "problem_set": "problems.jsonl",
    "benchmarks": ["./problems.jsonl"],
    "lexicon": "mine.json",
    "credit_lexicon": "../{folder}/mine.json",
    "base": "policy",
}


def test_a_users_paths_mean_the_same_from_every_folder(here, monkeypatch):
    own = {k: v.format(folder=here.name) if isinstance(v, str) else v for k, v in OWN.items()}
    profile = get_profile("families", **own, eval_problems=4, allow_contamination=True)
    monkeypatch.chdir("/")
    again = get_profile("families", **json.loads(json.dumps(profile.overrides())))  # as a process is told
    assert again == profile
    assert base_folder(profile) == here / "policy"
    assert len(training_tasks(profile, 8, 0)) == 8
    assert set(benchmark_tasks(profile)) == {"problems"}
    settings = plan_run(profile, "hicra", 0).settings
    assert settings["credit_sha256"] == settings["lexicon_sha256"] == Lexicon.load(here / "mine.json").sha256
    assert settings["base_sha256"] == folder_sha256(here / "policy", "*.safetensors")


def test_a_home_folder_is_a_path_too(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    assert get_profile("families", problem_set="~/problems.jsonl").problem_set == str(here / "problems.jsonl")


def test_settings_of_shipped_names_do_not_depend_on_the_folder(here):
    before = plan_run(get_profile("families"), "hicra", 0).settings
    for name in ("families", "records", "math500", "listing1"):
        (here / name).write_text("not what ships")
    assert plan_run(get_profile("families"), "hicra", 0).settings == before
    assert str(here) not in json.dumps(before)


@pytest.mark.slow
def test_what_ships_is_not_shadowed_by_the_folder(here, monkeypatch):
    wanted = load_claims(), named_sets().keys(), Lexicon.load("listing1").sha256
    (here / "families" / "records" / "grpo-seed1000").mkdir(parents=True)
    (here / "claims.yaml").write_text("claims: []\nseeds: 1\nquestions: {}\n")
    (here / "problem_sets.yaml").write_text("mine: {}\n")
    (here / "listing1").write_text("[]")
    (here / "families" / "base").mkdir(parents=True)
    sources.problem_set_records.cache_clear()
    named_sets.cache_clear()
    assert (load_claims(), named_sets().keys(), Lexicon.load("listing1").sha256) == wanted
    assert base_folder(get_profile("families")) == data_root() / "families" / "base"
    assert base_folder(get_profile("families", base="./families/base")) == here / "families" / "base"
    assert load_experiments(order=tuple(CONDITIONS)).arms[0] == "grpo"


def test_a_path_is_never_looked_for_in_what_ships(here):
    with pytest.raises(HicraError, match="families/records"):
        load_experiments("families/records")
    with pytest.raises(HicraError, match=r"no claims file claims\.yaml"):
        load_claims("claims.yaml")
    with pytest.raises(MissingError, match=r"no base 'records/grpo-seed1000': nothing is at"):
        get_profile("families", base="records/grpo-seed1000")


def test_runs_that_are_recorded_are_found_from_everywhere(here, capsys):
    assert main(["experiments", "--conditions", "grpo", "--overrides", '{"seeds": [1000]}']) == 0
    assert "0 of 1 runs are missing" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gsm8k+aug.jsonl", "c++/set.jsonl", "gsm8k-train+math-train"])
def test_a_plus_sign_may_stand_in_a_path(here, name):
    path = _problems(here / name)
    given = name if name.endswith("l") else f"./{name}"
    profile = get_profile("families", problem_set=given, eval_problems=2)
    assert profile.problem_set == str(path)
    assert len(read_set(profile.problem_set)) == 12
    assert set_name(profile.problem_set) == path.name.partition(".")[0]
    assert profile.world.endswith(f" on {path.name}")


def test_several_sets_are_a_list_or_shipped_names_joined(here):
    other = _problems(here / "a+b.jsonl", "times")
    both = get_profile("families", problem_set=["problems.jsonl", "a+b.jsonl"], eval_problems=4)
    assert both.problem_set == (str(here / "problems.jsonl"), str(other))
    assert len(read_set(both.problem_set)) == 24
    assert get_profile("families", **json.loads(json.dumps(both.overrides()))) == both
    assert both.settings()["problem_set"] == list(both.problem_set)
    assert both.world.endswith(" on problems.jsonl+a+b.jsonl")
    shipped = "gsm8k-train+math-train"
    assert get_profile("families", problem_set=shipped).problem_set == shipped
    assert get_profile("families", problem_set=shipped.split("+")).problem_set == shipped
    assert sources.set_parts("hub:o/n@1:train[:5]+test") == ["hub:o/n@1:train[:5]+test"]
    with pytest.raises(MissingError, match="no problem set 'gsm8k-train.problems.jsonl'.* as a list"):
        get_profile("families", problem_set="gsm8k-train+problems.jsonl")


@pytest.mark.parametrize("field", ["problem_set", "lexicon", "credit_lexicon", "base"])
@pytest.mark.parametrize("given", ["", "sandbxo", "no\0thing", "x" * 5000, "~nobody/x"])
def test_what_is_neither_name_nor_path_is_refused_with_the_names(field, given):
    with pytest.raises(MissingError, match="the names are: .*families"):
        get_profile("families", **{field: given})


def test_the_study_hands_its_notebooks_whole_paths(here, monkeypatch):
    told = {}
    monkeypatch.setattr("hicra.study.notebooks.run_notebook", lambda p, out, v, runs: told.update(v))
    run_study(
        "families",
        runs=here / "r",
        figures=here,
        overrides={"problem_set": "problems.jsonl"},
        only=("03_hicra",),
    )
    assert told["overrides"] == {"problem_set": str(here / "problems.jsonl")}


def test_the_cache_is_the_users_or_hicra_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("HICRA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if os.uname().sysname == "Linux":
        assert sources.cache_root() == tmp_path / "hicra"
    monkeypatch.setenv("HICRA_CACHE", str(tmp_path / "own"))
    assert sources.cache_root() == tmp_path / "own"
    monkeypatch.setenv("HICRA_CACHE", "own")
    with pytest.raises(HicraError, match="HICRA_CACHE='own' is another folder for every process"):
        sources.cache_root()
