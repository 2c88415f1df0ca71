"""What a trained policy's folder says about itself, and its way to the Hub."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from hicra.study.policy.own_process import in_own_process

from hicra.errors import HicraError
from hicra.files import write_atomic
from hicra.study.record.run_folder import RunError, RunFolder

SHOWN = (
    "arm",
    "alpha",
    "seed",
    "base",
    "problem_set",
    "lexicon",
    "steps",
    "prompts_per_step",
    "group_size",
    "max_completion_length",
    "learning_rate",
    "lora_rank",
    "dtype",
)

CARD = """---
library_name: {library}
tags: [grpo, hicra, trl, unsloth]
---

# {arm} on {world}

Trained by the open reproduction of HICRA (Wang et al., arXiv 2509.03646): GRPO{change}.

| setting | value |
|---|---|
{settings}

Held-out accuracy: {before:.3f} before, {after:.3f} after {steps} steps ({n} samples each, one run: no
interval over seeds). Packages: {versions}. {notices}

```python
{loading}
```

With vLLM for a GPU, `vllm serve` {serving}; its CPU build has no such command and starts by
`python -m vllm.entrypoints.openai.api_server --model` instead.
"""
ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "this folder")"""
PLAIN = """from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("this folder")"""


def model_card(run: RunFolder) -> str:
    """The card of a finished run's policy, from its manifest and evaluations."""
    manifest, evals = run.manifest(), run.read("evals.jsonl")
    settings = manifest["settings"]
    adapter = settings["lora_rank"] > 0
    return CARD.format(
        library="peft" if adapter else "transformers",
        arm=settings["arm"],
        world=manifest["world"],
        change="" if settings["arm"] == "grpo" else f", with the credit of the arm `{settings['arm']}`",
        settings="\n".join(f"| {name} | {_shown(settings[name])} |" for name in SHOWN),
        before=evals[0]["accuracy"],
        after=evals[-1]["accuracy"],
        steps=settings["steps"],
        n=evals[-1]["n"],
        versions=", ".join(f"{name} {number}" for name, number in manifest["versions"].items()),
        notices=" ".join(run.notices()),
        loading=ADAPTER.format(base=_base(settings)) if adapter else PLAIN,
        serving="takes the base with `--lora-modules NAME=this folder`" if adapter else "takes the folder",
    )


def _shown(value) -> str:
    """A setting without the folders of this machine."""
    parts = value if isinstance(value, list) else [value]
    return "+".join(Path(part).name if os.path.isabs(str(part)) else str(part) for part in parts)


def _base(settings: dict) -> str:
    """How an adapter's base is loaded, as the arguments of from_pretrained."""
    model, _, revision = settings["base"].removeprefix("hub:").partition("@")
    return (
        f'"{model}", revision="{revision}"' if revision else "base_model_name_or_path of adapter_config.json"
    )


def publish(folder: Path | str, repository: str, *, merge: bool = False) -> str:
    """Push a finished run's policy with its card to OWNER/NAME on the Hub, and give its address.

    `merge` pushes the whole model instead of the adapter. The token is read from HF_TOKEN. Raises
    RunError for a run that is not finished, ValueError without a token and for an adapter whose base the Hub
    does not have; all before anything is sent.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    run = RunFolder(folder)
    if not run.finished:
        raise RunError(f"{run.path} is not a finished run; its policy is not final")
    if not os.environ.get("HF_TOKEN"):
        raise HicraError("HF_TOKEN is not set; put a token that may write to the Hub into the environment")
    settings = run.manifest()["settings"]
    adapter = settings["lora_rank"] > 0 and not merge
    if adapter and (settings["warm_start_steps"] or not settings["base"].startswith("hub:")):
        raise HicraError(
            f"the adapter's base {settings['base']} is not on the Hub as it was used; add --merge"
        )
    hub = HfApi(token=os.environ["HF_TOKEN"])
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "policy"
        if merge and settings["lora_rank"]:
            from hicra.study.policy.unsloth_models import merge_adapter

            in_own_process(merge_adapter, run.policy(), out, settings["dtype"])
        else:
            shutil.copytree(run.policy(), out)
        if adapter:  # on this machine the base is a folder
            _name_base(out / "adapter_config.json", settings["base"].removeprefix("hub:"))
        write_atomic(out / "README.md", model_card(run))
        try:
            hub.create_repo(repository, exist_ok=True, private=True)
            hub.upload_folder(repo_id=repository, folder_path=out)
        except (httpx.HTTPError, OfflineModeIsEnabled, HFValidationError) as error:
            raise HicraError(
                f"the Hub did not take {repository} ({_first_line(error)}); check its name and the network"
            ) from error
    return f"https://huggingface.co/{repository}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _name_base(path: Path, name: str) -> None:
    model, _, revision = name.partition("@")
    config = json.loads(path.read_text())
    config |= {"base_model_name_or_path": model, "revision": revision}
    write_atomic(path, json.dumps(config, indent=1) + "\n")
