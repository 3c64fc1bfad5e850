"""The mediator on real sockets: TLS control connections, STUN, the watched document, the store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from mediator.core import hub as h
from mediator.core.gate import Ban, Gate, Offence
from mediator.shell.admin import AdminServer
from mediator.shell.door import Door
from mediator.shell.keys import Identity
from mediator.shell.register import Register
from mediator.shell.roster import Roster
from mediator.shell.store import STORE_FILE, Store
from netctl.config import load_document
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document, Mediator
from netctl.model.errors import ConfigError, LocalError, NetctlError, RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.system.sdnotify import notify, watchdog_s
from netctl.wire import stun
from netctl.wire.control import Error, encode
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame

MAX_CONNECTIONS = 60_000
"""Under the files that a service may have open by default with systemd's LimitNOFILE."""
MAX_SEND_BUFFER = 4 * 1024 * 1024
"""A member that reads this slowly is dropped; it comes back and gets the whole view."""
GATHER_S = 0.05
"""How long news for many may wait for more of them: well below what a person notices."""
ANY = "::"
"""Listen on everything. asyncio wants None for that: it makes `::` IPv6 alone."""
WATCH_S = 0.25
"""How often the document's file is looked at: a change reaches members well within a second."""
TICK_S = 1.0
RESERVE_GENERATIONS = 1 << 20
"""Changes for which the store is asked at once: one write a start, not one a change."""


def say(text: str) -> None:
    """One line for the operator."""
    print(text, file=sys.stderr, flush=True)


