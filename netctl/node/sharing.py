"""What a host knows of another host with the same key (a cloned disk): the mediator notices it and tells both."""

from __future__ import annotations

from dataclasses import dataclass

from netctl.node.linkstate import LinkState

SHARED_NOTE_S = 600.0
"""Seconds without a login of the other host until it counts as gone, here and at the mediator: it retries every
minute.
"""
ADVICE = (
    "each host needs keys of its own: on the copy, stop netctl, move away its state directory, and let it join or "
    "add it to the document as another member"
)


@dataclass(frozen=True, slots=True)
class Sharing:
    """Another host with this host's key was reported."""

    other: str
    """The address from which it tries to log in; empty: this host waited for that one, and it is gone."""
    at_s: float
    """Monotonic."""


def shared_key(link: LinkState, sharing: Sharing | None, now_s: float) -> str | None:
    """The `status` and `doctor` text about another host with this host's key; None: there is none."""
    if link.waits:
        return f"this host has no tunnels: {link.error or 'another host with its key is connected'}"
    if sharing is None or now_s - sharing.at_s >= SHARED_NOTE_S:
        return None
    ago = f"{max(0.0, now_s - sharing.at_s):.0f} s ago"
    if not sharing.other:
        return f"until {ago} another host with this host's key was connected"
    return f"another host with this host's key tried to log in from {sharing.other} {ago}, and waits"
