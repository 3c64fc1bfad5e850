"""Corrects the times of handshakes for steps of the wall clock.

Engines report the wall clock's time of a peer's last handshake. After a step of the wall clock, that time is wrong:
broadcast would leave out peers with a session for two minutes, and people would read of a handshake in the future. So
a handshake that is new in a reading is dated after the reading before, by a clock that no program can set.
"""

from __future__ import annotations

from collections.abc import Mapping

from netctl.model.keys import WireGuardKey


class Handshakes:
    """The handshakes of one engine. `boot_now`: CLOCK_BOOTTIME; `unix_now`: the wall clock, which may step."""

    def __init__(self) -> None:
        self._seen: dict[WireGuardKey, tuple[float, float]] = {}
        """For each peer the engine's time of the last handshake, and the same in CLOCK_BOOTTIME."""
        self._looked_at: float | None = None

    def settled(
        self, told: Mapping[WireGuardKey, float], unix_now: float, boot_now: float
    ) -> dict[WireGuardKey, float]:
        """All peers' last handshakes as Unix time by the present wall clock; 0 is never, in `told` as well."""
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
