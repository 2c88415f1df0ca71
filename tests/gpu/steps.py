"""The numbers of a step: loss, gradients, entropy bonus, and the study's own scoring pass."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.adapter import draw_adapter
from tests.gpu.card import DTYPE, GPU, ROOT, Row, base_folder


def parity(options) -> Iterator[Row]:
    """Unsloth's trainer, kernels and layout against plain TRL and PEFT, on one fixed batch."""
    loss, gradient = (0.01, 0.03) if GPU else (1e-4, 1e-4)
    one, two = both_engines(base_folder(), options.out / "parity")
    trainers = f"{one['trainer']} and {two['trainer']}"
    wanted = f"{'Unsloth' if GPU else ''}GRPOTrainer and GRPOTrainer"
    yield Row("trainers", trainers, wanted, trainers == wanted)
    for case, ours in one["steps"].items():
        theirs = two["steps"][case]
        apart_by = abs(ours["loss"] - theirs["loss"]) / abs(theirs["loss"])
        differ = gradient_difference(ours["gradients"], theirs["gradients"])
        told = f"{case[0]} rows a pass{', with old log-probabilities' if case[1] else ''}"
        yield Row(f"loss, {told}", f"{apart_by:.2%} apart", f"{loss:.2%}", apart_by <= loss)
        yield Row(f"gradient, {told}", f"{differ:.2%} apart", f"{gradient:.2%}", differ <= gradient)


def both_engines(model: Path, folder: Path) -> list[dict]:
    """What tests.parity finds by Unsloth and by TRL."""
    folder.mkdir(parents=True, exist_ok=True)
    return [parity_of(engine, model, folder / f"{engine}.pt") for engine in ("unsloth", "trl")]


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
    yield Row(what, f"{signed:+.4f} nats in the mean", f"below {mean}", abs(signed) < mean)
    yield Row(what, f"{size:.4f} nats in size", f"below {absolute}", size < absolute)


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
