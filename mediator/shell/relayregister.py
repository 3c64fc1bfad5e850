"""A relay apart registers with its document's mediators: it tells its load, and is told the pairs with stock apps.

A thread with an event loop of its own does this, so packets do not wait. What it is told goes into a file, which the
relay's loop reads (`mediator.shell.relayplace.ToldPairs`): so a relay that starts while the mediators are away knows
the pairs. Without a mediator the relay works on; grants need none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mediator.core.relay_pairs import PairMember, PairPort
from mediator.shell.credentials import Identity
from mediator.shell.relayplace import write_pairs
from netctl.model.document import Document, Mediator
from netctl.model.errors import NetctlError, RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.portspans import Span
from netctl.session import Backoff
from netctl.system.guard import Guard
from netctl.system.pinned import certificate_key, client_context
from netctl.system.tasks import Tasks
from netctl.wire import registration as w
from netctl.wire.control import Error
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame

_LOG = logging.getLogger("mediator.relay")

TOLD_FILE = "told-pairs.json"
CONNECT_S = 10.0
RETRY_BASE_S = 1.0
RETRY_CAP_S = 60.0
OLD = "register.version"
OLD_S = 3600.0
"""Interval of tries at a mediator of an earlier release, which counts each as the fault of a stranger."""
CHUNK = 64 * 1024


class Now(NamedTuple):
    """What a relay tells of itself."""

    bindings: int
    members: int
    forwarded_bytes: int
    unheld: list[Span]


Loads = Callable[[], Now | None]
"""The relay as it is now; None: it does not answer."""


class Told:
    """The newest list of pairs of any mediator, in the relay's own ports. Mediators of one document share a store."""

    def __init__(self, path: Path, ports: tuple[int, int]) -> None:
        """`ports`: the first and the last relay port of this relay."""
        self._path, self._ports = path, ports
        self._generation = -1

    def take(self, parts: list[w.Pairs]) -> None:
        """Take a whole list, unless a newer one was taken. Raises OSError if it cannot be written."""
        if parts[0].generation < self._generation:
            return
        shift = self._ports[0] - parts[0].first
        pairs = [self._pair(row, shift) for part in parts for row in part.pairs]
        write_pairs(self._path, [pair for pair in pairs if pair is not None])
        self._generation = parts[0].generation

    def _pair(self, row: w.PairRow, shift: int) -> PairPort | None:
        """None: the pair has no port here, because this relay has fewer ports than the mediator."""
        first, last = self._ports
        port = row.port + shift
        if not first <= port <= last:
            return None
        one, other = (
            PairMember(WireGuardKey.parse(key), own + shift if own else 0, app)
            for key, own, app in zip(row.keys, row.ports, row.apps, strict=True)
        )
        return PairPort(port, (one, other))


class Gathering:
    """The parts of a list as they come."""

    def __init__(self) -> None:
        self._parts: list[w.Pairs] = []

    def add(self, part: w.Pairs) -> list[w.Pairs] | None:
        """The whole list once its last part has come. Raises RemoteError for parts that do not follow each other."""
        if part.part == 0:
            self._parts = []
        before = self._parts[-1] if self._parts else None
        same = before is None or (before.generation, before.first, before.parts) == (
            part.generation,
            part.first,
            part.parts,
        )
        if part.part != len(self._parts) or part.part >= part.parts or not same:
            raise RemoteError("the parts of a list of pairs do not follow each other", "register.parts")
        self._parts.append(part)
        if len(self._parts) < part.parts:
            return None
        whole, self._parts = self._parts, []
        return whole


