"""Log-probabilities, entropies and their gradients on a CPU, without the padding of TRL's pass.

Rows are sorted by length and taken in small chunks, each as wide as its longest row. Their padding stands on
the right, where causal attention never looks, so no mask is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 8  # in a chunk; 4 to 16 cost the same


def per_token(
    model,
    input_ids: Tensor,
    attention_mask: Tensor,
    width: int,
    skipped: Tensor,
    values: tuple[Tensor, Tensor],
) -> list[Tensor]:
    """Log-probability and entropy of the last `width` columns, T, of `input_ids` (B, P + T), both (B, T).

    TRL's fused head must be on the model; one that makes no entropies gives the first alone. Rows that are
    `skipped`, bool (B,), have no gradient and take their `values`, (B, T) each; 0 on padding.
    """
    columns = torch.arange(input_ids.shape[1])  # (P + T,)
    left = (attention_mask[:, :-width] == 0).sum(1)  # (B,), padding before the prompt
    lengths = attention_mask.sum(1)  # (B,)
    ids = input_ids.gather(1, (columns + left[:, None]).clamp(max=len(columns) - 1))  # (B, P + T), moved left
    first = len(columns) - width - left  # (B,), where the completion begins
    outside = (columns < first[:, None]) | (columns >= lengths[:, None])  # (B, P + T)
    labels = ids.masked_fill(outside, -100)
    order = lengths.argsort(stable=True)  # (B,)
    where, found = [], []
    for rows in order[~skipped[order]].split(ROWS):  # (b,)
        longest = int(lengths[rows].max())
        chosen = labels[rows, :longest]  # (b, l)
        outputs = model(input_ids=ids[rows, :longest], labels=chosen, fused_lm_head=True)
        row, column = (chosen[:, 1:] != -100).nonzero(as_tuple=True)  # (N,) each; predicted one before
        where.append(torch.stack([rows[row], column + 1 - first[rows[row]]]))  # (2, N)
        made = (v for v in (outputs.log_probs, outputs.entropy) if v is not None)  # (b, l - 1) each
        found.append(torch.stack([v[row, column] for v in made]))  # (1 or 2, N)
    at = tuple(torch.cat(where, 1))  # (M,), (M,)
    given = (v.where(skipped[:, None], 0) for v in values)  # (B, T) each
    return [v.index_put(at, new) for v, new in zip(given, torch.cat(found, 1), strict=False)]
