"""Whether this host stood still, and for how long: two clocks tell."""

from __future__ import annotations

SUSPENDED_S = 0.5
"""Least suspend that counts. The kernel's WireGuard gives up its sessions before any suspend, so the shortest counts;
while a host runs, the two clocks advance together to the microsecond."""
STOPPED_S = 5.0
"""Least delay without suspend after which the process counts as stopped, or unable to run."""


class Standstill:
    """Compares the clocks from one look to the next. Arguments: CLOCK_BOOTTIME and CLOCK_MONOTONIC in seconds."""

    def __init__(self, boot_s: float, monotonic_s: float) -> None:
        self._boot_s, self._ahead_s = boot_s, boot_s - monotonic_s
        self.suspended_s = 0.0
        """For how long the host was suspended between the last two looks, in seconds."""

    def rests(self, boot_s: float) -> None:
        """A rest begins."""
        self._boot_s = boot_s

    def rested(self, boot_s: float, monotonic_s: float, rest_s: float) -> float:
        """For how long the host stood still, in seconds, after a rest of `rest_s` at most; 0: it did not."""
        ahead_s = boot_s - monotonic_s
        self.suspended_s, self._ahead_s = max(0.0, ahead_s - self._ahead_s), ahead_s
        if self.suspended_s >= SUSPENDED_S:
            return self.suspended_s
        late_s = boot_s - self._boot_s - rest_s
        return late_s if late_s >= STOPPED_S else 0.0
