"""Python's garbage collector, which only frees cycles, out of the way of what is short."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collection meanwhile: for what ends soon and makes many objects, each of which a collection would go through.

    A command imports some hundred modules and reads a thousand peers: collections took a fifth of its time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
