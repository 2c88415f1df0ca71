"""The numbers of a step: loss, gradients, entropy bonus, and the study's own scoring pass."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.adapter import draw_adapter
from tests.gpu.card import DTYPE, GPU, ROOT, Row, base_folder


def parity(options) -> Iterator[Row]:
    """Unsloth's trainer, kernels and layout against plain TRL and PEFT, on one fixed batch."""
    loss = 0.01 if GPU else 1e-4
    one, two, exact = engines(base_folder(), options.out / "parity", "unsloth", "trl", "exact")
    trainers = f"{one['trainer']} and {two['trainer']}"
    wanted = f"{'Unsloth' if GPU else ''}GRPOTrainer and GRPOTrainer"
    yield Row("trainers", trainers, wanted, trainers == wanted)
    for case, ours in one["steps"].items():
        theirs = two["steps"][case]
        apart_by = abs(ours["loss"] - theirs["loss"]) / abs(theirs["loss"])
        differ = gradient_difference(ours["gradients"], theirs["gradients"])
        half = gradient_difference(theirs["gradients"], exact["steps"][case]["gradients"])
        gradient = 2 * half + 1e-4
        told = f"{case[0]} rows a pass{', with old log-probabilities' if case[1] else ''}"
        yield Row(f"loss, {told}", f"{apart_by:.2%} apart", f"{loss:.2%}", apart_by <= loss)
        wanted = f"{gradient:.2%}, twice what half precision alone does"
        yield Row(f"gradient, {told}", f"{differ:.2%} apart", wanted, differ <= gradient)


def engines(model: Path, folder: Path, *names: str) -> list[dict]:
    """What tests.parity finds by each of its engines."""
    folder.mkdir(parents=True, exist_ok=True)
    return [parity_of(name, model, folder / f"{name}.pt") for name in names]


def parity_of(engine: str, model: Path, out: Path, *more: str) -> dict:
    command = [sys.executable, "-m", "tests.parity", engine, str(model), str(out.absolute()), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"tests.parity {engine} failed: {done.stderr[-3000:]}")
    return torch.load(out)


def gradient_difference(one: dict, two: dict) -> float:
    """The norm of the difference of two sets of gradients, relative to the second's; infinite for other sets."""
    if one.keys() != two.keys():
        return float("inf")
    ours, theirs = (torch.cat([g.flatten() for _, g in sorted(d.items())]) for d in (one, two))  # (N,)
    return ((ours - theirs).norm() / theirs.norm()).item()


def entropy_bonus(options) -> Iterator[Row]:
    """An entropy bonus takes coefficient times mean entropy from the loss; the coefficient is 1 here."""
    found = parity_of("unsloth", base_folder(), options.out / "bonus.pt")
    wanted, tolerance = -found["entropy"], 0.03 if GPU else 1e-4
    well = abs(found["bonus"] - wanted) <= tolerance * abs(wanted)
    yield Row(
        "loss with bonus, less without", f"{found['bonus']:.4f}", f"{wanted:.4f} ± {tolerance:.2%}", well
    )


def recorder(options) -> Iterator[Row]:
    """The study's own scoring pass against transformers in 32 bit, and a row alone against the batch."""
    from hicra.study.policy import unsloth_models

    from hicra.dynamics.token_statistics import token_statistics

    policy, tokenizer = unsloth_models.load_policy(base_folder(), lora_rank=8, seed=0, dtype=DTYPE)
    draw_adapter(policy)
    batch = {k: v.to(policy.device) for k, v in worked_batch(tokenizer).items()}
    own = batch["completion_mask"].bool()  # (B, T)
    exact = by_transformers(options, policy, batch)
    found = token_statistics(policy, batch, temperature=1.0)
    alone = token_statistics(policy, batch, temperature=1.0, rows=1)
    for i, name in enumerate(("log-probability", "entropy")):
        yield from close(f"{name}, against 32 bit", (found[i] - exact[name])[own])
        yield from close(f"{name}, a row alone", (alone[i] - found[i])[own])


