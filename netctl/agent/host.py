"""The host behind one worker thread: the engine blocks, the agent's event loop must not."""

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
    """An engine, opened on first use in the thread that uses it."""

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
        """Let go; the host keeps what it has."""
        if self._engine is not None:
            await self._run(lambda engine: engine.close())
        if self._addresses is not None:
            self._addresses.close()
        self._thread.shutdown(wait=False)

    async def apply(
        self, desired: HostState, progress: Callable[[str], None], seen: HostState | None = None
    ) -> ApplyOutcome:
        """Bring the host to `desired`; an engine that cannot even be read is an outcome too.

        `seen`: nothing is changed when the host is not as it was seen.
        """
        try:
            return await self._run(lambda engine: apply_plan(engine, desired, progress=progress, seen=seen))
        except EngineError as error:
            return ApplyOutcome(0, error=str(error), rolled_back=True)

    async def plan(self, desired: HostState) -> Plan:
        """What would change. Raises EngineError."""
        return await self._run(lambda engine: diff(desired, engine.read()))

    async def prune(self, desired: HostState, at_most: int, progress: Callable[[str], None]) -> ApplyOutcome:
        """Remove what is ours and not in `desired`. Raises EngineError."""
        return await self._run(lambda engine: apply_prune(engine, desired, at_most, progress=progress))

    async def foreign(self) -> Foreign:
        """What is in the way on this host. Raises EngineError."""
        return await self._run(lambda engine: engine.foreign())

    async def packet_filter(self) -> PacketFilter:
        """The host's own firewall. Raises EngineError."""
        return await self._run(lambda engine: engine.packet_filter())

    async def link_stands(self) -> bool:
        """Whether the WireGuard link is there. Raises EngineError."""
        return await self._run(lambda engine: engine.link_stands())

    async def tables_stand(self) -> bool:
        """Whether our nftables tables are as they were loaded. Raises EngineError."""
        return await self._run(lambda engine: engine.tables_stand())

    async def restore_tables(self) -> Restored:
        """Put our nftables tables back as they were loaded. Raises EngineError."""
        return await self._run(lambda engine: engine.restore_tables())

    async def restore_routes(self, desired: HostState) -> int:
        """Set routes and addresses again that are gone; how many. Raises EngineError."""
        return await self._run(lambda engine: engine.restore_routes(desired))

    async def limit_sizes(self, link: str, sizes: Mapping[Prefix, int]) -> None:
        """Let our routes over a link carry so many bytes, those not named as many as the link. Raises EngineError."""
        await self._run(lambda engine: engine.limit_sizes(link, sizes))

    def troubles(self) -> tuple[str, ...]:
        """What could not be done the last time and nothing else waits for."""
        return self._engine.troubles() if self._engine is not None else ()

    async def retry(self) -> None:
        """Try once more what `troubles` names."""
        await self._run(lambda engine: engine.retry())

    async def read(self) -> HostState:
        """What the host has now. Raises EngineError."""
        return await self._run(lambda engine: engine.read())

    async def observe(self) -> Mapping[WireGuardKey, PeerStatus]:
        """What the tunnels are doing; nothing where the engine does not say."""
        try:
            return await self._run(lambda engine: engine.observe())
        except EngineError:
            return {}

    async def steer(self, key: WireGuardKey, endpoint: SocketAddress) -> None:
        """Set an endpoint; a peer or engine that is gone meanwhile is no error."""
        try:
            await self._run(lambda engine: engine.steer(key, endpoint))
        except EngineError:
            return

    async def port(self) -> tuple[str, int]:
        """The engine's kind and UDP port."""
        return await self._run(lambda engine: (engine.kind, engine.listen_port()))

    async def data_path(self) -> str:
        """What moves the engine's packets, for people."""
        return await self._run(lambda engine: engine.data_path())

    async def faults(self) -> int:
        """What the engine could not handle since it began."""
        return await self._run(lambda engine: engine.faults())

    async def addresses(self, patterns: Sequence[str] = ()) -> list[Address]:
        """Own addresses that others could use, of interfaces that these patterns allow."""

        def look(_: Engine) -> list[Address]:
            if self._addresses is None:
                self._addresses = LocalAddresses()
            return self._addresses.read(patterns)

        return await self._run(look)


def knock(address: Address, link: str) -> None:
    """Make a packet want to go to a peer, so that its tunnel opens now and not when somebody needs it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as knocker:
        knocker.setblocking(False)
        try:
            knocker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
            knocker.sendto(b"", (str(address), DISCARD_PORT))
        except OSError:
            return
