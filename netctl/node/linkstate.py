"""The state of the connection to the mediator, as `status` says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkState:
    """What `status` says about the connection. `state`: connected, connecting, unreachable, none."""

    state: str
    since: float
    """Monotonic seconds."""
    error: str | None = None
    final: bool = False
    """The mediator answered and refused us: trying again will not help until something is changed."""
    waits: bool = False
    """Another host with this host's key is connected. Until it is gone this one has no tunnels."""
