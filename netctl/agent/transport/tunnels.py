"""Observes the tunnels: sessions and counters; opens tunnels that have a path but no session."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from netctl.agent.host import Host, knock
from netctl.agent.log import warn
from netctl.agent.runner import Runner
from netctl.agent.transport.addressmonitor import LOOK_AROUND_S, AddressMonitor
from netctl.agent.transport.endpointnames import EndpointNames
from netctl.agent.transport.meter import Meter
from netctl.agent.transport.pathrunner import PathRunner
from netctl.agent.transport.standstill import Standstill
from netctl.model.addresses import Address
from netctl.model.hoststate import WIREGUARD_LINK, PeerStatus, is_session
from netctl.model.keys import WireGuardKey
from netctl.node import events as on
from netctl.node.context import reason_of
from netctl.system.clock import boottime
from netctl.system.clockalarm import ClockAlarm

OBSERVE_S = 1.0
RESTING_S = 10.0
"""The same while all peers are folded up. What goes out rings at the agent; what comes in has its way already."""
FRESH_S = 0.3
"""Highest age of data in `status` while a pair is open; more frequent requests do not reach the engine."""
FAULTS_EVERY_S = 30.0
"""Interval of reading the engine's count of faults, which only people read."""
KNOCK_S = 5.0
"""WireGuard's own retry interval (Rekey-Timeout)."""


class Tunnels:
    """Observes the engine once a second."""

    def __init__(
        self,
        runner: Runner,
        host: Host,
        paths: PathRunner,
        addresses: AddressMonitor,
        names: EndpointNames,
        on_wake: Callable[[float, float], None] = lambda _, __: None,
    ) -> None:
        """`on_wake` receives for how long the host stood still, and how much of that it was suspended, in seconds,
        before any other work.
        """
        self._on_wake = on_wake
        self._names = names
        self._runner, self._host, self._paths, self._addresses = runner, host, paths, addresses
        self._context = runner.node.context
        self.meter: Meter | None = None
        self.statuses: Mapping[WireGuardKey, PeerStatus] = {}
        self.live: frozenset[WireGuardKey] = frozenset()
        """The peers with a session."""
        self.engine_faults = 0
        """Count of inputs that the engine could not handle and dropped since its start."""
        self._asked_at = -FAULTS_EVERY_S
        self._observed_at = -FRESH_S
        self._knocked: dict[WireGuardKey, float] = {}
        self._wake: asyncio.Event = asyncio.Event()
        """Set when the next observation is due early."""

    async def run(self) -> None:
        """Observe until cancelled."""
        with self._woken_by_jumps():
            await self._observe_for_ever()

    async def _observe_for_ever(self) -> None:
        looked = -LOOK_AROUND_S
        standstill = Standstill(boottime(), time.monotonic())
        while True:
            rest_s = RESTING_S if self._paths.resting else OBSERVE_S
            standstill.rests(boottime())
            await self._rest(rest_s)
            if stood_s := standstill.rested(boottime(), time.monotonic(), rest_s):
                self._on_wake(stood_s, standstill.suspended_s)
                self._reopen(time.monotonic())
            if self._context.state.desired.wireguard is None:
                continue
            try:
                await self.observe()
                now = time.monotonic()
                if now - looked >= LOOK_AROUND_S:
                    looked = now
                    if self._context.trouble is not None:
                        self._runner.post(on.ReconcileWanted())
                    await self._addresses.look(self._context.state.document)
                self._open(now)
            except Exception as error:
                warn(reason_of(error))

    async def _rest(self, rest_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rest_s):
                await self._wake.wait()
        self._wake.clear()

    @contextlib.contextmanager
    def _woken_by_jumps(self) -> Iterator[None]:
        """Meanwhile an observation is due as soon as this host resumes. Without such a clock it is not early."""
        try:
            alarm = ClockAlarm()
        except OSError:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(alarm.fileno(), self._jumped, alarm)
        try:
            yield
        finally:
            loop.remove_reader(alarm.fileno())
            alarm.close()

    def _jumped(self, alarm: ClockAlarm) -> None:
        if alarm.acknowledge():
            self._wake.set()

    def _reopen(self, now: float) -> None:
        """After suspend: open the tunnels that have no path to be proven first; the path manager opens the others.

        A knock that is lost, because its path is dead, would keep WireGuard from trying again for KNOCK_S.
        """
        link = self._context.state.desired.wireguard
        paths = self._paths.status()
        for key, peer in link.peers.items() if link is not None else ():
            self._knocked[key] = now
            if key not in paths and not peer.lazy:
                self.knock_at(key)

    def look_soon(self, after_s: float) -> None:
        """Observe again after `after_s` seconds at the latest."""
        asyncio.get_running_loop().call_later(after_s, self._wake.set)

    async def observe(self) -> None:
        """Read the status of the tunnels, and pass it on."""
        self.statuses = await self._host.observe()
        self._observed_at = time.monotonic()
        if self._observed_at - self._asked_at >= FAULTS_EVERY_S:
            self._asked_at = self._observed_at
            self.engine_faults = await self._host.faults()
        now = time.time()
        live = frozenset(
            key
            for key, status in self.statuses.items()
            if status.last_handshake_s and is_session(status.last_handshake_s, now)
        )
        if live != self.live:
            self.live = live
            self._runner.post(on.SessionsChanged(live))
        self._paths.observe(self.statuses)
        self._names.observe(self.statuses, live)
        if self.meter is not None:
            self.meter.observe(self.statuses, self._paths.status(), self._observed_at)

    def _open(self, now: float) -> None:
        """Knock at peers that have a path but no session."""
        if not self._context.state.knows:
            return
        for key, kind in self._paths.steady().items():
            if kind == "none" or key in self.live or now - self._knocked.get(key, 0.0) < KNOCK_S:
                continue
            self._knocked[key] = now
            self.knock_at(key)

    def knock_at(self, key: WireGuardKey) -> None:
        """Send an empty packet to a peer through the tunnel."""
        if (address := self.address_of(key)) is not None:
            knock(address, WIREGUARD_LINK)

    def address_of(self, key: WireGuardKey) -> Address | None:
        """A peer's address inside the tunnel, IPv4 if it has one; None: it has none."""
        link = self._context.state.desired.wireguard
        peer = link.peers.get(key) if link is not None else None
        hosts = [p for p in peer.allowed_ips if p.prefixlen == p.max_prefixlen] if peer is not None else []
        return min(hosts, key=lambda p: p.version).network_address if hosts else None

    async def refresh(self) -> None:
        """Observe if the last observation is old; does not wait for an apply.

        While all peers are folded up, their counters stand still, and the last regular observation is new enough.
        """
        old = time.monotonic() - self._observed_at > (RESTING_S if self._paths.resting else FRESH_S)
        if old and self._context.state.desired.wireguard is not None and not self._runner.node.busy:
            await self.observe()

    def gone(self) -> None:
        """The link is removed: clear its status, as nothing observes it."""
        self.statuses, self.live, self.engine_faults = {}, frozenset(), 0
