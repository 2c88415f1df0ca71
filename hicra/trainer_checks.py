"""What HicraMixin refuses or mentions: trainers and settings under which HICRA would be something else.

Each check stands where its answer is first known: when the class is made, when the trainer is made, at the
first loss, at the first rollouts.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor

from hicra.credit import hicra_advantages
from hicra.errors import HicraError

GRPO = {"GRPOTrainer", "UnslothGRPOTrainer"}  # on a GPU Unsloth puts the second in the first's place
SEQUENCE_LOSS = {"GMPOTrainer"}  # takes GRPOTrainer's place with one weight a completion
TOKENS, ALPHA = 4, 0.5  # of the probe's completions


def packs_left(trainer_class: type) -> bool:
    """Whether the loss is Unsloth's: its generated class stands among the trainer's ancestors."""
    return any(parent.__name__ == "UnslothGRPOTrainer" for parent in trainer_class.__mro__)


def check_class(cls: type, mixin: type) -> None:
    """Raise HicraError where `cls` is a trainer and `mixin` does not stand before GRPOTrainer in it."""
    if not hasattr(cls, "train"):
        return  # a mixin itself
    names = [parent.__name__ for parent in cls.__mro__]
    bases = ", ".join(base.__name__ for base in cls.__bases__)
    if not GRPO & set(names[cls.__mro__.index(mixin) :]):
        raise HicraError(
            f"class {cls.__name__}({bases}): HICRA is a change to TRL's GRPOTrainer and goes before it; "
            "write class MyTrainer(HicraMixin, GRPOTrainer)"
        )
    if SEQUENCE_LOSS & set(names):
        raise HicraError(
            f"class {cls.__name__}({bases}): GMPO weighs whole completions, so credit for tokens would be "
            "lost; write class MyTrainer(HicraMixin, GRPOTrainer)"
        )
    device = torch.accelerator.current_accelerator(check_available=True)
    if missing := missing_loss(cls, device.type if device else "cpu"):
        warnings.warn(missing, stacklevel=3)


def missing_loss(cls: type, device: str) -> str:
    """Why the trainer's loss cannot run on a device of this type; empty where it can.

    TRL computes log-probabilities by a Triton kernel, which is None where Triton is missing and needs a GPU
    where it is not. Unsloth, imported on a machine without a GPU, puts a torch twin in its place.
    """
    utils = sys.modules.get("trl.trainer.utils")
    kernel = getattr(utils, "_ChunkedLogProbFunction", "")  # no such name: the loss of another version
    triton = kernel is None or getattr(kernel, "__module__", "").startswith("trl.")
    if packs_left(cls) or not triton or (kernel and device in ("cuda", "xpu")):
        return ""
    return (
        "TRL's GRPO loss needs a GPU with Triton, and here it would run without; write `import unsloth` "
        "above the first import of trl or transformers: where there is no GPU it brings a loss for the CPU"
    )


def check_settings(cls: type, args) -> None:
    """Raise HicraError where the trainer `cls` with `args` is not HICRA; mention what only scales it."""
    if (level := args.importance_sampling_level) != "token":
        raise HicraError(
            f"importance_sampling_level={level!r} gives all tokens of a completion the same gradient, so "
            "HICRA would be plain GRPO; set importance_sampling_level='token'"
        )
    if missing := missing_loss(cls, args.device.type):
        raise HicraError(missing)
    paper = {"scale_rewards": "none", "multi_objective_aggregation": "sum_then_normalize"}
    for name, wanted in paper.items():
        if (found := getattr(args, name)) != wanted:
            warnings.warn(
                f"{name}={found!r} divides advantages by a standard deviation, which the paper does not do; "
                f"set {name}={wanted!r}",
                stacklevel=4,
            )


def check_loss(trainer, loss: Callable[[dict], Tensor], inputs: dict[str, Tensor]) -> None:
    """Raise HicraError where `loss(inputs)` does not tell a completion's tokens apart.

    No model runs: the loss is given log-probabilities of ours. With HICRA's credit on every other token the
    gradient with respect to each must be GRPO's times 1 + alpha or 1 - alpha there, and GRPO's elsewhere.
    """
    plain = torch.ones(len(inputs["completion_ids"]), device=inputs["completion_ids"].device)  # (B,)
    plain[1::2] = -1.0
    every_other = torch.arange(TOKENS, device=plain.device).expand(len(plain), -1) % 2 == 0  # (B, 4)
    credited = hicra_advantages(plain, every_other, ALPHA)  # (B, 4)
    before = {**vars(trainer), "_metrics": deepcopy(trainer._metrics)}  # a loss also counts and logs
    try:
        wanted = _gradient(trainer, loss, inputs, plain) * credited / plain[:, None]  # (B, 4)
        found = _gradient(trainer, loss, inputs, credited)  # (B, 4)
    finally:
        for name in vars(trainer).keys() - before.keys():
            delattr(trainer, name)
        vars(trainer).update(before)
    setting = f"the loss of {type(trainer).__name__} (loss_type={trainer.args.loss_type!r})"
    if not found.any():
        warnings.warn(
            f"{setting} does not take its log-probabilities from GRPOTrainer, so whether it weighs each "
            "token by its own advantage was not checked",
            stacklevel=3,
        )
    elif not torch.allclose(found, wanted, rtol=1e-3):
        raise HicraError(
            f"{setting} does not weigh each token by its own advantage, so HICRA would be something else; "
            "use a loss that does, such as GRPOTrainer's"
        )


@torch.enable_grad()
def _gradient(trainer, loss, inputs: dict[str, Tensor], advantages: Tensor) -> Tensor:
    """d loss / d log-probability (B, 4), where all policies are one and no token is padding."""
    size = (len(advantages), TOKENS)
    logps = advantages.new_zeros(size, requires_grad=True)  # (B, 4)
    ones, zeros = torch.ones_like(logps), torch.zeros_like(logps)  # (B, 4), also as entropies
    fields = {name: zeros for name in inputs if name.endswith("_logps")}
    fields |= {name: ones for name in ("tool_mask", "importance_sampling_ratio") if name in inputs}
    fields |= {"completion_ids": zeros.long(), "completion_mask": ones.long(), "advantages": advantages}
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logps, ones, 0 * logps.sum())
    value = loss({**inputs, **fields})
    return torch.autograd.grad(value, logps, allow_unused=True, materialize_grads=True)[0]


def warn_without_planning(accelerator, planning_mask: Tensor, own: Tensor) -> None:
    """Say once that HICRA is plain GRPO where no process's tokens are planning; both masks are (B, T)."""
    counts = torch.tensor([planning_mask.sum(), own.sum(), len(own)], device=own.device)
    planning, tokens, completions = accelerator.reduce(counts, reduction="sum").tolist()
    if accelerator.is_main_process:
        warn_of_plain_grpo(planning, tokens, completions, stacklevel=5)


def warn_of_plain_grpo(planning: int, tokens: int, completions: int, stacklevel: int = 3) -> None:
    """Warn where none of the tokens of some completions is a planning token."""
    if tokens and not planning:
        warnings.warn(
            f"none of the {tokens} tokens of the first {completions} completions is a planning token, so "
            "HICRA is plain GRPO here. Look for the lexicon's grams in the completions (Lexicon.find); a "
            "lexicon of another language, wording or domain marks nothing: build one from this policy's "
            "solutions (build_lexicon)",
            stacklevel=stacklevel,
        )
