"""Runs the further sockets of the birthday method and the rewrites of ports, in the agent's event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

from netctl.agent.log import warn
from netctl.engine.filter.rewrites import Rewrites
from netctl.engine.port.batches import BatchSockets
from netctl.model.addresses import SocketAddress
from netctl.model.errors import NetctlError
from netctl.paths.effects import BatchEffect, CloseBatch, OpenBatch, Rewrite, SendFrom
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks

Opened = Callable[[int, tuple[int, ...]], None]
Heard = Callable[[int, int, bytes, SocketAddress], None]


class BatchRunner:
    """Performs the path manager's effects on further sockets. The rewrites outlive the agent, as the tunnels do."""

    def __init__(self, rewrites: Rewrites, opened: Opened, heard: Heard, guard: Guard | None = None) -> None:
        """`guard` counts input with unexpected exceptions."""
        self._guard = guard if guard is not None else Guard(warn)
        self._tasks = Tasks(self._guard)
        self._rewrites = rewrites
        self._opened = opened
        self._heard = heard
        self._sockets = BatchSockets()
        self._listen_port = 0
        self._wanted: dict[SocketAddress, tuple[int, int]] = {}
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._sockets.fileno(), self._readable)
        self._tasks.keep("loading rewrites of ports", self._load)

    def use_port(self, listen_port: int) -> Mapping[SocketAddress, int]:
        """Set the engine's port, 0: none. Returns the rewrites of an earlier agent for this port, which continue."""
        if listen_port == self._listen_port:
            return {}
        for local_port, _ in self._wanted.values():
            self._sockets.release(local_port)
        self._listen_port = listen_port
        before = self._rewrites.read() if listen_port else frozenset()
        self._wanted = {
            one.remote: (one.local_port, one.listen_port)
            for one in before
            if one.listen_port == listen_port and self._sockets.keep(None, one.local_port)
        }
        self._changed.set()
        return {remote: local_port for remote, (local_port, _) in self._wanted.items()}

    def use_ipv6(self, wanted: bool) -> None:
        """Set whether sockets opened from now on send by IPv6, to addresses behind a NAT64."""
        self._sockets.family = socket.AF_INET6 if wanted else socket.AF_INET

    def perform(self, effect: BatchEffect) -> None:
        """Perform one effect. Failures count as lost packets."""
        match effect:
            case OpenBatch(batch, count):
                self._opened(batch, self._sockets.open(batch, count))
            case SendFrom(batch, index, destination, data):
                self._sockets.send(batch, index, destination, data)
            case CloseBatch(batch):
                self._sockets.close_batch(batch)
            case Rewrite(remote, local_port, wanted, batch):
                if wanted and self._sockets.keep(batch, local_port):
                    self._wanted[remote] = local_port, self._listen_port
                elif not wanted and self._wanted.get(remote, (0, 0))[0] == local_port:
                    del self._wanted[remote]
                    self._sockets.release(local_port)
                self._changed.set()

    def _readable(self) -> None:
        for batch, index, data, source in self._sockets.receive():
            self._guard.run("a datagram", self._heard, batch, index, data, source)

    async def _load(self) -> None:
        """Load changed tables, one at a time; changes during a load are loaded together."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await asyncio.to_thread(self._rewrites.set, dict(self._wanted))
            except (NetctlError, OSError) as error:
                warn(f"no path by the birthday method: {error}")

    def close(self) -> None:
        """Close the sockets; the rewrites stay."""
        self._tasks.cancel()
        asyncio.get_running_loop().remove_reader(self._sockets.fileno())
        self._sockets.close()
