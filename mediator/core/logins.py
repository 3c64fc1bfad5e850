"""Logins: who proves which key, and which of two connections with one key stays (`duplicates`, `peers`).

| a valid login                                              | then                                                  |
|------------------------------------------------------------|-------------------------------------------------------|
| its key is not online                                      | admitted                                              |
| its key is online here, and it proves the older connection | the older connection is replaced, the login admitted  |
| its key is online here                                     | it waits until the older connection answers or ends   |
| its key is online at another mediator                      | it waits for that mediator's answer                   |
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from mediator.core import peers as p
from mediator.core.controlconnections import Connection, Connections, key_of
from mediator.core.duplicates import Duplicate, Duplicates
from mediator.core.effects import Effect, LookFirst, Say, Send
from mediator.core.membership import Membership
from mediator.core.pace import Pace
from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.session.login import check_login
from netctl.wire import control as w

DUPLICATE = "session.duplicate"
REPLACED = "this member has logged in again elsewhere"
UNKNOWN_SOURCE = SocketAddress("0.0.0.0", 1)  # noqa: S104
"""Where a member at another mediator is connected from, if that mediator's text is no address."""

Admit = Callable[[int, Connection, WireGuardKey, w.Login], list[Effect]]
"""Makes a connection a member's."""
DropConnection = Callable[[int, str, str], list[Effect]]
"""Ends a connection, with an error's code and message."""


