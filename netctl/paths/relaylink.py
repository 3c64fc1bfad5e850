"""One member's half of a relay binding to one peer, without I/O (messages in `netctl.wire.relay`).

state       event                       next
UNGRANTED   grant                       BINDING
BINDING     cookie                      CONFIRMING   (with the server that sent it, of any family)
CONFIRMING  bound                       BOUND
CONFIRMING  cookie                      CONFIRMING   (with the new cookie)
CONFIRMING  lost                        BINDING
BOUND       bound                       BOUND
BOUND       cookie                      RENEWING     (the old cookie is too old, or our source address changed)
BOUND       lost                        BINDING
RENEWING    bound                       BOUND        (packets continued meanwhile)
RENEWING    cookie                      RENEWING
RENEWING    lost                        BINDING
any         grant                       BINDING, or unchanged when BOUND or RENEWING at the same address
any by UDP  tunnel up, UDP silent       BINDING by TLS
any by TLS  tunnel down                 BINDING by UDP
BOUND       UDP trial succeeds          BOUND by UDP (`netctl.paths.udptrial`)
any         release                     UNGRANTED or BINDING at rest: nothing is sent until `want`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from netctl.model.addresses import SocketAddress
from netctl.model.deadlines import earliest
from netctl.model.errors import RemoteError
from netctl.paths.constants import (
    GRANT_RENEW,
    GRANT_RETRY,
    RELAY_LOST_AFTER,
    RELAY_REFRESH,
    RELAY_REGRANT,
    RELAY_REGRANT_FIRST,
    RELAY_RETRY,
    RELAY_WAIT_PEER,
    RELAY_WAIT_REGRANT,
    UDP_SILENT,
    UDP_SILENT_TUNNEL,
)
from netctl.paths.effects import SendControl, SendDatagram, SendFrame
from netctl.paths.udptrial import UdpTrial
from netctl.wire import relay
from netctl.wire.control import RelayGrant, RelayRequest


class RelayState(Enum):
    """See the table above."""

    UNGRANTED = "ungranted"
    BINDING = "binding"
    CONFIRMING = "confirming"
    BOUND = "bound"
    RENEWING = "renewing"


_HELD = (RelayState.BOUND, RelayState.RENEWING)
"""States in which the relay has a binding of ours."""


LinkEffect = SendDatagram | SendFrame | SendControl


def stand_in(allocation: relay.Allocation) -> SocketAddress:
    """The loopback address that is a peer's endpoint while TLS carries its packets; another one for each pair."""
    high, low = divmod(allocation.own_port, 256)
    return SocketAddress(f"127.{high}.{low}.1", allocation.peer_port)


def _step(steps: Sequence[float], attempt: int) -> float:
    return steps[min(attempt, len(steps) - 1)]


