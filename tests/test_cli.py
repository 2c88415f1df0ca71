"""The command line: what it offers, and that what a user can mend is one line before any work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hicra import cli
from hicra.cli import app, main
from hicra.errors import HicraError
from hicra.study.profiles import ARMS, PROFILES

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def test_help_names_profiles_arms_and_examples(capsys):
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert "hicra study" in page
    assert "hicra preflight --profile colab" in page
    assert all(name in page for name in COMMANDS)
    assert all(name in cli.PROFILES for name in PROFILES)
    assert all(name in cli.ARMS for name in ARMS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_a_help_text(name, capsys):
    assert main([name, "--help"]) == 0
    page = capsys.readouterr().out
    options = [line.split() for line in page.splitlines() if line.startswith("  --")]
    assert all(len(words) > 2 or words[0] == "--merge" for words in options), page


def test_help_and_version_load_nothing_heavy():
    program = "import sys; from hicra.cli import main; main(['--help']); main(['--version']); "
    program += "print(sorted({'torch', 'pandas', 'numpy', 'transformers', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2].startswith("hicra 0")
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_wrong_option_is_told_with_exit_code_2(capsys):
    assert main(["train", "--seed", "x"]) == 2
    assert "Error" in capsys.readouterr().err
    assert main(["nothing"]) == 2
    assert main(["train", "--arm", "grpo", "--seed", "1", "--out", "x", "--overrides", "[1]"]) == 2
    assert "give a JSON object" in capsys.readouterr().err


def test_only_what_a_user_can_mend_is_one_line(monkeypatch, capsys):
    def fails(kind):
        def command(*_, **__):
            raise kind("why")

        return command

    monkeypatch.setattr("hicra.lexicon.lexicon.shipped", fails(HicraError))
    assert main(["cards"]) == 2
    assert capsys.readouterr().err == "hicra: why\n"
    monkeypatch.setattr("hicra.lexicon.lexicon.shipped", fails(ValueError))  # a fault of the program
    with pytest.raises(ValueError, match="why"):
        main(["cards"])


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        (["study", "--only", "01", "02"], ["study", "--only", "01", "--only", "02"]),
        (["study", "--only", "01", "--profile", "x"], ["study", "--only", "01", "--profile", "x"]),
        (["evaluate", "a", "b", "--vllm"], ["evaluate", "a", "b", "--vllm"]),
        (
            ["lexicon", "--solutions", "a", "b", "--out", "c"],
            ["lexicon", "--solutions", "a", "--solutions", "b", "--out", "c"],
        ),
    ],
)
def test_several_values_may_follow_an_option(given, spread):
    assert cli._repeated(given) == spread


OUTPUTS = [
    ["lexicon", "--solutions", "nowhere.jsonl", "--out"],
    ["score-lexicon", "listing1", "--labels", "nowhere.jsonl", "--out"],
]
FOLDERS = [
    ["study", "--runs"],
    ["study", "--figures"],
    ["train", "--arm", "grpo", "--seed", "0", "--out"],
    ["families-base", "--out"],
    ["experiments", "--runs"],
    ["experiments", "--records"],
    ["figures", "--out"],
]


@pytest.mark.parametrize("command", OUTPUTS, ids=" ".join)
def test_an_output_file_is_tried_before_the_work(command, tmp_path, capsys):
    assert main([*command, str(tmp_path)]) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err


@pytest.mark.parametrize("command", OUTPUTS + FOLDERS, ids=" ".join)
def test_an_output_below_a_file_or_in_a_read_only_place_is_refused(command, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    assert main([*command, str(tmp_path / "file" / "x" / "y")]) == 2
    assert "is a file, so" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main([*command, str(tmp_path / "x" / "y")]) == 2
    assert f"{tmp_path} is read-only" in capsys.readouterr().err


def test_vllm_that_is_not_installed_is_one_line_before_anything_is_made(tmp_path, capsys, monkeypatch):
    from tests.records import write_record

    run = write_record(tmp_path, "grpo", 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["evaluate", str(run.path), "--vllm"]) == 2
    assert "vLLM is not installed" in capsys.readouterr().err


def test_overrides_reach_the_profile_as_text_or_object():
    from hicra.study.profiles import get_profile

    assert get_profile("families", json.dumps({"steps": 7})).steps == 7
    assert get_profile("families", {"steps": 7}, group_size=4).group_size == 4
    for wrong in ("{steps: 7}", "[1]", "7"):
        with pytest.raises(HicraError, match="no JSON object"):
            get_profile("families", wrong)


def test_figures_of_the_committed_records_have_the_committed_model_beside_them(root, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        "hicra.study.figures.gallery.build_gallery", lambda *a, **k: told.append(k["models"]) or []
    )
    out = ["--out", str(tmp_path)]
    pilots = ["--records", str(root / "data/families/pilots")]
    for given in ([], pilots, [*pilots, "--models", "a", "--models", "b"]):
        assert main(["figures", *out, *given]) == 0
    assert told == [[root / "data/smollm2"], (), [Path("a"), Path("b")]]