class Logins:
    """Decides on each login. Times are monotonic seconds."""

    def __init__(
        self,
        identity: IdentityKey,
        connections: Connections,
        peers: p.Peers,
        admit: Admit,
        drop: DropConnection,
    ) -> None:
        """`identity`: this mediator's."""
        self._identity = identity
        self._connections = connections
        self._peers = peers
        self._admit = admit
        self._drop = drop
        self._duplicates = Duplicates()
        self.membership = Membership()
        self.pace = Pace()
        """Limits logins per key."""

    def duplicates(self, now: float) -> list[Duplicate]:
        """Keys on two hosts."""
        return self._duplicates.noted(now)

    def forget(self, key: WireGuardKey) -> None:
        """The key is no longer a member's."""
        self._duplicates.forget(key)

    def gone(self, connection: int) -> None:
        """A connection has ended: it waits for nothing, and others no longer wait for it."""
        self._duplicates.gone(connection)
        self._peers.gone(connection)

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return self._duplicates.next_timer()

    def handle_timer(self, now: float) -> list[Effect]:
        """Replace older connections that did not answer in time, and admit logins that waited for them."""
        effects: list[Effect] = []
        for number in self._duplicates.silent(now):
            effects += self._drop(number, "session.replaced", REPLACED)
        for number in self._duplicates.free():
            effects += self._let_in(number, now) if number > 0 else self._word(number, "", lives=False)
        return effects

    def login(
        self, connection: int, state: Connection, login: w.Login, now: float, *, behind: bool
    ) -> list[Effect]:
        """A login has come. `behind`: the member has seen a newer state than this mediator. Raises RemoteError."""
        if state.waiting is not None:
            raise RemoteError("one login is enough", "protocol.order")
        key = self._proven(state, login)
        if state.looked:  # and counted
            return self._enter(connection, state, key, login, now)
        if not self.pace.login(key, now):
            name = self.membership.by_key[key].name
            message = f"'{name}' logs in too often and has to wait: is its key on two machines?"
            raise RemoteError(message, "session.too-often")
        if behind:
            state.looked = True
            return [LookFirst(connection, login)]
        return self._enter(connection, state, key, login, now)

    def _proven(self, state: Connection, login: w.Login) -> WireGuardKey:
        """The key of the member that a login proves. Raises RemoteError."""
        member = self.membership.by_key.get(key_of(login.wireguard))
        if member is None:
            raise RemoteError(
                "no member of the mediator's document has this WireGuard key", "login.unknown-key"
            )
        if member.identity is None:
            raise RemoteError(
                f"the document gives '{member.name}' no identity to log in with", "login.no-identity"
            )
        # Only our own pin: another mediator in the same entry must not be able to relay a login to us.
        check_login(login, state.nonce, self._identity, member.identity)
        assert member.wireguard is not None
        return member.wireguard  # one object for each key: thousands of look-ups then compare no bytes

    def _enter(
        self,
        connection: int,
        state: Connection,
        key: WireGuardKey,
        login: w.Login,
        now: float,
        *,
        settled: bool = False,
    ) -> list[Effect]:
        """A valid login: admit it, or let it wait for the answer of the connection with the same key.

        `settled`: the other mediators were asked already.
        """
        older = self._connections.online.get(key)
        if older is None:
            run = None if settled else self._peers.here.get(key)
            if run is None or not self._peers.can_answer(run):
                return self._admit(connection, state, key, login)
            state.waiting = login
            previous, source = _proof(login.previous), str(state.source)
            return [*self._peers.ask(key, run, connection, previous, source, now)]
        holder = self._connections[older]
        if login.previous == holder.nonce.hex():  # only the process of the older connection knows its nonce
            return self.evict(older) + self._admit(connection, state, key, login)
        state.waiting = login
        ping = self._duplicates.ask(key, older, connection, now)
        return [] if ping is None else [Send(older, w.Ping(ping))]

    def evict(self, older: int) -> list[Effect]:
        """The same host has reconnected: drop the older connection without an offline message to others."""
        member = self._connections[older].member
        assert member is not None
        del self._connections.online[member]
        return self._drop(older, "session.replaced", REPLACED)

    def _let_in(self, connection: int, now: float, *, settled: bool = False) -> list[Effect]:
        """The older connection has ended: process the waiting login."""
        state = self._connections.get(connection)
        if state is None or state.waiting is None:
            return []
        login, state.waiting = state.waiting, None
        try:  # the document may have changed meanwhile, and another login may have come first
            key = self._proven(state, login)
            return self._enter(connection, state, key, login, now, settled=settled)
        except RemoteError as error:
            return self._drop(connection, error.code, str(error))

    def ponged(self, connection: int, state: Connection, ping: int, now: float) -> list[Effect]:
        """A member has answered a ping: refuse the newer connections that waited for this answer."""
        assert state.member is not None
        effects: list[Effect] = []
        for number in self._duplicates.answered(connection, ping):
            other = self._connections[number].source if number > 0 else _source(self._peers.asker(number))
            if self._duplicates.note(state.member, state.source, other, now):
                effects.append(self._two_hosts(state.member, state.source, other))
            if number > 0:
                effects += self._drop(number, DUPLICATE, _waits(state.source))
            else:
                effects += self._word(number, str(state.source), lives=True)
            effects.append(Send(connection, w.Ping(0, other.host)))
        return effects

    def _two_hosts(self, key: WireGuardKey, holder: SocketAddress, other: SocketAddress) -> Say:
        name = self.membership.by_key[key].name
        return Say(f"'{name}' is two hosts with one key: {holder} stays, {other} waits")

    # -- logins at other mediators --------------------------------------------------------------------------

    def superseded(self, key: WireGuardKey) -> list[Effect]:
        """A member that is logged in here has logged in later at another mediator."""
        older = self._connections.online.get(key)
        if older is None:
            return []
        effects = self.evict(older)
        self._peers.went(key)
        return effects

    def asked(self, event: p.Asked, now: float) -> list[Effect]:
        """A member logs in at another mediator: does the connection that it has here live?"""
        older = self._connections.online.get(event.key)
        if older is None:
            return self._word(event.ticket, "", lives=False)
        if event.message.previous == _proof(self._connections[older].nonce.hex()):
            self._peers.hand(event.key, now)  # the other mediator tells everybody that the member is there
            return self.evict(older) + self._word(event.ticket, "", lives=False)
        ping = self._duplicates.ask(event.key, older, event.ticket, now)
        return [] if ping is None else [Send(older, w.Ping(ping))]

    def _word(self, ticket: int, source: str, *, lives: bool) -> list[Effect]:
        return [*self._peers.answer(ticket, source, lives=lives)]

    def answered(self, event: p.Answered, now: float) -> list[Effect]:
        """The word of the mediator that had the older connection, or none in time."""
        effects: list[Effect] = []
        for number in event.connections:
            state = self._connections.get(number)
            if state is None or state.waiting is None:
                continue
            if not event.lives:
                effects += self._let_in(number, now, settled=True)
                continue
            holder, key = _source(event.source), key_of(state.waiting.wireguard)
            if key in self.membership.by_key and self._duplicates.note(key, holder, state.source, now):
                effects.append(self._two_hosts(key, holder, state.source))
            effects += self._drop(number, DUPLICATE, _waits(holder))
        return effects


def _proof(previous: str) -> bytes:
    """What shows another mediator that a login knows the nonce of the connection before it, and not that nonce."""
    return hashlib.sha256(previous.encode()).digest() if previous else b""


def _waits(holder: SocketAddress) -> str:
    return f"another host with this key is connected, from {holder.host}: this one waits"


def _source(text: str) -> SocketAddress:
    """Where another mediator says that a member is connected from."""
    try:
        return SocketAddress.parse(text)
    except ValueError:
        return UNKNOWN_SOURCE
