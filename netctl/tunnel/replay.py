"""The sliding replay window (paper §5.4.6; RFC 6479 for the idea), made for whole batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netctl.tunnel.constants import REJECT_AFTER_MESSAGES, WINDOW_SIZE

_MASK = WINDOW_SIZE - 1
_STEPS: NDArray[np.uint64] = np.arange(WINDOW_SIZE, dtype=np.uint64)
_NEVER: NDArray[np.uint64] = _STEPS ^ np.uint64(1)  # slot i holds a number that can never stand in slot i


class ReplayWindow:
    """Which of the last 8,192 counters of a keypair were seen: ``ring[counter & 8191] == counter``.

    Call `accept_*` only after the packet has been authenticated.
    """

    __slots__ = ("_ring", "greatest")

    def __init__(self) -> None:
        self._ring: NDArray[np.uint64] = _NEVER
        self.greatest = -1
        """The highest counter accepted; -1: none yet."""

    def check_one(self, counter: int) -> bool:
        """Whether `counter` would be accepted. Changes nothing, so it can be called before decryption."""
        if counter > self.greatest:
            return counter < REJECT_AFTER_MESSAGES
        return counter > self.greatest - WINDOW_SIZE and int(self._ring[counter & _MASK]) != counter

    def accept_one(self, counter: int) -> bool:
        """Take `counter` as seen. False, and nothing changed: a duplicate, too old, or past the limit."""
        if not self.check_one(counter):
            return False
        self._own_ring()[counter & _MASK] = counter
        if counter > self.greatest:
            self.greatest = counter
        return True

    def accept_run(self, first: int, n: int) -> bool:
        """Take the counters `first` … `first + n - 1` at once, as if one by one in order.

        False, and nothing changed: not all of them are new (call `accept_one` for each), or `n` is not 1-8192.
        """
        end = first + n
        if not 1 <= n <= WINDOW_SIZE or end > REJECT_AFTER_MESSAGES or first <= self.greatest - WINDOW_SIZE:
            return False
        ring = self._own_ring()
        values = _STEPS[:n] + np.uint64(first)
        start = first & _MASK
        head = min(n, WINDOW_SIZE - start)
        if first <= self.greatest and (
            (ring[start : start + head] == values[:head]).any() or (ring[: n - head] == values[head:]).any()
        ):
            return False
        ring[start : start + head] = values[:head]
        ring[: n - head] = values[head:]
        if end - 1 > self.greatest:
            self.greatest = end - 1
        return True

    def _own_ring(self) -> NDArray[np.uint64]:
        # The ring takes 64 KB, so a keypair gets one only with its first received packet.
        if self._ring is _NEVER:
            self._ring = _NEVER.copy()
        return self._ring
