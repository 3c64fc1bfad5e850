"""Reads the host's own addresses and endpoints, at once after the kernel reports a change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from netctl.agent.host import Host
from netctl.agent.log import say
from netctl.agent.mediators.nat64discovery import Nat64
from netctl.agent.transport.endpointnames import EndpointNames
from netctl.agent.transport.pathrunner import PathRunner
from netctl.engine.links.linkevents import moves
from netctl.model.addresses import Prefix
from netctl.model.derive import underlay_prefix
from netctl.model.document import Document
from netctl.model.errors import EngineError, NetctlError
from netctl.model.hoststate import HostState
from netctl.node.context import Context
from netctl.node.ownport import is_fixed

LOOK_AROUND_S = 10.0
"""Interval of the reading of own addresses without a change."""


def tunnelled(desired: HostState, document: Document | None) -> frozenset[Prefix]:
    """Prefixes inside this host's tunnels: the pools of networks in which it has an address, and the underlay.

    Without the LANs behind gateways: this host may be in such a LAN itself. The kernel's routes decide on those.
    """
    networks = document.networks.values() if document is not None else ()
    pools = {pool for network in networks for pool in (network.ipv4, network.ipv6) if pool is not None}
    own = set(desired.wireguard.addresses) if desired.wireguard is not None else set()
    own |= {address for segment in desired.segments.values() for address, _ in segment.addresses}
    return frozenset(
        {pool for pool in pools if any(address in pool for address in own)} | {underlay_prefix()}
    )


class AddressMonitor:
    """Tells the path manager the addresses of this host."""

    def __init__(
        self,
        context: Context,
        host: Host,
        paths: PathRunner,
        names: EndpointNames,
        nat64: Nat64,
        on_move: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_move` is called at every change, before addresses are read."""
        self._context, self._host, self._paths, self._names = context, host, paths, names
        self._nat64 = nat64
        self._on_move = on_move

    async def look(self, document: Document | None) -> None:
        """Read the addresses now, with the options of the document. Raises EngineError."""
        if document is None or not document.mediators:
            return
        self._nat64.look()
        member = document.member_by_key(self._context.key)
        addresses = await self._host.addresses(member.interfaces if member is not None else ())
        explicit = await self._names.addresses(member.endpoints if member is not None else ())
        mapping = member is None or member.port_mapping
        guessing = member is None or member.port_guessing
        self._paths.look_around(
            explicit,
            addresses,
            port_mapping=mapping,
            port_guessing=guessing,
            port_fixed=member is not None and is_fixed(member),
        )

    async def run(self) -> None:
        """Read after every report of the kernel that links or addresses have changed. Runs until cancelled."""
        said = ""
        while True:
            try:
                async for _ in moves():
                    self._on_move()
                    with contextlib.suppress(OSError, NetctlError):  # `Tunnels` retries and reports it
                        await self.look(self._context.state.document)
            except EngineError as error:  # also raised for too many changes at once, which soon end
                if (text := f"{error}; addresses are looked at every {LOOK_AROUND_S:.0f} s") != said:
                    say(text)
                    said = text
            await asyncio.sleep(LOOK_AROUND_S)
