"""After an apply: do the tunnels answer that should? Waited for, for a bounded time.

One peer that does not answer is a warning: it may be its own fault. Only where tunnels were up before, are still
wanted, and not one of them answers any more, has this apply cut the host off: then it is taken back.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from netctl.model.document import Document
from netctl.model.keys import WireGuardKey
from netctl.node.events import MAX_NAMED, Verified

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

HANDSHAKE_WAIT_S = 5.0
"""A handshake takes a round trip, through the relay two; the first knock may be lost, the next comes after 5 s."""
LOOK_S = 0.2


async def verify(agent: Agent, document: Document, live_before: frozenset[WireGuardKey]) -> Verified:
    """Wait for handshakes with the peers that are there: online at the mediator, or with a session before."""
    expected = agent.tunnels.wanted_peers() & (live_before | _online(agent))
    if not expected:
        return Verified()
    deadline = time.monotonic() + agent.handshake_wait_s
    await agent.tunnels.observe()
    for key in expected - agent.tunnels.live:
        agent.tunnels.knock_at(key)
    while expected - agent.tunnels.live and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_S)
        await agent.tunnels.observe()
    silent = expected - agent.tunnels.live
    lost = live_before & silent
    names = tuple(sorted(_name(document, key) for key in silent))
    if lost and not live_before & agent.tunnels.live & agent.tunnels.wanted_peers():
        gone = ", ".join(sorted(_name(document, key) for key in lost)[:MAX_NAMED])
        return Verified(f"no tunnel that was up before answers ({gone})", names)
    return Verified(None, names)


def _online(agent: Agent) -> frozenset[WireGuardKey]:
    view = agent.state.view
    if view is None:
        return frozenset()
    return frozenset(key for key, member in view.members.items() if member.online)


def _name(document: Document, key: WireGuardKey) -> str:
    member = document.member_by_key(key)
    return member.name if member is not None else key.short
