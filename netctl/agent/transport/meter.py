"""The interface of the agent's metrics (`netctl.agent.metrics`) for the rest of the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.paths.effects import PathStatus


class Meter(Protocol):
    """Metrics of tunnels and paths. Exists only with `--metrics`: the library alone takes 2 MB."""

    def path(self, key: WireGuardKey, kind: str, now: float) -> None:
        """Record a new path of a peer. `now`: monotonic seconds."""

    def observe(
        self,
        statuses: Mapping[WireGuardKey, PeerStatus],
        paths: Mapping[WireGuardKey, PathStatus],
        now: float,
    ) -> None:
        """Record the engine's counters, about once a second."""