class Registrations:
    """One registration with each mediator. All methods but `follow` run in the loop of `_tasks`."""

    def __init__(self, identity: Identity, told: Told, loads: Loads, place: str) -> None:
        """`place`: where the relay is, in a word for people."""
        self._identity, self._told, self._loads, self._place = identity, told, loads, place
        self._tasks = Tasks(Guard(_LOG.warning))
        self._mediators: dict[Mediator, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._refused: dict[str, str] = {}
        """The last reason that was logged, by mediator."""

    def follow(self, document: Document) -> None:
        """Register with the mediators of this document from now on. From any thread."""
        with contextlib.suppress(RuntimeError):  # the relay is ending
            self._loop.call_soon_threadsafe(self._use, document.full_mediators())

    async def end(self) -> None:
        """End all registrations."""
        await self._tasks.end()

    def _use(self, mediators: tuple[Mediator, ...]) -> None:
        for gone in self._mediators.keys() - set(mediators):
            self._mediators.pop(gone).cancel()
        for new in set(mediators) - self._mediators.keys():
            self._mediators[new] = self._tasks.keep("a registration", partial(self._with, new))

    async def _with(self, mediator: Mediator) -> None:
        backoff, turn = Backoff(RETRY_BASE_S, RETRY_CAP_S), 0
        while True:
            port = mediator.tcp_ports[turn % len(mediator.tcp_ports)]
            where = f"{mediator.host}:{port}"
            began, rest_s = time.monotonic(), 0.0
            try:
                await self._once(mediator, port, where)
                reason = "it has ended the connection"
            except (NetctlError, OSError, EOFError, ssl.SSLError) as error:
                reason = str(error) or type(error).__name__
                if isinstance(error, RemoteError) and error.code == OLD:
                    rest_s = OLD_S
            if time.monotonic() - began > w.LIFE_S:
                backoff.reset()
            else:
                turn += 1
            if self._refused.get(where) != reason:
                self._refused[where] = reason
                _LOG.warning(f"not registered with the mediator at {where}: {reason}; it is tried again")
            await asyncio.sleep(rest_s or backoff.next_delay(random.random()))

    async def _once(self, mediator: Mediator, port: int, where: str) -> None:
        """One registration, until it ends. Raises NetctlError, OSError, EOFError."""
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(
                mediator.host, port, ssl=client_context(w.REGISTER_ALPN), happy_eyeballs_delay=0.25
            )
        try:
            tls = writer.get_extra_info("ssl_object")
            pin = pinned(tls.getpeercert(binary_form=True), mediator)
            if tls.selected_alpn_protocol() != w.REGISTER_ALPN:
                raise RemoteError("it is of an earlier release, which registers no relays", OLD)
            await self._speak(reader, writer, pin, where)
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def _speak(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pin: IdentityKey, where: str
    ) -> None:
        frames = _Frames(reader)
        async with asyncio.timeout(CONNECT_S):
            hello = await frames.next()
        if not isinstance(hello, w.Hello) or len(bytes.fromhex(hello.nonce)) != w.NONCE_LEN:
            raise RemoteError("it did not begin as a mediator does", "register.order")
        nonce, own = secrets.token_bytes(w.NONCE_LEN), self._identity.public
        signed = w.transcript(pin, bytes.fromhex(hello.nonce), nonce, own)
        signature = self._identity.private.sign(signed).hex()
        writer.write(_frame(w.Register(w.VERSION, str(own), nonce.hex(), signature, self._place)))
        loads = self._tasks.start("a relay's load", self._tell_load(writer))
        gathering = Gathering()
        try:
            while True:
                async with asyncio.timeout(w.LIFE_S):
                    message = await frames.next()
                match message:
                    case w.Heard():
                        if self._refused.pop(where, None) is not None:
                            _LOG.info(f"registered with the mediator at {where}")
                    case w.Pairs():
                        if (whole := gathering.add(message)) is not None:
                            await asyncio.to_thread(self._told.take, whole)
                    case Error(code, text):
                        raise RemoteError(text, code)
                    case _:
                        raise RemoteError("it said what no mediator says to a relay", "register.order")
        finally:
            loads.cancel()

    async def _tell_load(self, writer: asyncio.StreamWriter) -> None:
        before: tuple[float, int] | None = None
        with contextlib.suppress(OSError):
            while True:
                now = time.monotonic()
                found = await asyncio.to_thread(self._loads)
                if found is not None:
                    forwarded = found.forwarded_bytes
                    passed = max(0, forwarded - before[1]) if before is not None else 0
                    rate = int(passed * 8 / (now - before[0])) if before is not None else 0
                    before = now, forwarded
                    load = w.Load(found.bindings, found.members, forwarded, rate, found.unheld)
                    writer.write(_frame(load))
                    await writer.drain()
                await asyncio.sleep(w.LOAD_S)


class _Frames:
    """The mediator's messages, one after the other."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader, self._decoder = reader, FrameDecoder(LIMIT_AFTER_LOGIN)
        self._ready: list[bytes] = []

    async def next(self) -> w.Message:
        """The next message. Raises RemoteError, EOFError."""
        while not self._ready:
            data = await self._reader.read(CHUNK)
            if not data:
                raise EOFError("it has closed the connection")
            self._ready = self._decoder.feed(data)
        return w.decode(self._ready.pop(0))


def _frame(message: w.Message) -> bytes:
    return encode_frame(w.encode(message))


def pinned(der: bytes | None, mediator: Mediator) -> IdentityKey:
    """The identity in a server's certificate, if the document pins it for this mediator. Raises RemoteError."""
    found = certificate_key(der)
    if found is None or found not in mediator.identity:
        raise RemoteError("it shows another identity than the document pins", "login.wrong-pin")
    return found


@contextmanager
def register(identity: Identity, told: Told, loads: Loads, place: str) -> Iterator[Registrations]:
    """Keep registrations, for the document that `follow` names, while the block runs."""
    started: Future[tuple[Registrations, asyncio.Event]] = Future()

    async def live() -> None:
        over = asyncio.Event()
        found = Registrations(identity, told, loads, place)
        started.set_result((found, over))
        await over.wait()
        await found.end()

    thread = threading.Thread(target=asyncio.run, args=[live()], name="registration", daemon=True)
    thread.start()
    registrations, over = started.result()
    try:
        yield registrations
    finally:
        with contextlib.suppress(RuntimeError):
            registrations._loop.call_soon_threadsafe(over.set)
        thread.join()
