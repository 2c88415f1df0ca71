"""A function called in a process of its own: the memory it took, a GPU's too, is back when it ends."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from hicra.errors import HicraError

Result = TypeVar("Result")


def in_own_process(function: Callable[..., Result], *arguments) -> Result:
    """What `function(*arguments)` gives or raises, all of it picklable. HicraError where it was killed."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            told = f"the process of {function.__name__} was killed, most likely for want of memory"
            raise HicraError(f"{told}; free some, or choose a smaller model") from error
