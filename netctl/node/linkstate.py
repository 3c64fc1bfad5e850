"""The state of the connection to the mediator, as `status` says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkState:
    """The state of the connection. `state`: connected, connecting, unreachable, none."""

    state: str
    since: float
    """Monotonic seconds."""
    error: str | None = None
    final: bool = False
    """Whether the mediator refused this host: trying again does not help until something is changed."""
    waits: bool = False
    """Whether another host with this host's key is connected. This host has no tunnels until that one is gone."""
