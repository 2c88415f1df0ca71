"""The only file that imports Unsloth: models, adapters, generation, per-token statistics.

Unsloth must be imported before TRL; import this module first and the order is right. On a machine
without a GPU that import also gives TRL's trainer a loss that runs on a CPU.
"""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Nobody is told what is run here, unless the user asks for it.
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import psutil
import unsloth  # noqa: E402, I001  (before transformers and trl)
import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

POSITIONS = 512  # scored at once: in 32 bit, all of a long completion would not fit beside the logits
CACHE_BYTES = 4 << 30  # keys and values of what is sampled at once by transformers' generate
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of the folder `base`, with a new LoRA adapter unless `lora_rank` is 0.

    A folder that holds an adapter gives its base with that adapter. `vllm` starts Unsloth's colocated
    engine, on a GPU. Raises FileNotFoundError where a folder is no model, ValueError where its weights
    are torn.
    """
    base = Path(base)
    if not any((base / name).exists() for name in ("config.json", "adapter_config.json")):
        raise FileNotFoundError(f"no model in {base}; `make sandbox-base` trains the sandbox's")
    recompute = "unsloth" if gradient_checkpointing else False
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        str(base),
        max_seq_length=max_length,
        dtype=getattr(torch, dtype),
        load_in_4bit=load_in_4bit,
        full_finetuning=lora_rank == 0,
        use_gradient_checkpointing=recompute,
        **({"fast_inference": True, "max_lora_rank": lora_rank} if vllm else {}),
        local_files_only=True,
    )
    model.generation_config = _plain_sampling(model)
    if lora_rank:
        model = unsloth.FastLanguageModel.get_peft_model(
            model,
            r=lora_rank,
            lora_alpha=lora_rank,
            target_modules=LORA_TARGETS,
            random_state=seed,
            use_gradient_checkpointing=recompute,
        )
    tokenizer.padding_side = "left"
    return model, tokenizer


def _plain_sampling(model) -> GenerationConfig:
    """The model's special tokens alone: a penalty or cut-off that came with it would bend every sample."""
    own = model.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: getattr(own, name) for name in names})


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


def save_merged(model, tokenizer, out: Path) -> None:
    """Merge the adapter into the weights and write a plain model folder."""
    merged = model.merge_and_unload()
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)


@contextmanager
def private_seed(seed: int) -> Iterator[None]:
    """Random draws inside neither see nor move torch's global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def cache_bytes(config, size: int) -> int:
    """Bytes of one token's keys and values, `size` bytes a number."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * size


def policy_generator(model, tokenizer, **options) -> Callable[[list[str]], list[str]]:
    """A generate function for a policy in training: by the vLLM engine beside it, where it has one."""
    if getattr(model, "vllm_engine", None) is not None:
        return colocated_generator(model, **options)
    return text_generator(model, tokenizer, **options)


def text_generator(
    model, tokenizer, *, max_new_tokens: int, temperature: float, seed: int
) -> Callable[[list[str]], list[str]]:
    """A function prompts -> completions that samples from `model` by transformers' generate.

    The same prompts give the same completions whatever was drawn elsewhere before.
    """
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        temperature=temperature if temperature > 0 else None,
        top_k=0,
        top_p=1.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )

    def generate(prompts: list[str]) -> list[str]:
        longest = max(map(len, tokenizer(prompts)["input_ids"]), default=0)
        rows = rows_at_once(model, longest + max_new_tokens)
        training, texts = model.training, []
        model.eval()
        with private_seed(seed), torch.no_grad():
            for start in range(0, len(prompts), rows):
                # The side is named here: Unsloth turns the tokenizer's own while it trains.
                batch = tokenizer(
                    prompts[start : start + rows], return_tensors="pt", padding=True, padding_side="left"
                ).to(model.device)
                batch.pop("token_type_ids", None)
                ids = model.generate(**batch, generation_config=config)
                new = ids[:, batch["input_ids"].shape[1] :]  # (B, T)
                texts += tokenizer.batch_decode(new, skip_special_tokens=True)
        model.train(training)
        return texts

    return generate


