"""Probes of one pair that the relay carries. They measure the largest packet that passes there; they choose no
path.

event                                 what follows
the relay carries the pair for 3 s,   a small ping, at most `MTU_TRIES`: a relay or a peer of an older release drops it
or packets flow there
the peer's pong to it                 padded pings (`netctl.paths.mtuprobe`)
a ping of the peer                    a pong by the relay in use

One ping measures both legs, each over UDP or TLS, because the relay sends it on in the size in which it came.
Without I/O.
"""

from __future__ import annotations

from netctl.model.addresses import SocketAddress
from netctl.paths.constants import MTU_RELAYED_AFTER, MTU_RETRY, MTU_TRIES
from netctl.paths.effects import SendDatagram, SendFrame
from netctl.paths.relaychoice import PairRelays
from netctl.paths.routes import Routes
from netctl.wire.probe import Probe


class RelayedProbes:
    """The relayed probes of one pair. Times are monotonic seconds."""

    def __init__(self, relay: PairRelays, routes: Routes) -> None:
        self._relay, self._routes = relay, routes
        self._left = 0
        """Count of small pings that may still be sent."""
        self._asked: set[bytes] = set()
        """Transactions of the small pings that were sent."""
        self.due: float | None = None
        """When to call `ask`."""

    def begin(self, now: float) -> None:
        """The relay begins to carry the pair, or carries it in another way: plan small pings."""
        self._asked.clear()
        self._left, self.due = MTU_TRIES, now + MTU_RELAYED_AFTER

    def flows(self, now: float) -> None:
        """Packets flow: the first small ping is due now."""
        if self._left == MTU_TRIES:
            self.due = now

    def rest(self) -> None:
        """The relay carries the pair no longer, or the size is known: send no small pings."""
        self._asked.clear()
        self._left, self.due = 0, None

    def ask(self, now: float) -> list[SendDatagram | SendFrame]:
        """What to send for the small ping that is due; empty: none is due."""
        if self.due is None or now < self.due:
            return []
        if not self._left:
            self.rest()
            return []
        self._left -= 1
        self.due = now + MTU_RETRY
        transaction, data = self._routes.relayed_ping(0, now)
        self._asked.add(transaction)
        return self._relay.carry(data)

    def padded(self, size: int, now: float) -> tuple[bytes, list[SendDatagram | SendFrame]]:
        """(transaction, what to send) of a ping that is as large as a packet of `size` bytes in the tunnel."""
        transaction, data = self._routes.relayed_ping(size, now)
        return transaction, self._relay.carry(data, whole=True)

    def answer(self, ping: Probe, source: SocketAddress, now: float) -> list[SendDatagram | SendFrame]:
        """What to send for the pong to a ping of the peer, which came from `source`; empty for a replayed
        ping."""
        if not self._routes.freshness.takes(ping, now, from_peer=False):
            return []
        pong = self._routes.relayed_pong(ping, source, now)
        return [] if pong is None else self._relay.carry(pong)

    def answered(self, transaction: bytes) -> bool:
        """Take the transaction of a pong. True: it is the first answer to a small ping."""
        if transaction not in self._asked:
            return False
        self.rest()
        return True
