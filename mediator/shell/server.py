"""The mediator's server: TLS control connections, STUN, the watched document, the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import resource
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core import relayregistry as rr
from mediator.core.acceptance import other_ports
from mediator.core.admissionlimiter import AdmissionLimiter, Ban, Offence
from mediator.core.busmessages import Presence
from mediator.core.generations import RESERVE, first_generation
from mediator.core.membershipservice import STORE_AWAY, MembershipService, Offered
from mediator.core.peers import GATHER_MANY_S
from mediator.core.transactions import Job
from mediator.shell.admin import AdminServer
from mediator.shell.bus.buslink import BusLink
from mediator.shell.bus.messagebus import Bus
from mediator.shell.connection import Connection
from mediator.shell.credentials import ALPN, Identity
from mediator.shell.documentnotes import DocumentNotes
from mediator.shell.listener import Listener
from mediator.shell.membershiprunner import MembershipRunner, unix_now
from mediator.shell.memberstore import MemberStore
from mediator.shell.metrics import HealthPage, Meters
from mediator.shell.pairstore import HubPairs, PairReader, PairSource
from mediator.shell.passing import Passer
from mediator.shell.relayplace import PAIRS_FILE, PairFile, RelayPlace, UnheldPorts
from mediator.shell.steadyclock import SteadyClock
from mediator.shell.store import STORE_FILE
from mediator.shell.storeplace import open_store
from mediator.shell.storethread import StoreThread
from mediator.shell.stunserver import StunServer, check_own
from mediator.shell.tlsstream import TlsStream
from mediator.shell.watched import WatchedDocument
from netctl.model.document import Document, Mediator
from netctl.model.errors import LocalError, NetctlError
from netctl.model.forpeople import counted
from netctl.model.keys import WireGuardKey
from netctl.system.guard import Guard
from netctl.system.sdnotify import notify, watchdog_s
from netctl.system.tasks import Tasks, awaited, watch_loop
from netctl.wire import operatorrequests as r
from netctl.wire.control import Error, Login, encode
from netctl.wire.registration import REGISTER_ALPN
from netctl.wire.registration import encode as encode_to_relay
from netctl.wire.relayframe import RELAY_ALPN

_LOG = logging.getLogger("mediator.server")

MAX_CONNECTIONS = 60_000
"""Below the default number of open files of a service with systemd's LimitNOFILE."""
SLOW_STORE_S = 1.0
"""A working store answers in milliseconds. After this time, changes that do not need its answer are sent."""
GATHER_S = 0.05
"""Delay of news for many members, to gather more: well below what a person notices."""
GATHER_AT_MOST_S = 0.25
ANSWERS_S = 0.01
"""Delay of news after a message with presence was sent or received over the bus: all mediators send theirs at the same
time, so what the others have to say comes within this time.
"""
GATHER_PART = 3
"""Delay of the next flush, in durations of the last one, so that sending takes at most a quarter of the time: when five
thousand members reconnect at once, single messages about each would leave no time for their logins.
"""
ANY = "::"
"""Listen on all addresses. For asyncio that is None, as it makes `::` IPv6 only."""
WATCH_S = 0.25
"""Interval of checks of the document's file: a change reaches members well within a second."""
MAX_REASONS = 8
"""Different reasons of a refusing store that are logged, each once and not per attempt."""
TICK_S = 1.0
"""Also the interval of requests for the state of a shared store."""
LOOK_S = 1.0
"""Longest wait of a login for a reading of the store, if the member has seen a newer state than this mediator."""
READ_ONLY = (
    "The mediator starts all the same: members that it knows log in and meet. Nobody can join, leave, be revoked or "
    "get a new address until there is room"
)


