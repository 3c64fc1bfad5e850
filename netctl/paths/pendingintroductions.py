"""Keeps introductions of peers that this host has not set up yet, since a new member causes both at the same time."""

from __future__ import annotations

from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c
from netctl.wire.control import Introduction


class EarlyIntroductions:
    """The last introduction of each key, kept for a short time. Without it a new pair would lose its first round."""

    def __init__(self) -> None:
        self._kept: dict[WireGuardKey, tuple[float, Introduction]] = {}

    def put(self, key: WireGuardKey, message: Introduction, now: float) -> None:
        """Keep an introduction; the oldest one is dropped past the limit."""
        self._kept.pop(key, None)
        if len(self._kept) >= c.EARLY_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = now, message

    def take(self, key: WireGuardKey, now: float) -> Introduction | None:
        """Remove and return the introduction of a peer that is set up now; None: none, or too old."""
        at, message = self._kept.pop(key, (float("-inf"), None))
        return message if now - at <= c.EARLY_FOR else None

    def peers(self) -> list[WireGuardKey]:
        """The peers whose introductions are kept, oldest first."""
        return list(self._kept)

    def clear(self) -> None:
        """Forget all introductions, after the mediator has gone."""
        self._kept.clear()