def sampler(options) -> Iterator[Row]:
    """The study's own sampler on this machine: its values against a pass, its speed against generate's."""
    from functools import partial

    from hicra.study.policy import generation, unsloth_models
    from hicra.study.policy.llama_sampler import refusal, sample, sampled_by

    policy, tokenizer = unsloth_models.load_policy(base_folder(), lora_rank=8, seed=0)
    draw_adapter(policy)
    found, wanted = sampled_by(policy), "own on cuda" if GPU else "own"
    yield Row("sampler", f"{found} {refusal(policy)}".strip(), wanted, found == wanted)
    prompts = [p for p in tokenizer([row["prompt"] for row in worked()])["input_ids"] for _ in range(16)]
    ends, pad = unsloth_models.ends(policy, tokenizer), tokenizer.pad_token_id
    own = partial(sample, policy, prompts, max_new_tokens=64, temperature=1.0, ends=ends, pad=pad)
    completions, seconds = timed(own)
    ids, padding = generation.left_padded(prompts, pad)
    batch = {"prompt_ids": ids, "prompt_mask": ~padding}
    batch |= {"completion_ids": completions.ids, "completion_mask": completions.mask}
    batch = {name: values.to(policy.device) for name, values in batch.items()}
    logps, entropies = token_statistics_of(policy, batch)
    mask = completions.mask
    exact = {"mean": 1e-4, "absolute": 1e-3}  # both in 32 bit
    yield from close("log-probability, sampler less pass", (completions.logps - logps)[mask], **exact)
    yield from close("entropy, sampler less pass", (completions.entropies - entropies)[mask], **exact)
    surprise = -(completions.logps + completions.entropies)[mask]  # (N,), 0 in the mean
    error = surprise.std().item() / len(surprise) ** 0.5
    mean = surprise.mean().item()
    yield Row("surprise less entropy", f"{mean:+.3f} nats", f"within {4 * error:.3f}", abs(mean) < 4 * error)
    config = generation.GenerationConfig(
        max_new_tokens=64, do_sample=True, top_k=0, pad_token_id=pad, eos_token_id=ends
    )
    theirs, slower = timed(lambda: generation._by_generate(policy, config, prompts))
    speeds = mask.sum().item() / seconds, (theirs != pad).sum().item() / slower
    yield Row("speed", "{:.0f} tokens/s; generate {:.0f}".format(*speeds))


def timed(act):
    """What `act` gives, and the seconds of its second call; the first may compile."""
    act()
    started = time.monotonic()
    found = act()
    if GPU:
        torch.cuda.synchronize()
    return found, time.monotonic() - started


def token_statistics_of(policy, batch):
    from hicra.dynamics.token_statistics import token_statistics

    return token_statistics(policy, batch, temperature=1.0, rows=32)


def by_transformers(options, policy, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values (B, T) of the completions by transformers and PEFT, in a process that has not imported Unsloth."""
    from hicra.study.policy.own_process import in_own_process

    adapter, given, found = (options.out / name for name in ("adapter", "batch.pt", "exact.pt"))
    policy.save_pretrained(adapter)
    torch.save(batch, given)
    in_own_process(score, base_folder(), adapter, given, found)
    return torch.load(found)


def score(model: Path, adapter: Path, given: Path, out: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from hicra.dynamics.token_statistics import token_statistics

    batch = torch.load(given)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(batch["prompt_ids"].device)
    exact = PeftModel.from_pretrained(plain, str(adapter))
    logps, entropies = token_statistics(exact, batch, temperature=1.0)
    greedy = most_probable(exact, batch)
    torch.save({"log-probability": logps, "entropy": entropies, "greedy": greedy}, out)


@torch.no_grad()
def most_probable(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The token that a model would write next, at every place of the completions: (B, T)."""
    rows = []
    for i in range(len(batch["prompt_ids"])):  # a row at a time: no padding to get wrong
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]  # (p,)
        ids = torch.cat([prompt, batch["completion_ids"][i]])[None]  # (1, p + T)
        rows.append(model(input_ids=ids).logits[0, len(prompt) - 1 : -1].argmax(-1))  # (T,)
    return torch.stack(rows)


def close(what: str, difference: torch.Tensor, mean: float = 0.01, absolute: float = 0.06) -> Iterator[Row]:
    """A difference (N,) in nats that half precision explains: in bfloat16 on a CPU 0.005 in the mean, 0.032 in size."""
    signed, size = difference.mean().item(), difference.abs().mean().item()
    yield Row(what, f"{signed:+.5f} nats in the mean", f"below {mean}", abs(signed) < mean)
    yield Row(what, f"{size:.5f} nats in size", f"below {absolute}", size < absolute)


def worked() -> list[dict[str, str]]:
    """Eight problems of the made world with worked solutions."""
    from hicra.study.problems.prompts import worked_rows
    from hicra.study.profiles import get_profile

    return worked_rows(get_profile("smollm2"), 8)


def worked_batch(tokenizer) -> dict[str, torch.Tensor]:
    """Prompts and worked solutions, as TRL's trainer would hold them."""
    rows = worked()
    left = tokenizer([r["prompt"] for r in rows], return_tensors="pt", padding=True, padding_side="left")
    right = tokenizer(
        [r["completion"] for r in rows], return_tensors="pt", padding=True, padding_side="right"
    )
    return {
        "prompt_ids": left["input_ids"],  # (B, P)
        "prompt_mask": left["attention_mask"],
        "completion_ids": right["input_ids"],  # (B, T)
        "completion_mask": right["attention_mask"],
    }
