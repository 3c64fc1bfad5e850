"""The control connection on a real socket: TLS 1.3 to a pinned identity, with endless retries with jitter."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from netctl.agent.log import warn
from netctl.agent.mediators.mediatormeter import MediatorMeter
from netctl.agent.mediators.proxy import Connected, connect
from netctl.agent.storage.keyfiles import Keys
from netctl.model.addresses import Address, SocketAddress
from netctl.model.document import Mediator
from netctl.model.errors import LocalError, RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.node.linkstate import LinkState
from netctl.node.sharing import SHARED_NOTE_S, Sharing
from netctl.session import (
    UNPROVEN,
    Backoff,
    ClientSession,
    Closed,
    Effect,
    Kept,
    KeyShared,
    KnownStores,
    LoggedIn,
    PresenceKnown,
    SendFrame,
    State,
    ViewChanged,
)
from netctl.session.mediatorchoice import LIMIT_S, MediatorChoice, Try, name_of
from netctl.system.guard import Guard
from netctl.system.pinned import certificate_key, client_context
from netctl.wire import control as w
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame

ALPN = "netctl/1"
CHANGED = "the document names other mediators now"
DRILL = "a drill: this host acts as if it had no mediator"
FORGOTTEN = "the view was forgotten on demand"
MAX_HOLD_S = 600.0
"""Longest drill: ends a drill whose command has died."""
USER_TIMEOUT_MS = 10_000
"""Data unacknowledged for so long ends the connection (RFC 5482)."""
DUPLICATE = "session.duplicate"
"""The mediator's error code for another connected host with the same key."""
DUPLICATE_RETRY_S = 60.0
"""Retries come after half of this to all of this: the longest time to log in after the other host has gone."""
GIVEN_UP_S = 45.0
"""A mediator ends a connection after 50 s of silence."""
LOOK_S = 0.5
"""Longest wait of a person for the presence of all members; a mediator on another continent answers within 0.3 s."""
LOGIN_TIMEOUT_S = 10.0
"""The mediator's limit is the same."""
NOT_LOST = frozenset({UNPROVEN, "changed", "drill", "slept"})
"""Codes of connections that this host has ended for a reason of its own: their mediator may work."""


def _system_words(error: OSError) -> str:
    """The system's text for an error, without the call and arguments that asyncio adds."""
    if error.errno is not None and error.errno > 0:  # the resolver's own numbers are negative
        return os.strerror(error.errno)
    return str(error.strerror or error)


def _without_scope(address: SocketAddress) -> SocketAddress:
    return SocketAddress.of(address.host.partition("%")[0], address.port)


def certificate_identity(transport: asyncio.Transport) -> IdentityKey | None:
    """The Ed25519 key of the server's certificate."""
    return certificate_key(transport.get_extra_info("ssl_object").getpeercert(binary_form=True))


async def dial(
    protocol: asyncio.Protocol,
    host: str,
    port: int,
    *,
    connected: Callable[[Connected], None] | None = None,
    avoid: Address | None = None,
    limit_s: float = LIMIT_S,
) -> None:
    """Connect with TLS 1.3, through a proxy if the environment names one. The protocol compares the pin.

    `connected` is called before TLS begins; `avoid`: see `connect`; `limit_s`: for DNS, TCP and TLS together.
    Raises RemoteError.
    """
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(limit_s):
            tcp = await connect(host, port, avoid=avoid)
            tcp.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
            if connected is not None:
                connected(tcp)
            loop = asyncio.get_running_loop()
            context = client_context(ALPN)
            await loop.create_connection(lambda: protocol, sock=tcp.socket, ssl=context, server_hostname=host)
    except LocalError as error:
        raise RemoteError(str(error), "proxy") from error
    except TimeoutError:
        message = f"{where} does not answer: is the mediator running, and its port open?"
        raise RemoteError(message, "timeout") from None
    except ssl.SSLError as error:
        message = f"{where} does not speak TLS 1.3 as a mediator does: {error.reason}"
        raise RemoteError(message, "tls") from error
    except OSError as error:
        words = _system_words(error)
        if not words:  # asyncio's ConnectionResetError without text: the server closed during TLS
            message = f"{where} hangs up during the TLS 1.3 handshake: is a mediator listening there?"
            raise RemoteError(message, "tls") from error
        raise RemoteError(f"cannot reach the mediator at {where}: {words}", "unreachable") from error


