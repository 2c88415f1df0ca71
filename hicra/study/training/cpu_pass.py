"""Log-probabilities, entropies and their gradients on a CPU, without the padding of TRL's pass.

Rows are sorted by length and taken in small chunks, each as wide as its longest row. Their padding stands on
the right, where causal attention never looks, so no mask is needed. Linear maps may take the faster kernels
of `float32_products`; attention's small products, which are slower there, are kept off them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hicra.study.policy.float32_products import products

import torch
from torch import Tensor
from transformers import AttentionInterface

ROWS = 8  # in a chunk; 4 to 32 cost the same
NAME = "hicra_causal"  # of the attention, in transformers' registry


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


@contextmanager
def causal_attention(core) -> Iterator[None]:
    """The model attends by four matrix products a layer; its rows may be padded on the right alone."""
    AttentionInterface.register(NAME, _attend)
    before = core.config._attn_implementation
    core.set_attn_implementation(NAME)
    try:
        yield
    finally:
        core.set_attn_implementation(before)


def _attend(module, query: Tensor, key: Tensor, value: Tensor, attention_mask, scaling: float, **_):
    """transformers' interface: query (b, Hq, l, D), key and value (b, Hk, l, D) to (b, l, Hq, D)."""
    b, heads, n, size = query.shape
    queries = query.reshape(b, key.shape[1], -1, size)  # (b, Hk, Hq / Hk * l, D)
    y = _Causal.apply(queries, key, value, scaling).view(b, heads, n, size)
    return y.transpose(1, 2), None


class _Causal(torch.autograd.Function):
    """Causal attention; heads that share a key stand where queries stand, so nothing is repeated."""

    @staticmethod
    def forward(ctx, q, k, v, scale):  # (b, Hk, G l, D), (b, Hk, l, D), (b, Hk, l, D)
        n = k.shape[2]
        with products("highest"):
            scores = (q @ k.mT).mul_(scale).unflatten(2, (-1, n))  # (b, Hk, G, l, l)
            scores.masked_fill_(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
            p = scores.softmax(-1).flatten(2, 3)  # (b, Hk, G l, l)
            y = p @ v  # (b, Hk, G l, D)
        ctx.save_for_backward(q, k, v, p)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx, dy):  # (b, Hk, G l, D)
        q, k, v, p = ctx.saved_tensors
        with products("highest"):
            dp = dy @ v.mT  # (b, Hk, G l, l)
            ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * ctx.scale  # (b, Hk, G l, l)
            return ds @ k, ds.mT @ q, p.mT @ dy, None
