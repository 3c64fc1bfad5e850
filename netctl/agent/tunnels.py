"""What the tunnels do: sessions, counters, and a knock where a path has none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from netctl.agent.host import knock
from netctl.agent.talk import reason_of, warn
from netctl.model.hoststate import WIREGUARD_LINK, PeerStatus, is_session
from netctl.model.keys import WireGuardKey

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

OBSERVE_S = 1.0
FRESH_S = 0.3
"""Whoever asks for the status sees nothing older than this; asking more often costs the engine nothing."""
LOOK_AROUND_S = 10.0
"""How often own addresses are looked up."""
KNOCK_S = 5.0
"""WireGuard's own retry interval (Rekey-Timeout)."""


class Tunnels:
    """Belongs to one agent; looks at the engine once a second."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.statuses: Mapping[WireGuardKey, PeerStatus] = {}
        self.live: frozenset[WireGuardKey] = frozenset()
        """The peers that a session with is up."""
        self._observed_at = -FRESH_S
        self._knocked: dict[WireGuardKey, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        agent = self._agent
        looked = -LOOK_AROUND_S
        while True:
            await asyncio.sleep(OBSERVE_S)
            if agent.state.desired.wireguard is None:
                continue
            try:
                await self.observe()
                now = time.monotonic()
                if now - looked >= LOOK_AROUND_S:
                    looked = now
                    if agent.trouble is not None:
                        agent.wanted.set()
                    await agent.surroundings.look(agent.state.document)
                self._open(now)
            except Exception as error:
                warn(reason_of(error))

    async def observe(self) -> None:
        """Look at what the tunnels do."""
        agent = self._agent
        self.statuses = await agent.host.observe()
        self._observed_at = time.monotonic()
        live = frozenset(
            key for key, status in self.statuses.items() if is_session(status.last_handshake_s, time.time())
        )
        if live != self.live:  # whoever looked first: broadcast follows the sessions
            self.live = live
            agent.wanted.set()
        agent.paths.observe(self.statuses)
        if agent.meters is not None:
            agent.meters.observe(self.statuses, agent.paths.status(), self._observed_at)

    def wanted_peers(self) -> frozenset[WireGuardKey]:
        """The peers that the host should have."""
        agent = self._agent
        return frozenset(
            agent.state.desired.wireguard.peers if agent.state.desired.wireguard is not None else ()
        )

    def _open(self, now: float) -> None:
        """Knock at peers that have a path and no session."""
        agent = self._agent
        if not agent.state.knows:
            return
        for key, path in agent.paths.status().items():
            if path.kind == "none" or key in self.live or now - self._knocked.get(key, 0.0) < KNOCK_S:
                continue
            self._knocked[key] = now
            self.knock_at(key)

    def knock_at(self, key: WireGuardKey) -> None:
        """Make a packet want to go to a peer."""
        agent = self._agent
        peer = (
            agent.state.desired.wireguard.peers.get(key)
            if agent.state.desired.wireguard is not None
            else None
        )
        hosts = [p for p in peer.allowed_ips if p.prefixlen == p.max_prefixlen] if peer is not None else []
        if hosts:
            knock(min(hosts, key=lambda p: p.version).network_address, WIREGUARD_LINK)

    async def refresh(self) -> None:
        """Look again if the last look is old; never behind an apply."""
        agent = self._agent
        old = time.monotonic() - self._observed_at > FRESH_S
        if old and agent.state.desired.wireguard is not None and not agent.lock.locked():
            await self.observe()

    def gone(self) -> None:
        """There is no link any more, and nobody observes one that is not there."""
        self.statuses, self.live = {}, frozenset()