class _Wire(asyncio.Protocol):
    """One connection. `ended` holds the reason once it has ended."""

    def __init__(self, client: ControlClient, mediator: Mediator) -> None:
        self._client = client
        self.reached: tuple[SocketAddress, ...] = ()
        """The mediator's addresses, the connected one first."""
        self._mediator = mediator
        self._decoder = FrameDecoder(LIMIT_AFTER_LOGIN)
        self._transport: asyncio.Transport | None = None
        self.session: ClientSession | None = None
        self.kept: Kept | None = None
        """The view with which the session began."""
        self.ended: asyncio.Future[RemoteError] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        pin = certificate_identity(self._transport)
        if pin is None or pin not in self._mediator.identity:
            shown = f" ({pin})" if pin is not None else ""
            message = (
                f"{self._mediator.host}:{self._mediator.port} is not the mediator that the document pins: it "
                f"shows another identity{shown}"
            )
            self.finish(RemoteError(message, "login.wrong-pin"))
            return
        self._client.mediator = self._mediator
        if (
            not self.reached
        ):  # only the proxy can resolve the host: then the proxy's address; STUN and relay need UDP anyway
            host, port = transport.get_extra_info("peername")[:2]
            self.reached = (SocketAddress.of(host.partition("%")[0], port),)
        self.kept = self._client.kept
        self.session = ClientSession(
            identity=self._client.keys.identity,
            key=self._client.keys.wireguard,
            sign=self._client.keys.identity_private.sign,
            pin=pin,
            pins=self._mediator.identity,
            mediator=self.reached,
            nonce=secrets.token_bytes(32),
            now=time.monotonic(),
            kept=self.kept,
            previous=self._client.hello,
            check_store=partial(self._client.stores.check, name_of(self._mediator)),
            interest=self._client.interest,
        )

    def data_received(self, data: bytes) -> None:
        assert self.session is not None
        try:
            for payload in self._decoder.feed(data):
                self.perform(self.session.receive_frame(payload, time.monotonic()))
        except RemoteError as error:
            self.finish(error)
        except Exception as error:  # the session may be inconsistent now: end it, a new one starts afresh
            self._client.guard.caught("a frame of the mediator", error)
            self.finish(RemoteError("a message of the mediator could not be handled", "frame.failed"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.finish(RemoteError("the connection to the mediator was lost", "lost"))

    def over(self, tcp: Connected) -> None:
        """TCP is connected, TLS begins."""
        self.reached = tuple(_without_scope(one) for one in tcp.reached)

    def finish(self, error: RemoteError) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
        if self._transport is not None:
            self._transport.abort()

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendFrame):
                if self._transport is not None and not self._transport.is_closing():
                    self._transport.write(encode_frame(effect.payload))
            elif isinstance(effect, Closed):
                self.finish(effect.error)
            else:
                self._client.guard.run("a message of the mediator", self._client.deliver, effect)


class ControlClient:
    """Keeps a session with one of the document's mediators. All methods run in the agent's event loop."""

    def __init__(
        self,
        keys: Keys,
        on_effect: Callable[[Effect], None],
        on_state: Callable[[LinkState], None],
        guard: Guard | None = None,
    ) -> None:
        self.guard = guard if guard is not None else Guard(warn)
        """Counts input that raised an unexpected exception."""
        self.keys = keys
        self.state = LinkState("none", time.monotonic())
        self._held_until = 0.0
        self.mediator: Mediator | None = None
        """The mediator of the present or last connection."""
        self.refused: str | None = None
        """Why the mediator's last view was refused; None: it was accepted."""
        self.kept: Kept | None = None
        """The view that this host has; the mediator need not send it again."""
        self.hello = ""
        """The hello of the last session: proves to the mediator that this is not another host with the same key."""
        self.waits = False
        """Whether this host waits because another host with its key is connected."""
        self.sharing: Sharing | None = None
        """The last report on another host with this key."""
        self.stores = KnownStores()
        self.interest: frozenset[WireGuardKey] = frozenset()
        """The members whose presence this host needs."""
        self._told = asyncio.Event()
        """Set with each answer of the mediator about presence, and with the end of a connection."""
        self._on_effect = on_effect
        self._on_state = on_state
        self._named: tuple[Mediator, ...] = ()
        """All of the document, with its relays apart."""
        self._mediators: tuple[Mediator, ...] = ()
        self._choice = MediatorChoice()
        self._meter = MediatorMeter(self._choice.measured, self.guard)
        self._changed = asyncio.Event()
        self._wire: _Wire | None = None
        self._backoff = Backoff()
        self._avoid: Address | None = None
        """An address that accepted TCP but did not answer in TLS the last time: large packets do not pass there."""

    def set_mediators(self, mediators: tuple[Mediator, ...]) -> None:
        """Set the document's mediators; a change of those to connect to ends the present connection."""
        if mediators == self._named:
            return
        self._named = mediators
        wanted = tuple(mediator for mediator in mediators if not mediator.relay_only)
        self._choice.use(mediators)
        self._meter.use(wanted if self._choice.measures else ())
        if wanted == self._mediators:
            return
        self._mediators = wanted
        self.stores.use({name_of(mediator) for mediator in wanted})
        self.refused = None
        self._backoff.reset()
        self._changed.set()
        if self._wire is not None:
            self._wire.finish(RemoteError(CHANGED, "changed"))

    def forget(self) -> None:
        """Forget the view: the next view is accepted whatever its generation."""
        self.kept = self.refused = None
        if self._wire is not None:
            self._wire.finish(RemoteError(FORGOTTEN, "changed"))
        self.poke()

    def hold(self, seconds: float) -> None:
        """Start a drill: no mediator for `seconds`, at most MAX_HOLD_S; 0 ends the drill."""
        self._held_until = time.monotonic() + min(seconds, MAX_HOLD_S) if seconds > 0 else 0.0
        if self._held_until and self._wire is not None:
            self._wire.finish(RemoteError(DRILL, "drill"))
        self.poke()

    def poke(self) -> None:
        """Retry now, as the network or the user's wish has changed."""
        self._backoff.reset()
        self._choice.retry()
        self._changed.set()

    def prove(self) -> None:
        """After a change of the host's addresses or routes: check that the connection works, or make a new one."""
        self._meter.network_changed()
        wire = self._wire
        if wire is not None and wire.session is not None:
            wire.perform(wire.session.prove(time.monotonic()))
        elif wire is None:
            self.poke()

    def woke(self, slept_s: float) -> None:
        """After suspend: reconnect at once if the mediator must have ended the connection, else check that it works."""
        if slept_s < GIVEN_UP_S:
            self.prove()
            return
        if self._wire is not None:
            self._wire.finish(RemoteError(f"this host slept for {slept_s:.0f} s", "slept"))
        self.poke()

    def send(self, message: w.Message) -> None:
        """Send a message; drop it while not logged in."""
        wire = self._wire
        if wire is not None and wire.session is not None:
            wire.perform(wire.session.send(message))

    def interested(self, keys: frozenset[WireGuardKey]) -> None:
        """Set the members whose presence this host needs."""
        self.interest = keys
        wire = self._wire
        if wire is not None and wire.session is not None:
            wire.perform(wire.session.interested(keys, time.monotonic()))

    def look_at_all(self) -> None:
        """Somebody looks at all members: ask for their presence, unless that was done a moment ago."""
        wire = self._wire
        if wire is not None and wire.session is not None:
            wire.perform(wire.session.look_at_all(time.monotonic()))

    async def know_all(self) -> None:
        """Ask for the presence of all members, and wait for an answer that is out, at most `LOOK_S`."""
        self.look_at_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                while self._awaits_all:
                    self._told.clear()
                    await self._told.wait()

    @property
    def _awaits_all(self) -> bool:
        return self._wire is not None and self._wire.session is not None and self._wire.session.awaits_all

    def deliver(self, effect: Effect) -> None:
        """Pass an effect of the session to the agent."""
        if isinstance(effect, LoggedIn):
            self.hello = effect.hello
            if self.waits:
                self.waits, self.sharing = False, Sharing("", time.monotonic())
            self._set_state(LinkState("connected", time.monotonic()))
        elif isinstance(effect, KeyShared):
            now = time.monotonic()
            if self.sharing is None or now - self.sharing.at_s >= SHARED_NOTE_S:
                warn(f"another host has this host's key: it tries to log in from {effect.other}, and waits")
            self.sharing = Sharing(effect.other, now)
        elif isinstance(effect, PresenceKnown):
            self._told.set()
        elif isinstance(
            effect, ViewChanged
        ):  # only after a valid view: a mediator that lies after login is not asked all the time
            self._backoff.reset()
            self._backoff.spread(len(effect.view.members))
            self._choice.works()
            self.refused = None
            self._told.set()
        self._on_effect(effect)

    def _set_state(self, state: LinkState) -> None:
        self.state = state
        self._on_state(state)

    async def run(self) -> None:
        """Connect and reconnect until cancelled."""
        try:
            await self._run()
        finally:
            self._meter.close()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            if not self._mediators:
                self.waits = False
                self._set_state(LinkState("none", time.monotonic()))
                await self._changed.wait()
                continue
            if (held := self._held_until - time.monotonic()) > 0:
                self._set_state(LinkState("unreachable", time.monotonic(), DRILL, waits=self.waits))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), held)
                self._backoff.reset()
                continue
            if self.state.state in ("none", "connected"):
                self._set_state(LinkState("connecting", time.monotonic(), self.state.error, waits=self.waits))
            await self._meter.first()
            if not self._mediators:
                continue
            chosen = self._choice.next(random.random())
            error = await self._connect(chosen)
            refused = error.code.startswith(("login.", "view."))
            self._choice.over(lost=error.code not in NOT_LOST, refused=refused)
            if error.code == UNPROVEN:
                self._backoff.spread(0)
            if error.code.startswith("view."):
                self.refused = str(error)
            since = self.state.since if self.state.state == "unreachable" else time.monotonic()
            if error.code == DUPLICATE:
                self.waits = True
                delay = DUPLICATE_RETRY_S * (1 + random.random()) / 2
            elif self._choice.others_left:
                delay = 0.0
            else:
                delay = self._backoff.next_delay(random.random(), elsewhere=len(self._mediators) > 1)
            refused = refused and self._choice.all_refuse and not self._choice.others_left
            final = refused or error.code == DUPLICATE
            self._set_state(LinkState("unreachable", since, str(error), final=final, waits=self.waits))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), delay)

    async def _connect(self, chosen: Try) -> RemoteError:
        """Run one connection; returns why it ended."""
        mediator = chosen.mediator
        wire = _Wire(self, mediator)
        try:
            await dial(
                wire,
                mediator.host,
                chosen.port,
                connected=wire.over,
                avoid=self._avoid,
                limit_s=chosen.limit_s,
            )
        except RemoteError as error:
            self._avoid = wire.reached[0].address if error.code == "timeout" and wire.reached else None
            return error
        self._wire = wire
        self._avoid = None
        try:
            self._make_up(wire, mediator)
            return await self._attend(wire)
        finally:
            self._wire = None
            self._told.set()

    def _make_up(self, wire: _Wire, mediator: Mediator) -> None:
        """Follow the orders that came while the connection was made."""
        if mediator not in self._mediators:
            wire.finish(RemoteError(CHANGED, "changed"))
        elif wire.kept is not None and self.kept is None:
            wire.finish(RemoteError(FORGOTTEN, "changed"))
        elif self._held_until > time.monotonic():
            wire.finish(RemoteError(DRILL, "drill"))
        else:
            self.interested(self.interest)

    async def _attend(self, wire: _Wire) -> RemoteError:
        """Run the timers of a connection until it ends; returns why it ended."""
        started = time.monotonic()
        while not wire.ended.done():
            now = time.monotonic()
            session = wire.session
            if session is not None and session.state in (State.NEW, State.LOGGING_IN):
                wait = started + LOGIN_TIMEOUT_S - now
                if wait <= 0:
                    wire.finish(RemoteError("the mediator does not finish the login", "timeout"))
            else:
                wait = session.next_timer() - now if session is not None else LOGIN_TIMEOUT_S
            # The deadline changes when the session logs in: check at least every second.
            await asyncio.wait([wire.ended], timeout=min(max(wait, 0.05), 1.0))
            if session is not None and not wire.ended.done():
                wire.perform(session.handle_timer(time.monotonic()))
        return wire.ended.result()
