"""Log-probability and entropy of every completion token, by a pass of our own: the same on every backend."""

from __future__ import annotations

from hicra.errors import MissingExtraError

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("token_statistics", "torch", "trl") from error

from hicra.errors import HicraError

POSITIONS = 512  # scored at once: in 32 bit, all of a long completion would not fit beside the logits


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
            raise HicraError(
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
