"""The binding of a plan: digests of the states that it was made for, without what changes by itself every second."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from netctl.model.hoststate import HostState
from netctl.plan.describe import plain


@dataclass(frozen=True, slots=True)
class Binding:
    """The document, the host's state and the desired state for which a plan is valid."""

    document: str
    """SHA-256 of its text, hex."""
    observed: str
    desired: str

    def stale(self, now: Binding) -> str | None:
        """Why a plan made under this binding is not valid any more; None while it is."""
        if self.document != now.document:
            return "the document is another one"
        if self.observed != now.observed:
            return "the host has changed since"
        if self.desired != now.desired:
            return "the mediator has said something new since, or what is down has changed"
        return None


def state_digest(state: HostState) -> str:
    """SHA-256 (hex) of a state; equal for two states between which nobody changed anything.

    Left out: endpoints (the paths' business), flood entries (they follow the sessions), and where things come from in
    the document.
    """
    link = state.wireguard
    if link is not None:
        peers = {key: replace(peer, endpoint=None, path="") for key, peer in sorted(link.peers.items())}
        own = link.addresses | link.underlay
        link = replace(link, peers=peers, addresses=own, underlay=frozenset())
    steady = replace(
        state,
        wireguard=link,
        segments={
            name: replace(segment, flood=frozenset(), network="") for name, segment in state.segments.items()
        },
        routes=frozenset(replace(route, path="") for route in state.routes),
    )
    return hashlib.sha256(json.dumps(plain(steady), sort_keys=True).encode()).hexdigest()
