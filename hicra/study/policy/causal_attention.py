"""Causal attention on a CPU by two matrix products a layer, and its gradient by four more.

Where linear maps take the faster kernels of `float32_products`, transformers' attention would send its small
products there too, and be several times slower. These stay at "highest".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hicra.study.policy.float32_products import products

import torch
from torch import Tensor
from transformers import AttentionInterface

NAME = "hicra_causal"  # in transformers' registry


@contextmanager
def causal_attention(core) -> Iterator[None]:
    """The model attends by matrix products; its rows may be padded on the right alone."""
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
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # under autocast too
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
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, dy):  # (b, Hk, G l, D)
        q, k, v, p = ctx.saved_tensors
        with products("highest"):
            dp = dy @ v.mT  # (b, Hk, G l, l)
            ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * ctx.scale  # (b, Hk, G l, l)
            return ds @ k, ds.mT @ q, p.mT @ dy, None
