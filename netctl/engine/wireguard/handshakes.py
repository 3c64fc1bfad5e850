"""When handshakes were, whatever became of the clock since.

Every engine tells the wall clock's time of a peer's last handshake. Once that clock is set, the time is another
clock's: broadcast would leave out peers with a session for two minutes, and people would read of a handshake in the
future. So what is new at a look happened since the look before, by a clock that nobody sets.
"""

from __future__ import annotations

from collections.abc import Mapping

from netctl.model.keys import WireGuardKey


class Handshakes:
    """Of one engine. `boot_now`: CLOCK_BOOTTIME; `unix_now`: the wall clock, which may step."""

    def __init__(self) -> None:
        self._seen: dict[WireGuardKey, tuple[float, float]] = {}
        """What the engine told of each peer, and when that was by CLOCK_BOOTTIME."""
        self._looked_at: float | None = None

    def settled(
        self, told: Mapping[WireGuardKey, float], unix_now: float, boot_now: float
    ) -> dict[WireGuardKey, float]:
        """All peers' handshakes as Unix time of the present clock; 0 is never, and is told as 0."""
        since = boot_now - self._looked_at if self._looked_at is not None else None
        seen: dict[WireGuardKey, tuple[float, float]] = {}
        for key, told_s in told.items():
            if told_s <= 0:
                continue
            known = self._seen.get(key)
            if known is None or known[0] != told_s:
                age = max(0.0, unix_now - told_s)
                known = told_s, boot_now - (age if since is None else min(age, since))
            seen[key] = known
        self._seen, self._looked_at = seen, boot_now
        return {key: unix_now - boot_now + seen[key][1] if key in seen else 0.0 for key in told}
