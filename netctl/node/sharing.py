"""One key on two hosts (a cloned disk), as those hosts know it: the mediator finds out, and tells both."""

from __future__ import annotations

from dataclasses import dataclass

from netctl.node.linkstate import LinkState

SHARED_NOTE_S = 600.0
"""A host that waits tries again every minute: so long without it, and it is over. So it is at the mediator."""
ADVICE = (
    "each host needs keys of its own: on the copy, stop netctl, move away its state directory, and let it join or "
    "add it to the document as another member"
)


@dataclass(frozen=True, slots=True)
class Sharing:
    """Another host with this host's key was heard of."""

    other: str
    """Where it tries to log in from; empty: this host waited for that one, which is gone."""
    at_s: float
    """Monotonic."""


def shared_key(link: LinkState, sharing: Sharing | None, now_s: float) -> str | None:
    """What `status` and `doctor` say of another host with this host's key; None: there is none."""
    if link.waits:
        return f"this host has no tunnels: {link.error or 'another host with its key is connected'}"
    if sharing is None or now_s - sharing.at_s >= SHARED_NOTE_S:
        return None
    ago = f"{max(0.0, now_s - sharing.at_s):.0f} s ago"
    if not sharing.other:
        return f"until {ago} another host with this host's key was connected"
    return f"another host with this host's key tried to log in from {sharing.other} {ago}, and waits"
