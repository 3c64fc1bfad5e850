"""What counts for whoever reads figures, as far as the rest of the agent knows it (`netctl.agent.metrics`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.paths.effects import PathStatus


class Meter(Protocol):
    """There is one only where somebody reads it: the library alone takes two megabytes."""

    def path(self, key: WireGuardKey, kind: str, now: float) -> None:
        """A pair has another path. `now`: monotonic seconds."""

    def observe(
        self,
        statuses: Mapping[WireGuardKey, PeerStatus],
        paths: Mapping[WireGuardKey, PathStatus],
        now: float,
    ) -> None:
        """What the engine has counted, about once a second."""
