"""The only file that imports Unsloth: models and adapters.

Unsloth must be imported before TRL; import this module first and the order is right. On a machine
without a GPU that import also gives TRL's trainer a loss that runs on a CPU.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

# No telemetry.
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Unsloth asks for FlashInfer's sampler on a T4, where vLLM refuses it; without, vLLM chooses by the card.
os.environ.setdefault("UNSLOTH_VLLM_NO_FLASHINFER", "1")

import psutil

with redirect_stdout(sys.stderr):  # its banners are no output of ours
    import unsloth  # noqa: E402, I001  (before transformers and trl)
import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from hicra.errors import MissingError  # noqa: E402

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VISION = r".*(vision|visual).*"  # the part of a vision-language model that adapters leave alone
PICTURE_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def load_policy(
    base: Path | str,
    *,
    lora_rank: int,
    seed: int,
    max_length: int = 256,
    dtype: str = "float32",
    load_in_4bit: bool = False,
    gradient_checkpointing: bool = False,
    vllm: bool = False,
    gpu_memory_utilization: float = 0.5,
    trained: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | ProcessorMixin]:
    """Model and tokenizer of the folder `base`, with a new LoRA adapter unless `lora_rank` is 0.

    A folder that holds an adapter gives its base with that adapter; a vision-language model comes with its
    processor instead, whose `tokenizer` taggers take, and adapters leave its vision alone. `vllm` starts
    Unsloth's colocated engine, on a GPU, with the share `gpu_memory_utilization` of it. `trained`: without a
    new adapter all weights are, and Unsloth keeps them in 32 bit; give False to sample alone. Raises
    FileNotFoundError where a folder is no model, ValueError where its weights are torn.
    """
    base = Path(base)
    if not any((base / name).exists() for name in ("config.json", "adapter_config.json")):
        raise MissingError(f"no model in {base}; `hicra families-base` trains the made world's")
    sees = _sees(base)
    if sees and not has_gpu():
        return _plain_vision_model(base, lora_rank=lora_rank, seed=seed, dtype=dtype)
    recompute = "unsloth" if gradient_checkpointing else False
    fast = unsloth.FastVisionModel if sees else unsloth.FastLanguageModel
    with redirect_stdout(sys.stderr):
        model, tokenizer = fast.from_pretrained(
            str(base),
            max_seq_length=max_length,
            dtype=getattr(torch, dtype),
            load_in_4bit=load_in_4bit,
            full_finetuning=trained and lora_rank == 0,
            use_gradient_checkpointing=recompute,
            **(_engine(lora_rank, gpu_memory_utilization) if vllm else {}),
            local_files_only=True,
        )
    model.generation_config = _plain_sampling(model)
    if lora_rank:
        model = fast.get_peft_model(
            model,
            r=lora_rank,
            lora_alpha=lora_rank,
            **({"finetune_vision_layers": False} if sees else {"target_modules": LORA_TARGETS}),
            random_state=seed,
            use_gradient_checkpointing=recompute,
        )
    getattr(tokenizer, "tokenizer", tokenizer).padding_side = "left"
    return model, tokenizer


def _engine(lora_rank: int, gpu_memory_utilization: float) -> dict:
    return {
        "fast_inference": True,
        "max_lora_rank": lora_rank,
        "gpu_memory_utilization": gpu_memory_utilization,
    }


def _sees(base: Path) -> bool:
    config = base / "config.json"
    return config.exists() and "vision_config" in json.loads(config.read_text())


def _plain_vision_model(base: Path, *, lora_rank: int, seed: int, dtype: str):
    """By transformers and PEFT alone: Unsloth has no vision models without a GPU."""
    torch.manual_seed(seed)  # of the adapter
    model = AutoModelForImageTextToText.from_pretrained(
        base, dtype=getattr(torch, dtype), local_files_only=True
    )
    model.generation_config = _plain_sampling(model)
    if lora_rank:
        lora = LoraConfig(
            r=lora_rank, lora_alpha=lora_rank, target_modules=LORA_TARGETS, exclude_modules=VISION
        )
        model = get_peft_model(model, lora)
    processor = AutoProcessor.from_pretrained(base, local_files_only=True)
    processor.tokenizer.padding_side = "left"
    return model, processor


def picture_tokens(model) -> tuple[int, ...]:
    """Ids that stand for pictures; a completion that drew one would miss a picture."""
    ids = (getattr(model.config, name, None) for name in PICTURE_TOKENS)
    return tuple(token for token in ids if token is not None)


def _plain_sampling(model) -> GenerationConfig:
    """The model's special tokens alone: a penalty or cut-off that came with it would bend every sample."""
    own = model.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: getattr(own, name) for name in names})


def turn_end(tokenizer, template: str) -> int | None:
    """The special token right behind the problem in `template`: it ends a turn, the model's as well."""
    behind = tokenizer(template.partition("{problem}")[2], add_special_tokens=False)["input_ids"][:1]
    added = tokenizer.added_tokens_decoder
    return next((token for token in behind if token in added and added[token].special), None)


def end_on_turns(model, tokenizer, template: str) -> None:
    """Let completions end on the template's end of a turn too: a base model's own end is often another."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    known, end = ends(model, tokenizer), turn_end(tokenizer, template)
    if end is not None and end not in known:
        model.generation_config.eos_token_id = [*known, end]


def ends(model, tokenizer) -> list[int]:
    """Ids that end a completion: the tokenizer's end, and all that the model's generation settings name."""
    tokenizer, own = getattr(tokenizer, "tokenizer", tokenizer), model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    return [token for token in dict.fromkeys([tokenizer.eos_token_id, *own]) if token is not None]


def has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def has_gpu() -> bool:
    return torch.cuda.is_available()


def free_memory() -> float:
    """Bytes free where the model will live: on the GPU, else in the machine's memory."""
    if has_gpu():
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def free_gpu() -> None:
    """Give back what a model that nobody holds any more has left reserved on the GPU."""
    gc.collect()
    if has_gpu():
        torch.cuda.empty_cache()


def unpack_gguf(file: Path, out: Path) -> None:
    """Write the weights of a GGUF file as a plain model folder, with its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # Dequantised, but still marked as quantised, which save_pretrained refuses.
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    model.is_quantized = False
    # The end of a turn ends a completion; padding must be another token.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def merge_adapter(adapter: Path, out: Path, dtype: str) -> None:
    """Write the policy in the folder `adapter` with its adapter merged into its weights, as a plain folder.

    On the CPU, by transformers and PEFT alone; hicra.study.policy.own_process gives the memory back.
    """
    base = Path(json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"])
    kind = AutoModelForImageTextToText if _sees(base) else AutoModelForCausalLM
    model = kind.from_pretrained(base, dtype=getattr(torch, dtype), local_files_only=True)
    processing = AutoProcessor if _sees(base) else AutoTokenizer
    save_merged(PeftModel.from_pretrained(model, str(adapter)), processing.from_pretrained(adapter), out)


def save_merged(model, tokenizer, out: Path) -> None:
    """Merge the adapter into the weights and write a plain model folder."""
    merged = model.merge_and_unload()
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)
