"""Values that are kept once, so that thousands of equal ones share their memory and are compared by identity."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(dict[K, V]):
    """At most `most` values; takes less memory than `functools.lru_cache`. Read it with `get`, and `keep` what is new.

    Full, it forgets all: whoever has a value keeps it.
    """

    __slots__ = ("_most",)

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def keep(self, name: K, value: V) -> V:
        """Remember a value; returns it."""
        if len(self) >= self._most:
            self.clear()
        self[name] = value
        return value
