"""One member's half of a relay binding to one peer, sans-IO (messages in `netctl.wire.relay`).

state       event                       next
UNGRANTED   grant                       BINDING
BINDING     cookie                      CONFIRMING
CONFIRMING  bound                       BOUND
CONFIRMING  cookie                      CONFIRMING   (with the new cookie)
CONFIRMING  lost                        BINDING
BOUND       bound                       BOUND
BOUND       cookie                      CONFIRMING   (our source address changed)
BOUND       lost                        BINDING
any         grant                       BINDING, or unchanged when BOUND at the same address
any         release                     UNGRANTED or BINDING at rest: nothing is sent until `want`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.paths.constants import (
    GRANT_RENEW,
    GRANT_RETRY,
    RELAY_LOST_AFTER,
    RELAY_REFRESH,
    RELAY_REGRANT,
    RELAY_RETRY,
    RELAY_WAIT_PEER,
)
from netctl.paths.effects import SendControl, SendDatagram
from netctl.wire import relay
from netctl.wire.control import RelayGrant, RelayRequest


class RelayState(Enum):
    """See the table above."""

    UNGRANTED = "ungranted"
    BINDING = "binding"
    CONFIRMING = "confirming"
    BOUND = "bound"


def _step(steps: Sequence[float], attempt: int) -> float:
    return steps[min(attempt, len(steps) - 1)]


class RelayLink:
    """Binds when wanted, refreshes while wanted, keeps the grant for later."""

    def __init__(self, peer: str, rng: Callable[[int], bytes]) -> None:
        self._peer = peer
        self._rng = rng
        self.state = RelayState.UNGRANTED
        self.wanted = False
        self.address: SocketAddress | None = None
        """The relay's port of this peer: what the engine's endpoint is set to."""
        self.peer_bound = False
        self._allocation: relay.Allocation | None = None
        self._key = b""
        self._cookie = b""
        self._transactions: list[bytes] = []
        self._attempts = 0
        self._due: float | None = None
        self._grant_attempts = 0
        self._grant_due: float | None = None
        self._granted_at = 0.0

    @property
    def usable(self) -> bool:
        """Packets flow: both sides are bound."""
        return self.state is RelayState.BOUND and self.peer_bound

    def want(self, now: float) -> None:
        """Bind, and stay bound."""
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
        if self.state is not RelayState.UNGRANTED:
            self.state = RelayState.BINDING

    def refresh(self, now: float) -> None:
        """Ask the relay now: something is odd with this path."""
        if self.state is RelayState.BOUND:
            self._due = now

    def control_up(self, now: float) -> None:
        """A grant can be had again."""
        self._grant_attempts = 0
        if self.state is not RelayState.UNGRANTED:
            self._grant_due = max(now, self._granted_at + GRANT_RENEW)
        elif self.wanted:
            self._grant_due = now

    def handle_grant(self, grant: RelayGrant, now: float) -> None:
        """The mediator's answer. Ignored when it cannot be read."""
        try:
            address = SocketAddress.parse(grant.address)
            allocation = relay.Allocation.unpack(bytes.fromhex(grant.allocation))
            key = bytes.fromhex(grant.key)
        except (ValueError, RemoteError):
            return
        if len(key) != relay.KEY_LEN:
            return
        same = address == self.address and self.state is RelayState.BOUND
        self.address, self._allocation, self._key = address, allocation, key
        self._grant_attempts = 0
        self._granted_at = now
        self._grant_due = now + GRANT_RENEW
        if not same:
            self.peer_bound = False
            self._cookie = b""
            self._begin(RelayState.BINDING, now)

    def handle_datagram(self, data: bytes, source: SocketAddress, now: float) -> bool:
        """A relay message from our relay address; True if `usable` changed."""
        if source != self.address or self._allocation is None or not self.wanted:
            return False
        try:
            message = relay.open_message(data, self._key)
        except RemoteError:
            return False
        before = self.usable
        match message:
            case relay.Cookie(transaction, cookie) if transaction in self._transactions:
                self._cookie = cookie
                self._begin(RelayState.CONFIRMING, now)
            case relay.Bound(transaction, flags, _) if self._cookie and transaction in self._transactions:
                self.state = RelayState.BOUND
                was_bound, self.peer_bound = self.peer_bound, bool(flags & relay.BoundFlag.PEER_BOUND)
                self._transactions = [transaction]  # the relay repeats it when the peer becomes bound
                self._attempts = 0 if self.peer_bound or was_bound else self._attempts
                self._due = now + (
                    RELAY_REFRESH if self.peer_bound else _step(RELAY_WAIT_PEER, self._attempts)
                )
        return self.usable != before

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return min((due for due in (self._due, self._grant_due) if due is not None), default=None)

    def handle_timer(self, now: float, online: bool) -> list[SendDatagram | SendControl]:
        """What is due; `online` says whether there is a control connection to ask for a grant on."""
        effects: list[SendDatagram | SendControl] = []
        if self._grant_due is not None and now >= self._grant_due:
            self._grant_due = now + _step(GRANT_RETRY, self._grant_attempts) if online else None
            self._grant_attempts += 1
            if online:
                effects.append(SendControl(RelayRequest(peer=self._peer)))
        if self._due is None or now < self._due or self._allocation is None or self.address is None:
            return effects
        if self.state is RelayState.BOUND and self.peer_bound and self._attempts >= RELAY_LOST_AFTER:
            self.peer_bound = False
            self._begin(RelayState.BINDING, now)
        elif self.state is RelayState.CONFIRMING and self._attempts >= len(RELAY_RETRY):
            self._begin(RelayState.BINDING, now)
        if self.state is RelayState.BINDING and self._attempts % RELAY_REGRANT == RELAY_REGRANT - 1:
            self._grant_due = now  # a relay that has changed its secret stays silent to old grants
        transaction = self._rng(relay.TRANSACTION_LEN)
        self._transactions = [*self._transactions[-3:], transaction]
        message = (
            relay.Bind(self._allocation, transaction)
            if self.state is RelayState.BINDING
            else relay.Confirm(self._allocation, transaction, self._cookie)
        )
        effects.append(SendDatagram(self.address, relay.seal(message, self._key)))
        steps = RELAY_WAIT_PEER if self.state is RelayState.BOUND and not self.peer_bound else RELAY_RETRY
        self._due = now + _step(steps, self._attempts)
        self._attempts += 1
        return effects

    def describe(self) -> str | None:
        """Why the relay does not carry this pair, for people; None if it does or is not wanted."""
        if self.usable or not self.wanted:
            return None
        if self.state is RelayState.UNGRANTED:
            return "relay: no grant from the mediator yet"
        if self.state is RelayState.BOUND:
            return f"relay {self.address}: the peer has not come to it"
        return f"relay {self.address}: no answer"

    def _begin(self, state: RelayState, now: float) -> None:
        self.state = state
        self._attempts = 0
        self._due = now if self.wanted else None
