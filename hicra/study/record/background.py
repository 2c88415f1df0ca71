"""A function at work in a thread while a `with` lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_background(work: Callable[..., None], *arguments) -> Iterator[None]:
    """`work(*arguments, stop)` until the `with` ends; it should return soon after the event `stop` is set."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(*arguments, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