class Server:
    """All of `netctl-mediator serve` except the relay, which is a separate process."""

    def __init__(
        self,
        *,
        document: Path,
        state: Path,
        listen: str,
        secret: bytes,
        stun_also: str = "",
        relay_state: Path | None = None,
        store: MemberStore | None = None,
        metrics: str | None = None,
        bus: Bus | None = None,
    ) -> None:
        """`stun_also`: another IPv4 address of this host that STUN may answer from.

        `store`: None: the store in the state directory.

        `bus`: reaches the other mediators of the store.

        `metrics`: HOST:PORT for `/metrics`, `/healthz` and `/readyz`.

        `relay_state`: the directory of a relay of another user; None: the relay uses `state`.
        """
        self.guard = Guard(_LOG.warning)
        """Counts input that raised an unexpected exception."""
        self._listen = listen
        self._stun_also = stun_also
        self._identity = Identity.load(state)
        self._watched = WatchedDocument(document, self._identity.public, state)
        self._store: MemberStore = store if store is not None else StoreThread(open_store(state))
        self._tasks = Tasks(self.guard)
        self._keeping = asyncio.Lock()
        self._longest_stall_s = 0.0
        """Longest delay of the event loop so far."""
        self._hub = h.Hub(
            self._identity.public,
            self._identity.private.sign,
            secret,
            stun_also=stun_also,
            agree=self._identity.agree,
        )
        self._registry = rr.RelayRegistry(
            self._identity.public, lambda: self._service.document, self._told_pairs
        )
        self._hub.registered = self._registry
        self._hub.unheld_apart = self._registry.unheld
        self._told: tuple[int, rr.Told] | None = None
        """The pairs with stock apps, and the hub's revision at which they were so."""
        self._reserved = 0
        self._reading = False
        """Whether a thread reads the document's file."""
        self._polling = False
        self._looking = asyncio.Lock()
        self._catching_up = False
        self._reported = 0
        """The highest number of a state that other mediators have named since the last reading."""
        self._offered: Offered | None = None
        """The file's document, until the store has answered."""
        self._refused: set[str] = set()
        """Reasons of the store's refusals since its last success: a lock is reported by several texts."""
        self._service = MembershipService(self._hub)
        self.membership = MembershipRunner(
            self._service, self._store, self._later, self.perform, self._grants_s
        )
        self._admin = AdminServer(self.membership, state, document)
        self._admin.add(r.ServerStatusRequest, lambda _: self.status())
        self._notes = DocumentNotes(self._store, str(document))
        self._loaded_s = time.time()
        self._connections: dict[int, Connection] = {}
        self._limiter = AdmissionLimiter(random.random)
        self._listener: Listener | None = None
        self._relay_state = relay_state or state
        self._unheld = UnheldPorts(self._relay_state)
        self._clock = SteadyClock(self._relay_state)
        self._passer = Passer(self._relay_state)
        in_file = isinstance(self._store, StoreThread)
        pairs: PairSource = PairReader(state / STORE_FILE) if in_file else HubPairs(self._hub)
        self._place: RelayPlace | PairFile | None = None
        if relay_state is not None:
            self._place = RelayPlace(
                relay_state, self._identity, secret, pairs, lambda: self._watched.good_text
            )
        elif not in_file:
            self._place = PairFile(state, pairs)
        else:  # left by an earlier store in PostgreSQL
            (state / PAIRS_FILE).unlink(missing_ok=True)
        self._gathering: list[Connection] = []
        self._flush_due: asyncio.TimerHandle | None = None
        self._flush_took_s = 0.0
        self._admin.add(r.ListBans, lambda _: self._bans())
        self._admin.add(r.LiftBan, self._lift)
        self._meters: Meters | None = None
        self._page: HealthPage | None = None
        if metrics is not None:
            self._meters = meters = Meters()
            self._store.took = lambda seconds, kept: meters.store(seconds, kept=kept)
            self._page = HealthPage(metrics, meters, self._gauges, lambda: self.guard.dropped, self._unready)
        self._link: BusLink | None = None
        if bus is not None:
            if self._meters is not None:
                bus.took = self._meters.bus
            self._link = BusLink(bus, self._hub, self.perform, self.guard)
        self._next = 0
        self._stun: list[StunServer] = []

    def status(self) -> dict[str, Any]:
        """The data of `netctl-mediator status`."""
        document = self._service.document
        return {
            "document": {
                **self._watched.status(document, time.time() - self._loaded_s),
                "store_refused": self._service.refusal,
            },
            "generation": self._hub.generation,
            "relay_state": str(self._relay_state),
            "members": len(document.members),
            "online": self._hub.online,
            "networks": len(document.networks),
            "bans": len(self._limiter.bans(time.monotonic())),
            "connections": len(self._connections),
            "tasks": len(asyncio.all_tasks()),
            "store": self._store.takes_nothing,
            "longest_stall_s": round(self._longest_stall_s, 3),
            "faults": self.guard.dropped,
            "relay_ports": {
                port: member.name
                for member in document.members.values()
                if member.wireguard is not None and (port := self._hub.relay_port(member.wireguard))
            },
            "without_port": self._hub.without_port,
            "relays": self._registry.status(time.monotonic()),
            "without_address": [item.message for item in self._hub.exhausted],
            **(self._link.status() if self._link is not None else {}),
        }

    def _gauges(self) -> dict[str, tuple[str, float]]:
        return {
            "members": ("Members of the document", float(len(self._service.document.members))),
            "online": ("Members that are logged in", float(self._hub.online)),
            "connections": ("Connections, logged in or not", float(len(self._connections))),
            "bans": ("Addresses that may not connect now", float(len(self._limiter.bans(time.monotonic())))),
            "generation": ("Generation of the membership", float(self._hub.generation)),
            "shared_keys": (
                "Keys that two hosts had in the last ten minutes (cloned disks)",
                float(len(self._hub.duplicates(time.monotonic()))),
            ),
            "store_away": ("1 while the store takes nothing", float(self._store.takes_nothing is not None)),
            "document_refused": (
                "1 while the file or the store's document is refused and the last good one is in force",
                float(self._watched.refusal is not None or self._service.refusal is not None),
            ),
            "document_disagrees": (
                "1 while the file is not the document that several mediators have in force",
                float(self._watched.disagrees(self._service.document.digest) is not None),
            ),
            "relays_registered": ("Relays apart that are registered here", float(len(self._registry))),
            "relays_away": (
                "Relays apart of the document that are not registered here",
                float(sum(1 for row in self._registry.status(time.monotonic()) if not row["registered"])),
            ),
            **(self._link.gauges() if self._link is not None else {}),
            "longest_stall_seconds": ("So late the event loop once was", self._longest_stall_s),
        }

    def _unready(self) -> str | None:
        """Why no new member can be admitted; None: the server is ready."""
        if self._service.refusal is not None:
            return (
                f"the document in force is refused here, and an older one is served: {self._service.refusal}"
            )
        return self._store.takes_nothing

    async def load(self) -> Mediator:
        """Read the document and the store for the first time; a standby waits here. Raises NetctlError.

        Also starts the pages for monitoring.
        """
        if self._store.shared:
            return await self._load_shared()
        document, mediator = self._watched.load()
        if mediator.relay_only:
            raise LocalError(
                f"{mediator.host}:{mediator.port} is a `role: relay` of the document: run `netctl-mediator relay` here"
            )
        if self._watched.refusal is not None:
            _LOG.warning(self._watched.said_at_start())
        if (said := other_ports(document, mediator)) is not None:
            _LOG.warning(said)
        if self._page is not None:
            await self._page.start()
        await self._open_store()
        if self._store.takes_nothing is not None:
            _LOG.warning(f"{self._store.takes_nothing} {READ_ONLY}")
        kept = await self._store.kept()
        first = first_generation(int(time.time()), kept.generation)
        self._hub.restore(
            kept.leases, kept.ports, kept.pairs, kept.resting, generation=first, store=kept.name
        )
        self._service.book = kept.book
        await self._reserve()
        self.perform(self._service.set_document(document, mediator, self._grants_s()))
        await self._tasks.wait(SLOW_STORE_S)
        self._tasks.start("keeping the document", self._keep_document())
        self._note_document(document)
        return mediator

    async def _load_shared(self) -> Mediator:
        """`load` for a store that several mediators share: the store's document is in force, not the file's."""
        own, fallback = self._watched.load_shared()
        if fallback is not None:
            self._service.document, self._service.mediator = fallback
        if self._page is not None:
            await self._page.start()
        await self._open_store()
        # Above all earlier generations, even if an old copy of the store was restored.
        await self._store.reserve_generation(first_generation(int(time.time()), 0))
        kept = await self._store.kept()
        self._hub.restore({}, {}, generation=kept.generation, store=kept.name)
        changed = await asyncio.to_thread(self._watched.is_changed)
        entering = self._service.enter(kept, own, unix_now(), changed=changed)
        try:
            await self.membership.carry(entering)
        except LocalError as error:
            raise LocalError(f"{error}\n{self._watched.refusal}" if own is None else str(error)) from error
        mediator = self._service.mediator
        assert mediator is not None
        if own is not None:
            await self._settled(own)
        for said in (self._watched.refusal, self._watched.disagrees(self._service.document.digest)):
            if said is not None:
                _LOG.warning(said)
        await self._tasks.wait(SLOW_STORE_S)
        return mediator

    async def _settled(self, offered: Offered) -> None:
        said = await asyncio.to_thread(self._watched.settled, offered)
        if said is not None:
            _LOG.warning(said)

    def store_moved(self, number: int) -> None:
        """Another mediator reports the number of the store's state: read the state if it is new.

        One task reads, whatever comes meanwhile. While the store is away, the poll after its return finds the state.
        """
        self._reported = max(self._reported, number)
        if self._catching_up or not self._store.shared or self._store.takes_nothing is not None:
            return
        if number > self._service.number:
            self._catching_up = True
            self._tasks.start("a look at the store", self._catch_up())

    async def _catch_up(self) -> None:
        """Read the store until this mediator has the reported state, or a reading brings nothing new."""
        try:
            before = -1
            while before < self._service.number < self._reported:
                before = self._service.number
                if not await self._carry_on(self._service.catch_up(self._reported)):
                    return
        finally:
            self._catching_up = False
            self._reported = 0

    async def _carry_on(self, job: Job[Any]) -> bool:
        """Whether the store has answered; else the next tick asks again."""
        try:
            await self.membership.carry(job)
        except LocalError:
            return False
        return True

    async def _poll(self) -> None:
        try:
            if (offered := self._offered) is None:
                await self._carry_on(self._service.poll())
            elif await self._carry_on(self._service.offer(offered, unix_now())):
                self._offered = None if self._offered is offered else self._offered
                await self._settled(offered)
        finally:
            self._polling = False

    def _look(self) -> None:
        """Ask the store for changes of other mediators, and offer it this one's file."""
        if not self._polling and self._store.takes_nothing is None:
            self._polling = True
            self._tasks.start("a look at the store", self._poll())

    async def _look_first(self, number: int, login: Login) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S if self._store.takes_nothing is None else 0), self._looking:
                if self._hub.generation < login.newest:  # else the look for another login was enough
                    await self._carry_on(self._service.poll())
        self.perform(self._hub.login_again(number, login, time.monotonic()))

    def _took(self, content: str, document: Document) -> None:
        """Take another document from the store."""
        self._watched.take(content)
        self._loaded_s = time.time()
        self._tasks.start("keeping the document", self._keep_document())
        mediator = self._service.mediator
        if mediator is not None and (said := other_ports(document, mediator)) is not None:
            _LOG.warning(said)
        _LOG.info(
            f"from the store: document {document.digest[:12]}, {counted(len(document.members), 'member')}, "
            f"{counted(len(document.networks), 'network')}"
        )

    def _note_document(self, document: Document) -> None:
        self._notes.accepted(document.digest, self._watched.good_origin, int(time.time()))
        self._tasks.start("a line of the audit log", self._notes.write())

    async def _open_store(self) -> None:
        """Open the store. While a standby waits, report readiness to systemd."""
        limit = watchdog_s()
        tick = TICK_S if limit is None else min(TICK_S, limit / 3)
        opening = awaited(self._store.open())
        try:
            while not (await asyncio.wait({opening}, timeout=tick))[0]:
                if self._store.takes_nothing is not None:
                    notify("READY=1\nWATCHDOG=1")
            await opening
        except asyncio.CancelledError:
            opening.cancel()
            await asyncio.wait({opening})
            raise

    async def _keep_document(self) -> None:
        """Save a copy of the document, for a later start with a broken file."""
        async with self._keeping:
            said = await asyncio.to_thread(self._watched.keep)
        if said is not None:
            _LOG.info(said)

    async def start(self, mediator: Mediator) -> None:
        """Listen on all ports. Raises LocalError if a port is in use."""
        watch_loop(asyncio.get_running_loop(), self.guard)
        if self._link is not None:
            self._link.start(f"{mediator.host}:{mediator.port}")
        context = self._identity.server_context(ALPN, REGISTER_ALPN)
        listener = Listener(
            context,
            lambda source, ticket: Connection(self, source, ticket),
            self._limiter,
            time.monotonic,
            _say_ban,
            _say_full,
            self._divert,
            self.guard,
        )
        self._listener = listener
        for port in sorted({mediator.port, *mediator.tls}):
            try:
                listener.listen(self._listen, port, both=self._listen == ANY)
            except OSError as error:
                if port == mediator.port:
                    raise _cannot_listen("TCP", port, error) from error
                _LOG.warning(
                    f"TCP port {port} cannot be had ({_reason(error)}): members reach this server at {mediator.port}"
                )
        if self._stun_also:
            check_own(self._stun_also)
        for port in mediator.stun:
            try:
                stun = StunServer(self._listen, port, self._stun_also, self.guard)
            except OSError as error:
                raise _cannot_listen("UDP", port, error) from error
            stun.start()
            self._stun.append(stun)
        for one, other in zip(self._stun, [*self._stun[1:], *self._stun[:1]], strict=True):
            one.sibling = other if other is not one else None
        await self._admin.start()
        _LOG.info(f"listening on TCP {mediator.port}, STUN {', '.join(map(str, mediator.stun))}")

    async def run(self) -> None:
        """Run timers and watches until cancelled, then close everything."""
        limit = watchdog_s()
        tick = TICK_S if limit is None else min(TICK_S, limit / 3)
        self.guard.run("the relay's directory", self._keep_place)
        notify("READY=1")
        try:
            ticked = time.monotonic()
            while True:
                due = time.monotonic() + WATCH_S
                await asyncio.sleep(WATCH_S)
                if self._store.replaced is not None:
                    raise LocalError(f"{self._store.replaced}: this one ends, and its members go there")
                self._longest_stall_s = max(self._longest_stall_s, time.monotonic() - due)
                self.guard.run("a look at the document", self._reload)
                self.guard.run("the relay's directory", self._keep_place)
                if time.monotonic() - ticked >= tick:
                    ticked = time.monotonic()
                    notify("WATCHDOG=1")
                    self.guard.run("a timer", self._tick)
        finally:
            await self.close()

    async def close(self) -> None:
        """Close everything that was opened."""
        notify("STOPPING=1")
        await self._admin.close()
        self.perform(self._hub.leave_bus())
        if self._page is not None:
            self._page.close()
        if self._listener is not None:
            self._listener.close()
        self._passer.close()
        if self._place is not None:
            self._place.close()
        for stun in self._stun:
            stun.close()
        for connection in list(self._connections.values()):
            connection.end(Error("mediator.stopping", "the mediator is being stopped"))
        if self._link is not None:
            await self._link.close()
        await self._tasks.end()
        await self._store.close()
        if self._listener is not None:
            self._listener.hang_up()

    def _keep_place(self) -> None:
        if self._place is not None and (said := self._place.keep()) is not None:
            _LOG.info(said)
        self._hub.beside.told(self._unheld.look(), time.monotonic())
        for one in self._stun:
            one.load, one.spread = self._unheld.load, self._hub.spread

    async def _look_again(self) -> None:
        """Read the store again: a commit without an answer may have been kept."""
        await self._carry_on(self._service.look_again())

    def _tick(self) -> None:
        if self._store.in_doubt and self._store.takes_nothing is None:
            self._tasks.start("a fresh look at the store", self._look_again())
        self.perform(self._hub.handle_timer(time.monotonic(), self._grants_s()))
        self._perform_for_relays(self._registry.handle_timer(time.monotonic()))
        if self._store.shared:
            self._look()
        elif self._hub.generation + RESERVE // 2 > self._reserved:
            self._tasks.start("a reservation of generations", self._reserve())
        if self._notes.due:
            self._tasks.start("a line of the audit log", self._notes.write())

    def _later(self, seconds: float, call: Callable[[], None]) -> object:
        return asyncio.get_running_loop().call_later(seconds, self.guard.over("what was put off", call))

    def _challenge(self, connection: int) -> list[fx.Effect]:
        private = X25519PrivateKey.generate()

        def agree(key: WireGuardKey) -> bytes:
            return private.exchange(X25519PublicKey.from_public_bytes(key.raw))

        return self._hub.challenged(connection, WireGuardKey(private.public_key().public_bytes_raw()), agree)

    async def _reserve(self) -> None:
        """Reserve generations in the store, so that the next run begins above this run's."""
        first, self._reserved = not self._reserved, self._hub.generation + RESERVE
        try:
            await self._store.reserve_generation(self._reserved)
        except LocalError as error:
            if first:
                _LOG.warning(f"{error}; the clock alone keeps generations in order until there is room")

    def _grants_s(self) -> int:
        return int(self._clock.unix())

    def _reload(self) -> None:
        """If the file has changed, have a thread read it: for thousands of members that takes long."""
        if not self._reading and self._watched.is_touched():
            self._reading = True
            self._tasks.start("a look at the document", self._read_document())

    async def _read_document(self) -> None:
        try:
            found = await asyncio.to_thread(self._watched.look)
        finally:
            self._reading = False
        if isinstance(found, str):
            _LOG.info(found)
        elif found is not None and self._store.shared:
            self._offered = self._watched.in_file()
            self._look()
        elif found is not None:
            document, mediator = found
            try:
                self.perform(self._service.set_document(document, mediator, self._grants_s()))
            except NetctlError as error:
                _LOG.warning(self._watched.refuse(f" {error}"))
                return
            self._loaded_s = time.time()
            self._tasks.start("keeping the document", self._keep_document())
            self._note_document(document)
            members, networks = (
                counted(len(document.members), "member"),
                counted(len(document.networks), "network"),
            )
            _LOG.info(f"{self._watched.path}: {members}, {networks}")

    def _divert(self, connection: socket.socket, protocols: tuple[bytes, ...]) -> bool:
        """Pass a connection for the relay on to it. Without a relay the connection just ends, without an offence."""
        if RELAY_ALPN.encode() not in protocols:
            return False
        self._passer.give(connection)
        return True

    # -- connections ----------------------------------------------------------------------------------------

    def accept(self, connection: Connection, transport: TlsStream) -> None:
        """A TLS handshake is done."""
        wrong = transport.alpn is None
        if wrong or len(self._connections) >= MAX_CONNECTIONS:
            if wrong:
                self._offend(connection, "tls")
            self._admitted_no_more(connection)
            transport.abort()
            return
        self._next += 1
        connection.number = self._next
        self._connections[connection.number] = connection
        nonce = secrets.token_bytes(32)
        if transport.alpn == REGISTER_ALPN:
            self._perform_for_relays(self._registry.connected(connection.number, nonce, time.monotonic()))
            return
        self.perform(self._hub.connected(connection.number, connection.source, nonce, time.monotonic()))

    def _admitted_no_more(self, connection: Connection, *, logged_in: bool = False) -> None:
        if connection.unauthenticated and self._listener is not None:
            connection.unauthenticated = False
            if logged_in:
                self._listener.authenticated(connection.ticket)
            else:
                self._listener.leave(connection.ticket)

    def _offend(self, connection: Connection, offence: Offence | None) -> None:
        if offence is not None and connection.unauthenticated and self._listener is not None:
            self._listener.offend(connection.source, offence)

    def garbage(self, connection: Connection) -> None:
        """A connection sent what no client of ours sends."""
        self._offend(connection, "garbage")

    def _bans(self) -> r.BansReply:
        bans = [
            r.Ban(ban.source, round(ban.left_s, 1), ban.refused)
            for ban in self._limiter.bans(time.monotonic())
        ]
        slowed = [r.Slowed(self._name(item.key), item.refused) for item in self._hub.pace.slowed()]
        return r.BansReply(bans, slowed, self._limiter.unauthenticated)

    def _name(self, key: WireGuardKey) -> str:
        """The name of the member with this key."""
        return next(
            (member.name for member in self._service.document.members.values() if member.wireguard == key),
            str(key),
        )

    def _lift(self, request: r.LiftBan) -> r.LiftedReply:
        name = request.source
        keys = [item.key for item in self._hub.pace.slowed() if name in (self._name(item.key), str(item.key))]
        pardoned = [self._hub.pace.forgive(key) for key in keys]
        if not self._limiter.unban(name) and not pardoned:
            raise LocalError(f"nothing is held against '{name}'; `netctl-mediator bans` lists who is banned")
        return r.LiftedReply(name)

    def frame(self, connection: Connection, payload: bytes) -> None:
        """A complete frame arrived."""
        if not self.guard.run("a frame", self._received, connection.number, payload):
            connection.end(
                Error("frame.failed", "the mediator could not handle this message; its log says why")
            )

    def _received(self, number: int, payload: bytes) -> None:
        if self._registry.has(number):
            self._perform_for_relays(self._registry.received(number, payload, time.monotonic()))
            return
        self.perform(self._hub.received(number, payload, time.monotonic(), self._grants_s()))

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._admitted_no_more(connection)
        if self._connections.pop(connection.number, None) is None:
            return
        if self._registry.has(connection.number):
            self._registry.disconnected(connection.number)
            return
        self.perform(self._hub.disconnected(connection.number))

    # -- relays apart ---------------------------------------------------------------------------------------

    def _told_pairs(self) -> rr.Told:
        if self._told is None or self._told[0] != self._hub.revision:
            first = self._hub.first_relay_port()
            self._told = self._hub.revision, rr.Told(self._hub.generation, first, self._hub.pair_ports())
        return self._told[1]

    def _perform_for_relays(self, effects: list[rr.Effect]) -> None:
        for effect in effects:
            target = self._connections.get(effect.connection)
            if target is None:
                continue
            match effect:
                case rr.Tell(_, messages, known):
                    if known:
                        self._admitted_no_more(target, logged_in=True)
                        target.known()
                    for message in messages:
                        target.send(encode_to_relay(message))
                case rr.End(number, error):
                    del self._connections[number]
                    self._offend(target, "garbage" if error.code in rr.OFFENCES else None)
                    self._admitted_no_more(target)
                    target.end(error)

    def _deliver(self, numbers: tuple[int, ...], payloads: tuple[bytes, ...]) -> None:
        """Send payloads: to one member at once; to many after a short wait for more, which saves writes."""
        if len(numbers) == 1:  # a view after login: the member waits for it
            target = self._connections.get(numbers[0])
            if target is not None:
                target.gather(payloads)
                target.flush()
        else:
            self._gather(numbers, payloads, GATHER_S)

    def _gather(self, numbers: tuple[int, ...], payloads: tuple[bytes, ...], wait_s: float) -> None:
        """Send payloads to members together with what else comes within this time."""
        for number in numbers:
            target = self._connections.get(number)
            if target is not None and target.gather(payloads):
                self._gathering.append(target)
        self._flush_within(wait_s)

    def _flush_within(self, wait_s: float) -> None:
        """Send what is gathered after this time, or sooner if that was said before; later if sending takes long."""
        if not self._gathering:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + min(max(wait_s, GATHER_PART * self._flush_took_s), GATHER_AT_MOST_S)
        if self._flush_due is not None:
            if self._flush_due.when() <= due:
                return
            self._flush_due.cancel()
        self._flush_due = loop.call_at(due, self._flush)

    def _flush(self) -> None:
        began = time.thread_time()  # without the time of other processes
        gathering, self._gathering, self._flush_due = self._gathering, [], None
        for target in gathering:
            self.guard.run("news for a member", target.flush)
        self._flush_took_s = time.thread_time() - began

    async def _commit(self, wanted: fx.Store, behind: list[fx.Effect]) -> None:
        """Have the store commit, then perform `behind`; if the store is slow, perform `behind` before."""
        commit = awaited(self.membership.carry(self._service.grant(wanted)))
        try:
            await asyncio.wait({commit}, timeout=SLOW_STORE_S)
            if not commit.done():
                self.perform([*self._hub.store_is_slow(), *behind])
                behind = []
            stored = await commit
        except asyncio.CancelledError:
            commit.cancel()
            raise
        except LocalError as error:
            if str(error) not in self._refused and len(self._refused) < MAX_REASONS:
                self._refused.add(str(error))
                _LOG.warning(f"no new leases: {error}; it is asked again until it takes them")
            self.perform([*self._hub.refused(time.monotonic()), *behind])
            return
        if self._refused:
            self._refused.clear()
            _LOG.info("the store takes leases again")
        self.perform([*stored, *behind])

    async def _ask(self, job: Job[list[fx.Effect]], behind: list[fx.Effect]) -> None:
        """Run a job that needs the store, then perform `behind`."""
        try:
            effects = await self.membership.carry(job)
        except Exception:
            self.perform(behind)
            raise
        self.perform([*effects, *behind])

    def perform(self, effects: list[fx.Effect]) -> None:
        """Perform the core's effects in order. An effect that waits for the store delays only the effects after it."""
        if self._link is not None:
            self._link.look(self._service.number)
        pending = list(reversed(effects))
        while pending:
            effect = pending.pop()
            match effect:
                case fx.Send(number, message):
                    target = self._connections.get(number)
                    if target is not None and _goes_on(pending, number):
                        target.gather((encode(message),))
                    elif target is not None:
                        target.send(encode(message))
                case fx.Deliver(numbers, payloads):
                    if self._meters is not None:
                        self._meters.told(len(numbers))
                    if isinstance(effect, fx.News) and self._link is not None:
                        wait_s = ANSWERS_S if effect.elsewhere else GATHER_MANY_S + ANSWERS_S
                        self._gather(numbers, payloads, wait_s)
                    else:
                        self._deliver(numbers, payloads)
                case fx.Drop(number, error):
                    if self._meters is not None:
                        self._meters.dropped(error.code)
                    target = self._connections.pop(number, None)
                    if target is not None:
                        self._offend(target, offence_of(error.code))
                        self._admitted_no_more(target)
                        target.end(error)
                case fx.LoggedIn(number, _):
                    if self._meters is not None:
                        self._meters.logged_in()
                    target = self._connections.get(number)
                    if target is not None:
                        self._admitted_no_more(target, logged_in=True)
                        target.known()
                case fx.Store() as wanted:
                    self._tasks.start("a commit", self._commit(wanted, pending[::-1]))
                    return
                case fx.Say(text):
                    _LOG.info(text)
                case fx.TookDocument(content, document):
                    self._took(content, document)
                case fx.LookFirst(number, login):
                    self._tasks.start("a look at the store", self._look_first(number, login))
                case fx.Publish(message):
                    if self._link is not None:
                        self._link.publish(message)
                        if isinstance(message, Presence):
                            self._flush_within(ANSWERS_S)
                case fx.StoreMoved(state):
                    self.store_moved(state)
                case fx.Challenge(number):
                    pending.extend(reversed(self._challenge(number)))
                case fx.Redeem() as request:
                    job = self._service.redeem(request, unix_now())
                    self._tasks.start("an enrolment", self._ask(job, pending[::-1]))
                    return
                case fx.Left() as request:
                    job = self._service.leave(request, unix_now())
                    self._tasks.start("a leave", self._ask(job, pending[::-1]))
                    return
                case fx.Rekey() as request:
                    job = self._service.rekey(request, unix_now())
                    self._tasks.start("a change of keys", self._ask(job, pending[::-1]))
                    return