def rows_at_once(model, tokens: int) -> int:
    """Completions sampled together: as many as keep keys and values within CACHE_BYTES, at most 256.

    It does not look at what is free, because what is sampled together decides what is sampled.
    """
    row = tokens * cache_bytes(model.config, model.dtype.itemsize)
    return max(1, min(256, CACHE_BYTES // row))


def colocated_generator(
    model, *, max_new_tokens: int, temperature: float, seed: int
) -> Callable[[list[str]], list[str]]:
    """The same by the vLLM engine that Unsloth keeps beside a model in training, with its adapter as it is.

    Needs a GPU; not yet run on one.
    """

    def generate(prompts: list[str]) -> list[str]:
        from vllm import SamplingParams

        adapter = model.load_lora("hicra_evaluation", load_tensors=True)
        # A seed each: the same evaluation whatever the trainer has drawn from the engine before.
        options = [
            SamplingParams(temperature=temperature, max_tokens=max_new_tokens, seed=seed + i)
            for i in range(len(prompts))
        ]
        outputs = model.fast_generate(prompts, options, lora_request=adapter, use_tqdm=False)
        return [out.outputs[0].text for out in outputs]

    return generate


def vllm_generator(
    folder: Path, *, max_new_tokens: int, temperature: float, seed: int, max_length: int, dtype: str
) -> Callable[[list[str]], list[str]]:
    """The same by vLLM, from a plain model folder; several times the tokens a second.

    A new engine with the same `seed` gives the same completions to the same calls, but not those of
    `text_generator`; a seed for each prompt would repeat more and cost nearly half of the speed on a CPU. In
    `dtype`, bfloat16 for float32. Raises ImportError where vLLM is not installed.
    """
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; its default is nearly the whole machine
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")  # its default idles one core, here of two
    from vllm import LLM, SamplingParams

    dtype = "bfloat16" if dtype == "float32" else dtype
    llm = LLM(str(folder), max_model_len=max_length, dtype=dtype, seed=seed, enable_prefix_caching=False)

    def generate(prompts: list[str]) -> list[str]:
        options = SamplingParams(temperature=temperature, max_tokens=max_new_tokens)
        return [out.outputs[0].text for out in llm.generate(prompts, options, use_tqdm=False)]

    return generate


@torch.no_grad()
def token_statistics(
    model, batch: dict[str, torch.Tensor], *, temperature: float, rows: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and full-vocabulary entropy (nats) of every completion token, both (B, T).

    The study's own pass: the same on every backend, whatever the trainer keeps to itself.
    """
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)  # (B, P+T)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)  # (B, P+T)
    width = batch["completion_ids"].shape[1]
    found = []
    for part_ids, part_mask in zip(ids.split(rows), mask.split(rows), strict=True):
        logits = model(input_ids=part_ids, attention_mask=part_mask).logits  # (b, P+T, V)
        if logits.shape[1] != part_ids.shape[1]:  # Unsloth cuts what is longer than it was told
            raise ValueError(
                f"{part_ids.shape[1]} tokens were scored as {logits.shape[1]}: a prompt is longer than "
                "max_prompt_length; raise it"
            )
        found.append(_scored(logits[:, -width - 1 : -1], part_ids[:, -width:], temperature))
    logps, entropies = zip(*found, strict=True)
    return torch.cat(logps), torch.cat(entropies)


def _scored(
    logits: torch.Tensor, chosen: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (b, T, V) and tokens (b, T) to log-probabilities and entropies, both (b, T)."""
    logps, entropies = [], []
    for part, tokens in zip(logits.split(POSITIONS, 1), chosen.split(POSITIONS, 1), strict=True):
        scores = (part.float() / temperature).log_softmax(-1)  # (b, t, V)
        logps.append(scores.gather(-1, tokens[..., None])[..., 0])  # (b, t)
        entropies.append(-(scores.exp() * scores).sum(-1))  # (b, t)
    return torch.cat(logps, 1), torch.cat(entropies, 1)
