"""The member's side of one control connection, sans-IO.

The shell has checked the mediator's certificate against the pins and says which pin matched. It feeds whole frames
and time, and performs the effects in order.

| state      | event           | next       |
|------------|-----------------|------------|
| NEW        | Hello           | LOGGING_IN |
| LOGGING_IN | Welcome         | READY      |
| READY      | everything else | READY      |
| any        | Error, bad data | CLOSED     |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import msgspec

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.printable import printable
from netctl.model.view import View
from netctl.session.interest import Interests
from netctl.session.login import Signer, make_login
from netctl.session.replica import Kept, Replica
from netctl.session.views import known
from netctl.wire import control as w

SILENCE_FACTOR = 2.5
"""A connection silent for this many keepalive intervals is dead: one lost ping is forgiven."""
PROOF_S = 1.5
"""Seconds for an answer after the routes of this host have changed; over a satellite it takes 0.7 s. With the 0.2 s
after which a burst of changes is over, a dead way is left within two seconds of the last change.
"""
UNPROVEN = "unproven"
"""The code of a connection that closes for want of this proof: this host alone has lost its mediator."""
UNSPECIFIED = "0.0.0.0"  # noqa: S104
"""As an address from the mediator it means "the address at which you reached me": a mediator behind NAT knows no
other.
"""


MAX_OTHERS = 2
"""Further addresses of the mediator: those of the other family, whose first one may be another machine's."""


class State(Enum):
    """The state of the connection."""

    NEW = "new"
    LOGGING_IN = "logging in"
    READY = "ready"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send this payload as one frame."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The mediator has accepted the login. `stun`: servers that tell this host its external address."""

    welcome: w.Welcome
    stun: tuple[SocketAddress, ...]
    hello: str = ""
    """What the next login of this process sends as `previous` (`ClientSession.previous`)."""


@dataclass(frozen=True, slots=True)
class KeyShared:
    """Another host with this host's key tries to log in, and waits."""

    other: str
    """Its address, as the mediator sees it."""


@dataclass(frozen=True, slots=True)
class ViewChanged:
    """The view has changed, presence included; `kept` is what to store on disk."""

    view: View
    kept: Kept


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """A member came online or went offline, or its path should be checked."""

    key: WireGuardKey
    online: bool


@dataclass(frozen=True, slots=True)
class PresenceKnown:
    """What this host asked about the presence of members, as far as it is new; None: it is not told of a member any
    more.
    """

    online: Mapping[WireGuardKey, bool | None]
    kept: Kept | None = None
    """The same view at a later generation, to store on disk with the next view."""


@dataclass(frozen=True, slots=True)
class PathMessage:
    """A message for the path manager."""

    message: w.Introduction | w.Punch | w.RelayGrant
    servers: tuple[SocketAddress, ...] = ()
    """Of a grant: every address of the relay's port, first the one of the family that the connection uses."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over: close the connection."""

    error: RemoteError


Effect = (
    SendFrame | LoggedIn | ViewChanged | PresenceChanged | PresenceKnown | PathMessage | KeyShared | Closed
)


