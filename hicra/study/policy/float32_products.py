"""Which kernels multiply 32-bit matrices on a CPU: the faster ones, where they are shown to be 32-bit.

torch's precision "medium" sends linear maps to oneDNN, which on some processors is twice as fast as MKL, and
lets it round to bfloat16 inside where the processor has such instructions (AMX). So what it gives is
compared with 64 bits first. Small products, as attention's, are slower there: they stay at "highest".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch

Precision = Literal["highest", "medium"]
SIZE = 512  # of the product that is compared
EXACT = 1e-6  # relative error in the Frobenius norm: 32 bits give 3e-7, bfloat16 2e-3


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Products inside are made at torch's `precision`; the precision of before is restored."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def linear_precision(device: str = "cpu") -> Precision:
    """The precision of linear maps: "medium" on a processor where that is 32-bit, else "highest"."""
    if device != "cpu":
        return "highest"
    draws = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, SIZE, SIZE, generator=draws, dtype=torch.float64)  # (SIZE, SIZE) each
    wanted = left @ right
    with products("medium"):
        found = left.float() @ right.float()
    return "medium" if (found - wanted).norm() <= EXACT * wanted.norm() else "highest"
