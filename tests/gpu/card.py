"""What the checks share: a line of the table, the card, and the model on which it is tried."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).parents[2]
GB = 1e9
GPU = torch.cuda.is_available()
# Half precision as the card has it: a T4 has no bfloat16.
DTYPE = "float32" if not GPU else "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16"


class Row(NamedTuple):
    """A line of the table. `wanted` is empty where a number is only told."""

    what: str
    found: str
    wanted: str = ""
    well: bool = True


def card_name() -> str:
    return re.sub(r"\W+", "-", torch.cuda.get_device_name() if GPU else "CPU")


def card_memory() -> float:
    """GB of the first card, 0 without one."""
    return torch.cuda.get_device_properties(0).total_memory / GB if GPU else 0.0


def base_folder() -> Path:
    """SmolLM2-135M from its package; without a GPU the made world's base."""
    from hicra.study.policy.base_models import base_folder as folder

    from hicra.study.profiles import get_profile

    return folder(get_profile("smollm2", warm_start_steps=0) if GPU else get_profile("families"))
