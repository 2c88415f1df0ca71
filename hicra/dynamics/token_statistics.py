"""Log-probability and entropy of every completion token, by a pass of our own: the same on every backend."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hicra.batches import PICTURES, WHOLE, cut_padding, positions_are_relative, some_rows, without_adapter
from hicra.errors import HicraError

POSITIONS = 512  # scored at once: the logits of a long completion would not fit, less so in 32 bit
# By these some models change what their last linear map gives; theirs are the only logits then.
LOGIT_TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)


class _Head(NamedTuple):
    """The last linear map in 32 bit, and the module whose output it takes."""

    body: torch.nn.Module
    weight: Tensor  # (V, D)
    bias: Tensor | None  # (V,)


@torch.no_grad()
def token_statistics(
    model, batch: dict[str, Tensor], *, temperature: float, rows: int = 64
) -> tuple[Tensor, Tensor]:
    """Log-probability and full-vocabulary entropy (nats) of every completion token, both (B, T).

    `batch` is one of TRL's GRPO trainer: prompt_ids and prompt_mask (B, P), padded on the left,
    completion_ids and completion_mask (B, T), and what the model takes of pictures. `rows` are scored at
    once, cut to the longest of them. Values of padding have no meaning. The model is in evaluation mode
    meanwhile and keeps no cache; its modes are restored.

    Raises HicraError where the model scored fewer positions than it was given.
    """
    width, n_rows = batch["completion_ids"].shape[1], len(batch["completion_ids"])
    relative, head = positions_are_relative(model), _plain_head(model)
    found = []
    with _evaluating(model):
        for start in range(0, n_rows, rows):
            part = cut_padding(some_rows(batch, slice(start, start + rows)), prompts=relative)
            found.append([_wide(v, width) for v in _part_statistics(model, head, part, temperature)])
    logps, entropies = zip(*found, strict=True)
    return torch.cat(logps), torch.cat(entropies)  # (B, T), (B, T)


def _part_statistics(model, head: _Head | None, batch: dict, temperature: float) -> tuple[Tensor, Tensor]:
    """What token_statistics gives, of a batch that is one pass."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)  # (b, P+T)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)  # (b, P+T)
    more = {name: batch[name] for name in PICTURES + WHOLE if batch.get(name) is not None}
    outputs = _outputs(model, head, input_ids=ids, attention_mask=mask, **more)  # (b, P+T, D or V)
    if outputs.shape[1] != ids.shape[1]:  # Unsloth cuts what is longer than it was told
        raise HicraError(
            f"{ids.shape[1]} tokens were scored as {outputs.shape[1]}: a prompt is longer than "
            "max_prompt_length; raise it"
        )
    n_tokens = batch["completion_ids"].shape[1]
    return _scored(outputs[:, -n_tokens - 1 : -1], head, batch["completion_ids"], temperature)


def _outputs(model, head: _Head | None, **inputs) -> Tensor:
    """The model's last hidden states (b, P+T, D), or, where its head is not a plain one, its logits."""
    if head is None:
        return model(**inputs).logits  # (b, P+T, V)
    kept = []
    hook = head.body.register_forward_hook(lambda module, args, output: kept.append(output[0]))
    try:  # the whole model, for what wraps its body; one position's logits are the least it makes
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        hook.remove()
    return kept[-1]  # (b, P+T, D)


def _plain_head(model) -> _Head | None:
    """The model's head where its logits are hidden states times a matrix; None where they are more."""
    base = without_adapter(model)
    if not hasattr(base, "get_output_embeddings"):
        return None
    linear, body = base.get_output_embeddings(), base.base_model
    config = base.config.get_text_config()
    changed = any(getattr(config, name, None) not in (None, 1) for name in LOGIT_TRANSFORMS)
    keeps_one = "logits_to_keep" in inspect.signature(base.forward).parameters
    if changed or body is base or not keeps_one or not isinstance(linear, torch.nn.Linear):
        return None
    bias = None if linear.bias is None else linear.bias.float()
    return _Head(body, linear.weight.float(), bias)


def _scored(outputs: Tensor, head: _Head | None, chosen: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Outputs (b, T, D or V) and tokens (b, T) to log-probabilities and entropies, both (b, T)."""
    logps, entropies = [], []
    for part, tokens in zip(outputs.split(POSITIONS, 1), chosen.split(POSITIONS, 1), strict=True):
        logits = part.float()  # (b, t, D or V)
        if head is not None:
            logits = functional.linear(logits, head.weight, head.bias)  # (b, t, V)
        scores = (logits / temperature).log_softmax(-1)  # (b, t, V)
        logps.append(scores.gather(-1, tokens[..., None])[..., 0])  # (b, t)
        entropies.append(-(scores.exp() * scores).sum(-1))  # (b, t)
    return torch.cat(logps, 1), torch.cat(entropies, 1)


def _wide(values: Tensor, width: int) -> Tensor:
    return functional.pad(values, (0, width - values.shape[1]))  # (b, t) -> (b, T)


@contextmanager
def _evaluating(model) -> Iterator[None]:
    """The model in evaluation mode; afterwards each of its modules in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