class RelayLink:
    """Binds to the relay when wanted, refreshes the binding while wanted, and keeps the grant for later."""

    def __init__(self, peer: str, rng: Callable[[int], bytes], name: str = "") -> None:
        """`name`: what requests for grants call the relay; empty: the one beside the mediator that is asked."""
        self._peer = peer
        self.name = name
        self._rng = rng
        self.state = RelayState.UNGRANTED
        self.wanted = False
        self.servers: tuple[SocketAddress, ...] = ()
        """The relay's addresses with this peer's port, in each family of the relay."""
        self.server: SocketAddress | None = None
        """The one of `servers` that answered last, or else the first."""
        self.by_tls = False
        """Whether frames over TLS carry this pair's packets, not datagrams."""
        self._tunnel = False
        self._silence = 0
        """Count of messages over UDP since the last answer over UDP."""
        self._trial: UdpTrial | None = None
        self._changed = False
        """Whether the last answer changed `usable`."""
        self.peer_bound = False
        self.answered_at = float("-inf")
        """When the relay last answered."""
        self._allocation: relay.Allocation | None = None
        self._key = b""
        self._cookie = b""
        self._transactions: list[bytes] = []
        self._attempts = 0
        self._due: float | None = None
        self._grant_attempts = 0
        self._grant_due: float | None = None
        self._granted_at = 0.0
        """When the grant came; suspend since then is taken off."""
        self._grant_missed = False
        """A request for a grant was due while there was no control connection."""

    @property
    def address(self) -> SocketAddress | None:
        """The endpoint for the engine: the relay, or the stand-in while TLS carries the packets."""
        if self.by_tls and self._allocation is not None:
            return stand_in(self._allocation)
        return self.server

    @property
    def needs_tunnel(self) -> bool:
        """Whether the TLS connection is needed, because UDP does not reach the relay."""
        return self.wanted and self._allocation is not None and (self.by_tls or self._silence >= UDP_SILENT)

    @property
    def usable(self) -> bool:
        """Whether packets flow, because both sides are bound."""
        return self.state in _HELD and self.peer_bound

    def carry(self, data: bytes, *, whole: bool = False) -> list[SendDatagram | SendFrame]:
        """How something goes to the peer by the relay as it is bound now. `whole`: not in fragments, on our own leg."""
        if not self.usable or self.server is None:
            return []
        if self.by_tls:
            return [SendFrame(self.server.port, data)]
        return [SendDatagram(self.server, data, whole=whole)]

    @property
    def quiet(self) -> bool:
        """The relay owes answers."""
        return self.wanted and not self.by_tls and self._silence >= RELAY_LOST_AFTER

    def prepare(self, now: float) -> None:
        """Have a grant, and bind nothing: where the mediator is gone with the relay in use, there is another."""
        if self.state is RelayState.UNGRANTED and self._grant_due is None and not self._grant_attempts:
            self._grant_due = now

    def want(self, now: float) -> None:
        """Bind, and keep the binding."""
        if self.wanted:
            return
        self.wanted = True
        if self.state is RelayState.UNGRANTED:
            self._grant_due = now
        else:
            self._begin(RelayState.CONFIRMING if self._cookie else RelayState.BINDING, now)

    def release(self) -> None:
        """Stop refreshing: the relay forgets the binding by itself."""
        self.wanted = False
        self._due = None
        self.peer_bound = False
        self._udp()
        if self.state is not RelayState.UNGRANTED:
            self.state = RelayState.BINDING

    def refresh(self, now: float) -> None:
        """Refresh the binding now, after a sign that the path does not work. One that is unanswered already is repeated
        soon.
        """
        if self.state is RelayState.BOUND and not (self.usable and self._attempts):
            self._due = now

    def set_tunnel(self, up: bool, now: float) -> None:
        """The TLS connection to the relay is up or down."""
        self._tunnel = up
        if up:
            self._consider_tls(now)
        elif self.by_tls:
            silence = self._silence
            self._udp()
            self._silence = max(silence, UDP_SILENT)  # UDP has not been shown to work: TLS stays needed
            self.peer_bound = False
            self._cookie = b""
            self._begin(RelayState.BINDING, now)

    def try_udp(self, now: float) -> None:
        """Try UDP now, after a change of the network."""
        if self._trial is not None:
            self._trial.soon(now)

    def _udp(self) -> None:
        if self.by_tls:
            self._cookie = b""  # the cookie is valid for the connection, not for our UDP address
        self.by_tls, self._trial, self._silence = False, None, 0

    def _consider_tls(self, now: float) -> None:
        """Change to the TLS connection if it is up and UDP is silent."""
        if self.by_tls or not self._tunnel or not self.wanted or self._allocation is None or self.usable:
            return
        if self._silence >= UDP_SILENT_TUNNEL:
            self.by_tls = True
            self._trial = UdpTrial(self._allocation, self._key, self._rng, now)
            self._cookie = b""
            self.peer_bound = False
            self._begin(RelayState.BINDING, now)

    def control_up(self, now: float) -> None:
        """The mediator is connected: a grant can be requested again."""
        self._grant_attempts = 0
        if self._grant_missed:
            self._grant_due = now
        elif self.state is not RelayState.UNGRANTED:
            self._grant_due = max(now, self._granted_at + GRANT_RENEW)
        elif self.wanted:
            self._grant_due = now

    def woke(self, now: float, suspended_s: float) -> None:
        """The host was suspended for so long, and `now` stood still: request a new grant now if that is due."""
        self._granted_at -= suspended_s
        if self.state is not RelayState.UNGRANTED and now >= self._granted_at + GRANT_RENEW:
            self._grant_attempts = 0
            self._grant_due = now

    def handle_grant(self, grant: RelayGrant, now: float, servers: tuple[SocketAddress, ...] = ()) -> None:
        """Take a grant from the mediator. A malformed one is ignored.

        `servers`: the relay's addresses for which `grant.address` stands, if there are several.
        """
        try:
            servers = servers or (SocketAddress.parse(grant.address),)
            allocation = relay.Allocation.unpack(bytes.fromhex(grant.allocation))
            key = bytes.fromhex(grant.key)
        except (ValueError, RemoteError):
            return
        if len(key) != relay.KEY_LEN:
            return
        same = self.server in servers and self.state in _HELD
        self.servers, self._allocation, self._key = servers, allocation, key
        self.server = self.server if same else servers[0]
        self._grant_attempts = 0
        self._grant_missed = False
        self._granted_at = now
        self._grant_due = now + GRANT_RENEW
        if self._trial is not None:
            self._trial = UdpTrial(allocation, key, self._rng, now)
        if not same:
            self.peer_bound = False
            self._cookie = b""
            self._begin(RelayState.BINDING, now)

    def handle_datagram(self, data: bytes, source: SocketAddress, now: float) -> bool:
        """Take a relay message over UDP from our relay address; True if `usable` or `address` changed."""
        if source not in self.servers or self._allocation is None or not self.wanted:
            return False
        choosing = self.state is RelayState.BINDING if self._trial is None else not self._trial.cookie
        if source != self.server and not choosing:
            return False  # the other family's answer came first, and the cookie is valid only for our address there
        try:
            message = relay.open_message(data, self._key)
        except RemoteError:
            return False
        if self._trial is None:
            if not self._answered(message, now):
                return False
            self.server = source
            self._silence = 0
            return self._changed
        bound = self._trial.handle(message, now)
        if self._trial.cookie:
            self.server = source
        if bound is None:
            return False
        cookie = self._trial.cookie
        self._udp()
        self._cookie = cookie
        self.state = RelayState.BOUND
        self._transactions = [bound.transaction]
        self._answered(bound, now)
        return True

    def handle_frame(self, data: bytes, now: float) -> bool:
        """Take a relay message over TLS, of our peer's port; True if `usable` changed."""
        if not self.by_tls or not self.wanted:
            return False
        try:
            message = relay.open_message(data, self._key)
        except RemoteError:
            return False
        return self._answered(message, now) and self._changed

    def _answered(self, message: relay.RelayMessage, now: float) -> bool:
        """Take an answer whose MAC was checked; False: it answers none of our messages."""
        before = self.usable
        match message:
            case relay.Cookie(transaction, cookie) if transaction in self._transactions:
                self._cookie = cookie
                self._begin(RelayState.RENEWING if self.usable else RelayState.CONFIRMING, now)
            case relay.Bound(transaction, flags, _) if self._cookie and transaction in self._transactions:
                self.state = RelayState.BOUND
                was_bound, self.peer_bound = self.peer_bound, bool(flags & relay.BoundFlag.PEER_BOUND)
                self._transactions = [transaction]  # the relay repeats it when the peer becomes bound
                self._attempts = 0 if self.peer_bound or was_bound else self._attempts
                self._due = now + (
                    RELAY_REFRESH if self.peer_bound else _step(RELAY_WAIT_PEER, self._attempts)
                )
            case _:
                return False
        self.answered_at = now
        self._changed = self.usable != before
        return True

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return earliest(self._due, self._grant_due, self._trial.due if self._trial is not None else None)

    def is_due(self, now: float) -> bool:
        """Whether `handle_timer` may do anything."""
        due = self.next_timer()
        return self._tunnel or (due is not None and now >= due)

    def handle_timer(self, now: float, online: bool) -> list[LinkEffect]:
        """Perform what is due; `online`: there is a control connection, over which a grant can be requested."""
        effects: list[LinkEffect] = []
        if self._trial is not None and self.server is not None:
            question, moved = self._trial.handle_timer(now)
            if question is not None:
                asked = (self.server,) if self._trial.cookie else self.servers
                effects += [SendDatagram(server, question) for server in asked]
            if moved:
                self.refresh(now)  # the relay may send where nothing arrives: move the binding back
        if self._grant_due is not None and now >= self._grant_due:
            self._grant_due = now + _step(GRANT_RETRY, self._grant_attempts) if online else None
            self._grant_attempts += 1
            self._grant_missed = not online
            if online:
                effects.append(SendControl(RelayRequest(self._peer, self.name)))
        self._consider_tls(now)
        if self._due is None or now < self._due or self._allocation is None or self.server is None:
            return effects
        silent = self.state is RelayState.BOUND and not self.by_tls and self._silence > RELAY_LOST_AFTER
        if silent or (self.usable and self._attempts >= RELAY_LOST_AFTER):
            self.peer_bound = False
            self._begin(RelayState.BINDING, now)
            self._grant_due = now  # the relay may no longer accept the grant
        elif self.state is RelayState.CONFIRMING and self._attempts >= len(RELAY_RETRY):
            self._begin(RelayState.BINDING, now)
        if self.state is RelayState.BINDING and self._attempts % RELAY_REGRANT == RELAY_REGRANT_FIRST - 1:
            self._grant_due = now  # a relay with a changed secret does not answer old grants
        if self.state is RelayState.BOUND and not self.peer_bound and self._attempts == RELAY_WAIT_REGRANT:
            self._grant_due = now
        transaction = self._rng(relay.TRANSACTION_LEN)
        self._transactions = [*self._transactions[-3:], transaction]
        message = (
            relay.Bind(self._allocation, transaction)
            if self.state is RelayState.BINDING
            else relay.Confirm(self._allocation, transaction, self._cookie)
        )
        sealed = relay.seal(message, self._key)
        if self.by_tls:
            effects.append(SendFrame(self.server.port, sealed))
        else:
            everywhere = self.state is RelayState.BINDING and self._attempts
            asked = self.servers if everywhere else (self.server,)
            effects += [SendDatagram(server, sealed) for server in asked]
            self._silence += 1
        steps = RELAY_WAIT_PEER if self.state is RelayState.BOUND and not self.peer_bound else RELAY_RETRY
        self._due = now + _step(steps, self._attempts)
        self._attempts += 1
        return effects

    def describe(self) -> str | None:
        """Why the relay does not carry this pair's packets (by UDP), for people; None: it does, or is not wanted."""
        if self.by_tls:
            return f"relay {self.server} over UDP: no answer, UDP is blocked; asked again every minute"
        if self.usable or not self.wanted:
            return None
        if self.state is RelayState.UNGRANTED:
            return "relay: no grant from the mediator yet"
        if self.state is RelayState.BOUND:
            return f"relay {self.server}: the peer has not come to it"
        return f"relay {self.server}: no answer"

    def _begin(self, state: RelayState, now: float) -> None:
        self.state = state
        self._attempts = 0
        self._due = now if self.wanted else None
