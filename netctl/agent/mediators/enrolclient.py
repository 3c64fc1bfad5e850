"""A short connection to a mediator before login: redeems an invite, or replaces a member's keys."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from netctl.agent.mediators.controlclient import certificate_identity, dial
from netctl.agent.storage.keyfiles import Keys
from netctl.model.document import Mediator
from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.printable import printable
from netctl.session.enrol import make_enrol, make_rotate
from netctl.session.mediatorchoice import MediatorChoice
from netctl.wire import control as w
from netctl.wire.frame import FrameDecoder, encode_frame
from netctl.wire.invite import Invite

ANSWER_TIMEOUT_S = 10.0
"""The mediator's limit for unauthenticated connections is the same."""
Make = Callable[[IdentityKey, bytes, WireGuardKey], w.Message]
"""Makes the request from the mediator's identity, its nonce and its ephemeral key."""


class _Exchange(asyncio.Protocol):
    """One exchange: hello, challenge, request, answer."""

    def __init__(self, mediator: Mediator, make: Make) -> None:
        self._mediator = mediator
        self._make = make
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._pin: IdentityKey | None = None
        self._nonce: bytes | None = None
        self.answer: asyncio.Future[w.Message] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pin = certificate_identity(self._transport)
        if self._pin is None or self._pin not in self._mediator.identity:
            where = f"{self._mediator.host}:{self._mediator.port}"
            self._fail(
                RemoteError(f"{where} is not the mediator that is meant: it shows another identity", "pin")
            )

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._decoder.feed(data):
                self._receive(w.decode(payload))
        except RemoteError as error:
            self._fail(error)
        except ValueError as error:
            self._fail(RemoteError(f"a bad value from the mediator: {error}", "message.bad"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(RemoteError("the mediator hung up without an answer", "lost"))

    def _fail(self, error: RemoteError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self, message: w.Message) -> None:
        assert self._transport is not None
        self._transport.write(encode_frame(w.encode(message)))

    def _receive(self, message: w.Message) -> None:
        match message:
            case w.Error(code, text):
                raise RemoteError(printable(text), printable(code))
            case w.Hello(_, nonce) if self._nonce is None:
                self._nonce = bytes.fromhex(nonce)
                self._send(w.EnrolStart(w.PROTOCOL_VERSION))
            case w.EnrolChallenge(ephemeral) if self._nonce is not None and self._pin is not None:
                self._send(self._make(self._pin, self._nonce, WireGuardKey.parse(ephemeral)))
            case w.Enrolled() | w.Rotated():
                if not self.answer.done():
                    self.answer.set_result(message)
            case _:
                raise RemoteError(f"unexpected {type(message).__name__} from the mediator", "protocol.order")


async def _ask(mediators: Sequence[Mediator], make: Make) -> w.Message:
    """The first answer that a mediator gives. Raises RemoteError."""
    last = RemoteError("there is no mediator to ask", "unreachable")
    choice = MediatorChoice()
    choice.use(mediators)
    for chosen in choice.all_ports():
        exchange = _Exchange(chosen.mediator, make)
        where = f"{chosen.mediator.host}:{chosen.port}"
        try:
            await dial(exchange, chosen.mediator.host, chosen.port, limit_s=chosen.limit_s)
        except RemoteError as error:
            last = error
            continue
        try:
            return await asyncio.wait_for(exchange.answer, ANSWER_TIMEOUT_S)
        except TimeoutError:
            last = RemoteError(f"{where} does not answer", "timeout")
        finally:
            exchange.close()
    raise last


async def enrol(keys: Keys, invite: Invite, name: str, *, exact: bool) -> w.Enrolled:
    """Redeem an invite with these keys. Raises RemoteError, whose text says what the user can do."""

    def make(pin: IdentityKey, nonce: bytes, ephemeral: WireGuardKey) -> w.Message:
        return make_enrol(
            pin=pin,
            mediator_nonce=nonce,
            nonce=secrets.token_bytes(32),
            ephemeral=ephemeral,
            identity=keys.identity,
            key=keys.wireguard,
            sign=keys.identity_private.sign,
            agree=_agree(keys),
            token=invite.token,
            name=name,
            exact=exact,
        )

    answer = await _ask(invite.mediators, make)
    if not isinstance(answer, w.Enrolled):
        raise RemoteError("the mediator answers something else", "protocol.order")
    return answer


async def rotate(old: Keys, new: Keys, mediators: Sequence[Mediator]) -> str:
    """Have the mediator move this member to new keys; returns its name. Raises RemoteError."""

    def make(pin: IdentityKey, nonce: bytes, ephemeral: WireGuardKey) -> w.Message:
        return make_rotate(
            pin=pin,
            mediator_nonce=nonce,
            nonce=secrets.token_bytes(32),
            ephemeral=ephemeral,
            identity=new.identity,
            key=new.wireguard,
            sign=new.identity_private.sign,
            agree=_agree(new),
            previous=old.wireguard,
            previous_sign=old.identity_private.sign,
        )

    answer = await _ask(mediators, make)
    if not isinstance(answer, w.Rotated):
        raise RemoteError("the mediator answers something else", "protocol.order")
    return answer.name


def _agree(keys: Keys) -> Callable[[WireGuardKey], bytes]:
    return lambda other: keys.wireguard_private.exchange(X25519PublicKey.from_public_bytes(other.raw))