class ClientSession:
    """One connection, from Hello to the end. Every method returns effects."""

    def __init__(
        self,
        *,
        identity: IdentityKey,
        key: WireGuardKey,
        sign: Signer,
        pin: IdentityKey,
        pins: Sequence[IdentityKey],
        mediator: Sequence[SocketAddress],
        nonce: bytes,
        now: float,
        kept: Kept | None = None,
        previous: str = "",
        check_store: Callable[[str], None] = lambda store: None,
        interest: Collection[WireGuardKey] = (),
    ) -> None:
        """`nonce`: 32 fresh random bytes. `mediator`: its addresses, at least one: first the one that the connection
        goes to, then those of the other family, if its name has any.

        `kept`: the view that the member has; the mediator sends only what differs from it. `previous`:
        `LoggedIn.hello` of this process's last session, which this session replaces at once; no other host can do
        that. `check_store` raises RemoteError for a store that this host does not go to (`netctl.session.stores`).
        `interest`: the members whose presence this host needs in any case (`interested`).
        """
        self.state = State.NEW
        self._identity, self._key, self._sign = identity, key, sign
        self._pin, self._pins, self._nonce = pin, tuple(pins), nonce
        self._mediator = _one_family_each(mediator)
        self._replica = Replica(self._pins, key, kept)
        self._interests = Interests(key, interest)
        self._sealed: int | None = None
        """The generation of this session's last seal; None: there was none yet."""
        self._previous, self._hello = previous, ""
        self._check_store = check_store
        self._keepalive_s = 20.0
        self._heard = now
        self._pinged = now
        self._ping_id = 0
        self._proof_due: float | None = None
        """When something must have arrived at the latest; None: the connection is not in doubt."""

    def receive_frame(self, payload: bytes, now: float) -> list[Effect]:
        """Take one whole frame."""
        self._heard = now
        self._proof_due = None
        try:
            return self._handle(w.decode_any(payload), now)
        except RemoteError as error:
            return self._close(error)
        except ValueError as error:  # text that looks like base64 need not be a key
            return self._close(RemoteError(f"a bad value from the mediator: {error}", "message.bad"))

    def send(self, message: w.Message) -> list[Effect]:
        """Send a message. Before the login nothing is sent: the caller sends it again after the login."""
        return [SendFrame(w.encode(message))] if self.state is State.READY else []

    def prove(self, now: float) -> list[Effect]:
        """The routes of this host have changed: ask for an answer within `PROOF_S`, and close the connection without
        one.
        """
        if self.state is not State.READY or self._proof_due is not None:
            return []
        self._proof_due = now + PROOF_S
        self._pinged = now
        self._ping_id += 1
        return self.send(w.Ping(self._ping_id))

    def interested(self, keys: Collection[WireGuardKey], now: float) -> list[Effect]:
        """Set the members whose presence this host needs. In a small view the mediator tells of all members."""
        return self._ask(*self._interests.want(keys, now))

    def look_at_all(self, now: float) -> list[Effect]:
        """Somebody looks at all members: have the mediator tell of all of them for the next minute."""
        return self._ask(self._interests.look_at_all(now), ())

    @property
    def awaits_all(self) -> bool:
        """Whether the presence of all members was asked for, and the answer has not come."""
        return self._interests.awaits_all

    def _ask(self, messages: Iterable[w.Interest], unknown: Collection[WireGuardKey]) -> list[Effect]:
        effects = [effect for message in messages for effect in self.send(message)]
        return [*effects, PresenceKnown(dict.fromkeys(unknown))] if unknown else effects

    def next_timer(self) -> float:
        """When `handle_timer` is due."""
        due = min(self._pinged + self._keepalive_s, self._heard + SILENCE_FACTOR * self._keepalive_s)
        due = min(due, self._interests.next_timer())
        return due if self._proof_due is None else min(due, self._proof_due)

    def handle_timer(self, now: float) -> list[Effect]:
        """Send a keepalive where one is due, or close a connection that is dead."""
        if self.state is State.CLOSED:
            return []
        if self._proof_due is not None and now >= self._proof_due:
            message = "the mediator does not answer since this host's addresses or routes have changed"
            return self._close(RemoteError(message, UNPROVEN))
        if now >= self._heard + SILENCE_FACTOR * self._keepalive_s:
            return self._close(RemoteError("the mediator has gone silent", "silent"))
        effects = self._ask(*self._interests.handle_timer(now))
        if now >= self._pinged + self._keepalive_s:
            self._pinged = now
            self._ping_id += 1
            return [*effects, *self.send(w.Ping(self._ping_id))]
        return effects

    def _close(self, error: RemoteError) -> list[Effect]:
        self.state = State.CLOSED
        return [Closed(error)]

    def _handle(self, message: w.Message, now: float) -> list[Effect]:
        if self.state is State.CLOSED:
            return []
        if isinstance(message, w.Error):
            return self._close(RemoteError(printable(message.message), printable(message.code)))
        if self.state is State.NEW and isinstance(message, w.Hello):
            nonce = bytes.fromhex(message.nonce)
            login = make_login(self._pin, nonce, self._nonce, self._identity, self._key, self._sign)
            self.state = State.LOGGING_IN
            self._hello = message.nonce
            hints = msgspec.structs.replace(
                login,
                view=self._replica.digest,
                previous=self._previous,
                newest=self._replica.newest,
                minor=w.MINOR_VERSION,
            )
            return [SendFrame(w.encode(hints))]
        if self.state is State.LOGGING_IN and isinstance(message, w.Welcome):
            self._check_store(message.store)
            self._replica.set_store(message.store)
            self.state = State.READY
            self._keepalive_s = message.keepalive_s
            self._pinged = now
            stun = dict.fromkeys(one for text in message.stun for one in self._reached(text))
            return [LoggedIn(message, tuple(stun), self._hello)]
        if self.state is State.READY:
            return self._ready(message, now)
        raise RemoteError(f"unexpected {type(message).__name__} while {self.state.value}", "protocol.order")

    def _reached(self, text: str) -> list[SocketAddress]:
        """An address from the mediator; UNSPECIFIED is replaced by the address at which it was reached."""
        try:
            address = SocketAddress.parse(text)
        except ValueError as error:
            raise RemoteError(f"a bad address from the mediator: {text}", "message.bad") from error
        if address.host != UNSPECIFIED:
            return [address]
        return [replace(address, host=one.host) for one in self._mediator]

    def _ready(self, message: w.Message, now: float) -> list[Effect]:
        match message:
            case w.ViewChunk() | w.ViewRows():
                return self._refresh(self._replica.chunk(message))
            case w.ViewDelta():
                return self._refresh(self._replica.delta(message))
            case w.Sealed():
                changing, before = self._replica.is_changing, self._sealed
                kept = self._replica.sealed(message)
                if kept is None:
                    return self._refresh(self._replica.doubted())
                self._sealed = kept.seal.generation
                if changing or before is None:
                    return self._changed(kept, now)
                return self._confirmed(kept, before)
            case w.Presence(peer, online):
                key = WireGuardKey.parse(peer)
                return [PresenceChanged(key, online)] if key in self._interests.told({key: online}) else []
            case w.Presences(here, away):
                told = {WireGuardKey.parse(text): True for text in here}
                told |= {WireGuardKey.parse(text): False for text in away}
                return [PresenceKnown(self._interests.answered(told))]
            case w.RelayGrant(relay=relay) if relay:
                return [PathMessage(message)]
            case w.RelayGrant():
                servers = tuple(self._reached(message.address))
                grant = msgspec.structs.replace(message, address=str(servers[0]))
                return [PathMessage(grant, servers)]
            case w.Introduction() | w.Punch():
                return [PathMessage(message)]
            case w.Ping(id_, other):
                answer = SendFrame(w.encode(w.Pong(id_)))
                return [answer, KeyShared(printable(other))] if other else [answer]
            case w.Pong():
                return []
            case _:
                name = type(message).__name__
                raise RemoteError(f"unexpected {name} from the mediator", "protocol.order")

    def _changed(self, kept: Kept, now: float) -> list[Effect]:
        """Another view, or the first one of this session."""
        members = kept.view.members
        if kept.seal.online or not members:
            self._interests.small_view(_presence(kept.view))
            return [ViewChanged(kept.view, kept)]
        asked = self._ask(self._interests.large_view(members.keys(), now), ())
        return [ViewChanged(known(kept.view, self._interests.known(members.keys())), kept), *asked]

    def _confirmed(self, kept: Kept, before: int) -> list[Effect]:
        """The same view again: with everybody's presence, because this member has asked, or of a later generation."""
        told = self._interests.answered_all(_presence(kept.view)) if kept.seal.online else {}
        newer = kept if kept.seal.generation != before else None
        return [PresenceKnown(told, newer)] if newer is not None or kept.seal.online else []

    @staticmethod
    def _refresh(ask: bool) -> list[Effect]:
        return [SendFrame(w.encode(w.Refresh()))] if ask else []


def _presence(view: View) -> dict[WireGuardKey, bool]:
    return {key: bool(member.online) for key, member in view.members.items()}


def _one_family_each(mediator: Sequence[SocketAddress]) -> tuple[SocketAddress, ...]:
    reached = mediator[0]
    return (reached, *[one for one in mediator if one.is_ipv6 != reached.is_ipv6][:MAX_OTHERS])
