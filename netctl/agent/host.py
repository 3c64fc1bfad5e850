"""The host's engine in a worker thread, since engine calls block and the event loop must not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from netctl.engine import ApplyOutcome, Engine, Restored, apply_plan, apply_prune
from netctl.engine.links.interfaces import LocalAddresses
from netctl.model.addresses import Address, Prefix, SocketAddress
from netctl.model.errors import EngineError
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState, PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.model.packetfilter import PacketFilter
from netctl.plan import Plan, diff

T = TypeVar("T")
DISCARD_PORT = 9  # RFC 863


class Host:
    """An engine. Its first call opens it, in the worker thread."""

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        self._open = open_engine
        self._engine: Engine | None = None
        self._addresses: LocalAddresses | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    async def _run(self, call: Callable[[Engine], T]) -> T:
        def work() -> T:
            if self._engine is None:
                self._engine = self._open()
            return call(self._engine)

        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Close the engine; the host's state stays."""
        if self._engine is not None:
            await self._run(lambda engine: engine.close())
        if self._addresses is not None:
            self._addresses.close()
        self._thread.shutdown(wait=False)

    async def apply(
        self, desired: HostState, progress: Callable[[str], None], seen: HostState | None = None
    ) -> ApplyOutcome:
        """Bring the host to `desired`. An EngineError becomes an outcome without changes.

        `seen`: change nothing if the host's state differs from this one.
        """
        try:
            return await self._run(lambda engine: apply_plan(engine, desired, progress=progress, seen=seen))
        except EngineError as error:
            return ApplyOutcome(0, error=str(error), rolled_back=True)

    async def plan(self, desired: HostState) -> Plan:
        """The changes that lead to `desired`. Raises EngineError."""
        return await self._run(lambda engine: diff(desired, engine.read()))

    async def prune(self, desired: HostState, at_most: int, progress: Callable[[str], None]) -> ApplyOutcome:
        """Remove our objects that are not in `desired`. Raises EngineError."""
        return await self._run(lambda engine: apply_prune(engine, desired, at_most, progress=progress))

    async def foreign(self) -> Foreign:
        """Foreign links, routes and addresses of this host. Raises EngineError."""
        return await self._run(lambda engine: engine.foreign())

    async def packet_filter(self) -> PacketFilter:
        """The host's own firewall. Raises EngineError."""
        return await self._run(lambda engine: engine.packet_filter())

    async def link_stands(self) -> bool:
        """Whether the WireGuard link exists. Raises EngineError."""
        return await self._run(lambda engine: engine.link_stands())

    async def tables_stand(self) -> bool:
        """Whether our nftables tables are as they were loaded. Raises EngineError."""
        return await self._run(lambda engine: engine.tables_stand())

    async def restore_tables(self) -> Restored:
        """Load our nftables tables again if they are missing or changed. Raises EngineError."""
        return await self._run(lambda engine: engine.restore_tables())

    async def restore_routes(self, desired: HostState) -> int:
        """Set missing routes and addresses again; returns their count. Raises EngineError."""
        return await self._run(lambda engine: engine.restore_routes(desired))

    async def limit_sizes(self, link: str, sizes: Mapping[Prefix, int]) -> None:
        """Set the MTU in bytes of our routes over a link; other routes get the link's MTU. Raises EngineError."""
        await self._run(lambda engine: engine.limit_sizes(link, sizes))

    def troubles(self) -> tuple[str, ...]:
        """Sentences on failed work that no other step waits for: the hosts file, openings in the firewall."""
        return self._engine.troubles() if self._engine is not None else ()

    async def retry(self) -> None:
        """Retry the failed work in `troubles`."""
        await self._run(lambda engine: engine.retry())

    async def read(self) -> HostState:
        """The host's present state. Raises EngineError."""
        return await self._run(lambda engine: engine.read())

    async def observe(self) -> Mapping[WireGuardKey, PeerStatus]:
        """The status of the tunnels; empty if the engine does not answer."""
        try:
            return await self._run(lambda engine: engine.observe())
        except EngineError:
            return {}

    async def steer(
        self,
        endpoints: Mapping[WireGuardKey, SocketAddress],
        anew: frozenset[WireGuardKey] = frozenset(),
    ) -> None:
        """Set the endpoints of peers, in one call of the engine; no error if a peer is gone. Raises
        EngineError.

        `anew`: peers whose sessions and handshakes the engine forgets.
        """
        await self._run(lambda engine: engine.steer(endpoints, anew))

    async def port(self) -> tuple[str, int]:
        """The engine's kind and UDP port."""
        return await self._run(lambda engine: (engine.kind, engine.listen_port()))

    async def data_path(self) -> str:
        """The engine's data path, as text for people."""
        return await self._run(lambda engine: engine.data_path())

    async def faults(self) -> int:
        """Count of inputs that the engine could not handle and dropped since its start."""
        return await self._run(lambda engine: engine.faults())

    async def addresses(self, patterns: Sequence[str] = ()) -> list[Address]:
        """This host's addresses that peers could use, on interfaces that match the patterns."""

        def look(_: Engine) -> list[Address]:
            if self._addresses is None:
                self._addresses = LocalAddresses()
            return self._addresses.read(patterns)

        return await self._run(look)


def knock(address: Address, link: str) -> None:
    """Send an empty packet to a peer through the link, so that the tunnel opens before it is needed."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as knocker:
        knocker.setblocking(False)
        try:
            knocker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
            knocker.sendto(b"", (str(address), DISCARD_PORT))
        except OSError:
            return
