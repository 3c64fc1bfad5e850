"""Introductions of peers that this host has not set up yet: both happen at once when a member is new."""

from __future__ import annotations

from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c
from netctl.wire.control import Introduction


class EarlyIntroductions:
    """The last one of each key, for a short while. Without it a new pair loses its first round."""

    def __init__(self) -> None:
        self._kept: dict[WireGuardKey, tuple[float, Introduction]] = {}

    def put(self, key: WireGuardKey, message: Introduction, now: float) -> None:
        """Keep it; the oldest makes room."""
        self._kept.pop(key, None)
        if len(self._kept) >= c.EARLY_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = now, message

    def take(self, key: WireGuardKey, now: float) -> Introduction | None:
        """That of a peer that is set up now; None: there was none, or too long ago."""
        at, message = self._kept.pop(key, (float("-inf"), None))
        return message if now - at <= c.EARLY_FOR else None

    def clear(self) -> None:
        """The mediator has gone: its word is old."""
        self._kept.clear()