def _goes_on(pending: list[fx.Effect], number: int) -> bool:
    """Whether the next effect sends more to this connection alone: both then leave in one TLS record and one packet."""
    match pending[-1] if pending else None:
        case fx.Send(following) | fx.Deliver((following,)):
            return following == number
    return False


def offence_of(code: str) -> Offence | None:
    """What a source has done that is refused with this code before its login; None: nothing."""
    if code.startswith("session"):  # the fault of one member, not of its neighbours behind the same NAT
        return None
    if code == STORE_AWAY:  # the mediator's own fault: a class room may try again and again
        return None
    if code.endswith("timeout"):
        return "timeout"
    if code.startswith(("invite", "enrol", "rotate")):
        return "invite"
    return "login" if code.startswith("login") else "garbage"


def _say_ban(ban: Ban) -> None:
    _LOG.warning(f"{ban.source} is banned for {ban.left_s:.0f} s: too many connections that led to no login")


def _say_full() -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    _LOG.warning(
        f"all {files} files are open: nobody else is let in until somebody leaves; raise LimitNOFILE"
    )


def _cannot_listen(kind: str, port: int, error: OSError) -> LocalError:
    advice = "stop what uses it, or set another port for this mediator in the document"
    return LocalError(f"cannot listen on {kind} port {port}: {_reason(error)}; {advice}")


def _reason(error: OSError) -> str:
    """The system's text for an error, without the sentence and tuples that asyncio adds."""
    return os.strerror(error.errno) if error.errno else str(error)