def find_mediator(document: Document, identity: IdentityKey) -> Mediator:
    """The entry of the document that is this server. Raises LocalError."""
    for mediator in document.mediators:
        if identity in mediator.identity:
            return mediator
    raise LocalError(f'no mediator of the document has this server\'s identity; add identity: ["{identity}"]')


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server, source: SocketAddress) -> None:
        self._server = server
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self.number = 0
        self.source = source
        self.stranger = True
        self._gathered: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of asyncio's
        self._server.accept(self, self._transport)

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._decoder.feed(data):
                self._server.frame(self, payload)
        except RemoteError as error:
            self._server.garbage(self)
            self.end(Error(error.code, str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.lost(self)

    def send(self, payload: bytes) -> None:
        """Now, after what was gathered."""
        self._gathered.append(encode_frame(payload))
        self.flush()

    def gather(self, data: bytes) -> bool:
        """Frames that may wait for others, as `flush` sends them; True for the first of them."""
        self._gathered.append(data)
        return len(self._gathered) == 1

    def flush(self) -> None:
        """Send what was gathered, as one."""
        if self._gathered:
            data, self._gathered = b"".join(self._gathered), []
            self.write(data)

    def write(self, data: bytes) -> None:
        """Frames, as they go over the wire."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)
        if transport.get_write_buffer_size() > MAX_SEND_BUFFER:
            transport.abort()

    def end(self, error: Error) -> None:
        self.send(encode(error))
        if self._transport is not None:
            self._transport.close()

    def known(self) -> None:
        self._decoder.limit = LIMIT_AFTER_LOGIN


class _Stun(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        with contextlib.suppress(ValueError):
            source = SocketAddress.of(addr[0].partition("%")[0], addr[1])
            answer = stun.respond(data, source)
            if answer is not None:
                self._transport.sendto(answer, addr)


class Server:
    """Everything of `netctl-mediator serve` but the relay, which is a process of its own."""

    def __init__(self, *, document: Path, state: Path, listen: str, secret: bytes) -> None:
        self._path = document
        self._listen = listen
        self._identity = Identity.load(state)
        self._store = Store(state / STORE_FILE)
        sign = self._identity.private.sign
        # Above that of any earlier run, whatever the clock says: hosts refuse a mediator that goes back.
        generation = max(int(time.time()), self._store.generation())
        self._hub = h.Hub(self._identity.public, sign, secret, generation=generation)
        self._reserved = 0
        self._reserve()
        self.roster = Roster(self._hub, Register(self._store), self._later, self.perform)
        self._admin = AdminServer(self.roster, self._hub, state, document)
        self._admin.operations["status"] = lambda _: self.status()
        self._loaded_s = time.time()
        self._refusal: str | None = None
        self._connections: dict[int, _Connection] = {}
        self._gate = Gate()
        self._door: Door | None = None
        self._gathering: list[_Connection] = []
        self._flush_due: asyncio.TimerHandle | None = None
        self._admin.operations["bans.list"] = lambda _: self._bans()
        self._admin.operations["bans.lift"] = self._lift
        self._next = 0
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._stamp: tuple[int, int, int] | None = None
        self._text = ""

    def status(self) -> dict[str, Any]:
        """What `netctl-mediator status` shows."""
        document = self.roster.document
        return {
            "document": {
                "path": str(self._path),
                "digest": document.digest,
                "since_s": round(time.time() - self._loaded_s, 1),
                "refused": self._refusal,
            },
            "generation": self._hub.generation,
            "members": len(document.members),
            "online": self._hub.online,
            "networks": len(document.networks),
            "bans": len(self._gate.bans(time.monotonic())),
            "without_address": [item.message for item in self._hub.exhausted],
        }

    def load(self) -> Mediator:
        """Read the document for the first time. Raises NetctlError."""
        try:
            self._stamp = self._file_stamp()
            self._text = self._path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise LocalError(f"cannot read {self._path}: {error}") from error
        document = load_document(self._text, str(self._path)).document
        mediator = find_mediator(document, self._identity.public)
        self._hub.restore(self._store.leases(), self._store.relay_ports())
        self._now()
        self.perform(self.roster.set_document(document, mediator))
        return mediator

    async def start(self, mediator: Mediator) -> None:
        """Listen. Raises LocalError for a port that is in use."""
        loop = asyncio.get_running_loop()
        context = self._identity.server_context()
        door = Door(context, lambda source: _Connection(self, source), self._gate, time.monotonic, _say_ban)
        self._door = door
        for port in sorted({mediator.port, *mediator.tls}):
            try:
                door.listen(self._listen, port, both=self._listen == ANY)
            except OSError as error:
                raise _cannot_listen("TCP", port, error) from error
        for port in mediator.stun:
            try:
                transport, _ = await loop.create_datagram_endpoint(
                    _Stun, sock=_udp_socket(self._listen, port)
                )
            except OSError as error:
                raise _cannot_listen("UDP", port, error) from error
            self._datagrams.append(transport)
        await self._admin.start()
        say(f"listening on TCP {mediator.port}, STUN {', '.join(map(str, mediator.stun))}")

    async def run(self) -> None:
        """Tick and watch until cancelled, then close everything."""
        limit = watchdog_s()
        tick = TICK_S if limit is None else min(TICK_S, limit / 3)
        notify("READY=1")
        try:
            ticked = time.monotonic()
            while True:
                await asyncio.sleep(WATCH_S)
                self._reload()
                if time.monotonic() - ticked >= tick:
                    ticked = time.monotonic()
                    notify("WATCHDOG=1")
                    self.perform(self._hub.handle_timer(self._now()))
                    self._reserve()
        finally:
            notify("STOPPING=1")
            await self._admin.close()
            if self._door is not None:
                self._door.close()
            for transport in self._datagrams:
                transport.close()
            for connection in list(self._connections.values()):
                connection.end(Error("mediator.stopping", "the mediator is being stopped"))
            self._store.close()

    def _later(self, seconds: float, call: Callable[[], None]) -> object:
        return asyncio.get_running_loop().call_later(seconds, call)

    def _challenge(self, connection: int) -> list[h.Effect]:
        private = X25519PrivateKey.generate()

        def agree(key: WireGuardKey) -> bytes:
            return private.exchange(X25519PublicKey.from_public_bytes(key.raw))

        return self._hub.challenged(connection, WireGuardKey(private.public_key().public_bytes_raw()), agree)

    def _reserve(self) -> None:
        """Keep the next run's generations above all of this one's."""
        if self._hub.generation + RESERVE_GENERATIONS // 2 > self._reserved:
            wanted = self._hub.generation + RESERVE_GENERATIONS
            try:
                self._store.reserve_generation(wanted)
            except LocalError as error:
                if not self._reserved:
                    say(f"{error}; the clock alone keeps generations in order until there is room")
            self._reserved = wanted

    def _now(self) -> float:
        self._hub.unix_now = int(time.time())
        return time.monotonic()

    def _file_stamp(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _reload(self) -> None:
        try:
            stamp = self._file_stamp()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            text = self._path.read_text()
            if text == self._text:
                return
            self._text = text
            document = load_document(text, str(self._path)).document
            mediator = find_mediator(document, self._identity.public)
            self.perform(self.roster.set_document(document, mediator))
            self._loaded_s, self._refusal = time.time(), None
            say(f"{self._path}: {len(document.members)} members, {len(document.networks)} networks")
        except ConfigError as error:
            self._refuse(f"\n{error}")
        except (OSError, UnicodeDecodeError, NetctlError) as error:
            self._refuse(f" {error}")

    def _refuse(self, reason: str) -> None:
        self._refusal = reason.strip()
        say(f"{self._path} is refused and the last good one stays:{reason}")

    # -- connections ----------------------------------------------------------------------------------------

    def accept(self, connection: _Connection, transport: asyncio.Transport) -> None:
        """A TLS handshake is done."""
        tls = transport.get_extra_info("ssl_object")
        wrong = isinstance(tls, ssl.SSLObject) and tls.selected_alpn_protocol() is None
        if wrong or len(self._connections) >= MAX_CONNECTIONS:
            if wrong:
                self._offend(connection, "tls")
            self._no_stranger(connection)
            transport.abort()
            return
        self._next += 1
        connection.number = self._next
        self._connections[connection.number] = connection
        nonce = secrets.token_bytes(32)
        self.perform(self._hub.connected(connection.number, connection.source, nonce, self._now()))

    def _no_stranger(self, connection: _Connection, *, logged_in: bool = False) -> None:
        if connection.stranger:
            connection.stranger = False
            if logged_in:
                self._gate.welcome(connection.source, time.monotonic())
            else:
                self._gate.leave(connection.source)

    def _offend(self, connection: _Connection, offence: Offence) -> None:
        if connection.stranger and self._door is not None:
            self._door.offend(connection.source, offence)

    def garbage(self, connection: _Connection) -> None:
        """A connection sent what no client of ours sends."""
        self._offend(connection, "garbage")

    def _bans(self) -> dict[str, Any]:
        bans = [
            {"source": ban.source, "left_s": round(ban.left_s, 1), "refused": ban.refused}
            for ban in self._gate.bans(time.monotonic())
        ]
        return {"bans": bans, "strangers": self._gate.strangers}

    def _lift(self, request: dict[str, Any]) -> dict[str, Any]:
        name = str(request.get("source", ""))
        if not self._gate.unban(name):
            raise LocalError(f"nothing is held against '{name}'; `netctl-mediator bans` lists who is banned")
        return {"source": name}

    def frame(self, connection: _Connection, payload: bytes) -> None:
        """A whole frame came."""
        self.perform(self._hub.received(connection.number, payload, self._now()))

    def lost(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._no_stranger(connection)
        if self._connections.pop(connection.number, None) is not None:
            self.perform(self._hub.disconnected(connection.number))

    def _deliver(self, numbers: Iterable[int], data: bytes) -> None:
        """What many are told waits a moment for more: a thousand returns are not a million writes."""
        for number in numbers:
            target = self._connections.get(number)
            if target is not None and target.gather(data):
                self._gathering.append(target)
        if self._gathering and self._flush_due is None:
            self._flush_due = asyncio.get_running_loop().call_later(GATHER_S, self._flush)

    def _flush(self) -> None:
        gathering, self._gathering, self._flush_due = self._gathering, [], None
        for target in gathering:
            target.flush()

    def perform(self, effects: list[h.Effect]) -> None:
        """Do what the core wants, in order."""
        pending = list(reversed(effects))
        while pending:
            effect = pending.pop()
            match effect:
                case h.Send(number, message):
                    target = self._connections.get(number)
                    if target is not None:
                        target.send(encode(message))
                case h.Deliver(numbers, payloads):
                    self._deliver(numbers, b"".join(map(encode_frame, payloads)))
                case h.Drop(number, error):
                    target = self._connections.pop(number, None)
                    if target is not None:
                        self._offend(target, _offence(error.code))
                        self._no_stranger(target)
                        target.end(error)
                case h.LoggedIn(number, _):
                    target = self._connections.get(number)
                    if target is not None:
                        self._no_stranger(target, logged_in=True)
                        target.known()
                case h.Store(leases, ports):
                    try:
                        self._store.add(leases, ports)
                    except LocalError as error:
                        say(f"no new leases: {error}")
                        pending.extend(reversed(self._hub.refused(self._now())))
                        continue
                    pending.extend(reversed(self._hub.stored(leases, ports)))
                case h.Say(text):
                    say(text)
                case h.Challenge(number):
                    pending.extend(reversed(self._challenge(number)))
                case h.Redeem() as request:
                    pending.extend(reversed(self.roster.redeem(request)))
                case h.Left() as request:
                    pending.extend(reversed(self.roster.leave(request)))
                case h.Rekey() as request:
                    pending.extend(reversed(self.roster.rekey(request)))


def _offence(code: str) -> Offence:
    if code.endswith("timeout"):
        return "timeout"
    if code.startswith(("invite", "enrol", "rotate")):
        return "invite"
    return "login" if code.startswith("login") else "garbage"


def _say_ban(ban: Ban) -> None:
    say(f"{ban.source} is banned for {ban.left_s:.0f} s: too many connections that led to no login")


def _udp_socket(address: str, port: int) -> socket.socket:
    """A datagram socket; on `::` it serves IPv4 too."""
    family = socket.AF_INET6 if ":" in address and socket.has_ipv6 else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6 and address == ANY:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.setblocking(False)
        opened.bind((address, port))
    except OSError:
        opened.close()
        raise
    return opened


def _cannot_listen(kind: str, port: int, error: OSError) -> LocalError:
    advice = "stop what uses it, or set another port for this mediator in the document"
    # asyncio puts its own sentence, with tuples in it, where the system's word belongs.
    reason = os.strerror(error.errno) if error.errno else error
    return LocalError(f"cannot listen on {kind} port {port}: {reason}; {advice}")
