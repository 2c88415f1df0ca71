"""A batch of TRL's GRPO trainer: which tokens the policy wrote, some of its rows, and less of its padding.

Shapes: B completions, P prompt columns padded on the left, T completion columns padded on the right.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

from hicra.errors import MissingExtraError

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("the trainer", "torch", "trl") from error
from torch import Tensor

PROMPT = ("prompt_ids", "prompt_mask")  # (B, P)
COMPLETION = (  # (B, T); Unsloth's old and reference log-probabilities are (B, T + m), packed to the left
    "completion_ids",
    "completion_mask",
    "tool_mask",
    "advantages",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "sampling_per_token_entropies",  # the study's own, like the next
    "observed_planning",
    "importance_sampling_ratio",
)
WHOLE = ("token_type_ids", "mm_token_type_ids")  # (B, P + T)
PICTURES = (  # a row each, or a row a picture, patch or tile, by the model's kind
    "pixel_values",
    "image_grid_thw",
    "pixel_attention_mask",
    "spatial_shapes",
    "image_sizes",
    "image_position_ids",
)
COUNTS = ("num_images", "num_tiles")  # of each row
LENGTH_BOUND = ("dynamic", "longrope")  # rotary embeddings that look at the longest row of the pass


def has_pictures(batch: dict) -> bool:
    return any(batch.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))


def own_tokens(batch: dict[str, Tensor]) -> Tensor:
    """The completion tokens that the policy wrote itself, bool (B, T).

    TRL's `tool_mask` (a rollout function's `env_mask`) is 0 where a tool or an environment wrote.
    """
    written = batch["completion_mask"].bool()  # (B, T)
    return written & batch["tool_mask"].bool() if batch.get("tool_mask") is not None else written


def own_texts(batch: dict[str, Tensor], texts: list[str], tokenizer) -> list[str]:
    """What the policy wrote, one line a turn: no gram runs across what a tool wrote."""
    if batch.get("tool_mask") is None:
        return texts
    found = []
    for ids, own in zip(batch["completion_ids"].tolist(), own_tokens(batch).tolist(), strict=True):
        turns = groupby(zip(ids, own, strict=True), key=itemgetter(1))
        written = [[token for token, _ in turn] for mine, turn in turns if mine]
        found.append("\n".join(tokenizer.decode(turn, skip_special_tokens=True) for turn in written))
    return found


def taggable(batch: dict[str, Tensor], eos_token_id: int | None) -> Tensor:
    """The mask (B, T) of a batch that a tagger wants: own tokens, cut where a tool wrote.

    A tagger stops at the first end of a sequence. Where a tool answers, that end is only a turn's, so it is
    left out of the mask: it cuts, and tagging goes on in the next turn.
    """
    own, written = own_tokens(batch), batch["completion_mask"].bool()  # (B, T)
    tool_follows = (written & ~own).flip(1).cumsum(1).flip(1) > 0  # (B, T)
    return own & ~(tool_follows & (batch["completion_ids"] == eos_token_id))


def some_rows(batch: dict, rows: slice) -> dict:
    """A batch of `rows` alone, with their pictures."""
    if has_pictures(batch):  # their tensors may have a row a picture, patch or tile
        from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

        split = split_pixel_values_by_grid(batch)
        return unsplit_pixel_values_by_grid({k: _rows(v, rows) for k, v in split.items()})
    return {name: _rows(value, rows) for name, value in batch.items()}


def _rows(value, rows: slice):
    has_rows = isinstance(value, list) or (torch.is_tensor(value) and value.ndim > 0)
    return value[rows] if has_rows else value


def without_adapter(model):
    """The model itself, where PEFT has wrapped it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def positions_are_relative(model) -> bool:
    """Whether a prompt's padding may go: positions act by their differences alone, as rotary ones do."""
    config = getattr(model, "config", None)
    rotary = config and getattr(config.get_text_config(), "rope_parameters", None)
    return bool(rotary) and not any(kind in str(rotary) for kind in LENGTH_BOUND)


def cut_padding(batch: dict, *, prompts: bool, multiple: int | None = None) -> dict:
    """The batch without the columns that are padding in every row; loss and gradients stay the same.

    A micro-batch is as wide as the longest row of its whole step. Columns go at the left of the prompts,
    where `prompts` allows it, and at the right of the completions; widths stay multiples of `multiple`. A
    batch with a field (B, P), (B, T) or (B, P + T) of another name stays whole.
    """
    n_prompt, n_completion = batch["prompt_ids"].shape[1], batch["completion_ids"].shape[1]
    known = PROMPT + COMPLETION + WHOLE + PICTURES + COUNTS
    widths = (n_prompt, n_completion, n_prompt + n_completion)
    if any(_width(value) in widths for name, value in batch.items() if name not in known):
        return batch
    left = n_prompt - _longest(batch["prompt_mask"].flip(1), multiple) if prompts else 0
    kept = _longest(batch["completion_mask"], multiple)
    cut = dict(batch)
    for name in PROMPT:
        cut[name] = batch[name][:, left:]  # (B, P - left)
    for name in WHOLE:
        if batch.get(name) is not None:
            cut[name] = batch[name][:, left : n_prompt + kept]  # (B, P - left + kept)
    for name in COMPLETION:
        width = _width(batch.get(name))
        if width >= n_completion:
            # Packed to the left, a completion starts m - (its padding) columns in; both shrink by `left`.
            cut[name] = batch[name][:, : kept + max(0, width - n_completion - left)]
    return cut


def _width(value) -> int:
    return value.shape[1] if torch.is_tensor(value) and value.ndim > 1 else 0


def _longest(mask: Tensor, multiple: int | None) -> int:
    """Columns up to the last that any row uses, rounded up to a multiple; all of them where none does."""
    used, multiple = mask.any(0).nonzero(), multiple or 1  # (n, 1)
    longest = int(used[-1]) + 1 if len(used) else mask.shape[1]
    return min(mask.shape[1], -(-longest // multiple) * multiple)
