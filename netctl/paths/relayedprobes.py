"""Probes of one pair that the relay carries: they show how large a packet passes there, and choose no path.

event                                 what follows
the relay carries the pair for 3 s,   a small ping, at most `MTU_TRIES`: a relay or a peer of an older release drops it
or packets flow there
the peer's pong to it                 padded pings (`netctl.paths.mtuprobe`)
a ping of the peer                    a pong by the relay in use

Both legs are measured at once, each over UDP or TLS: the ping is as large on the way from the relay to the peer as it
was on the way to the relay. Sans-IO.
"""

from __future__ import annotations

from netctl.model.addresses import SocketAddress
from netctl.paths.constants import MTU_RELAYED_AFTER, MTU_RETRY, MTU_TRIES
from netctl.paths.effects import SendDatagram, SendFrame
from netctl.paths.relaychoice import PairRelays
from netctl.paths.routes import Routes
from netctl.wire.probe import Probe


class RelayedProbes:
    """Of one pair. Times are monotonic seconds."""

    def __init__(self, relay: PairRelays, routes: Routes) -> None:
        self._relay, self._routes = relay, routes
        self._left = 0
        """Small pings that may still be sent."""
        self._asked: set[bytes] = set()
        self.due: float | None = None
        """When to call `ask`."""

    def begin(self, now: float) -> None:
        """The relay carries the pair from now on, or in another way."""
        self._asked.clear()
        self._left, self.due = MTU_TRIES, now + MTU_RELAYED_AFTER

    def flows(self, now: float) -> None:
        """Packets flow."""
        if self._left == MTU_TRIES:
            self.due = now

    def rest(self) -> None:
        """It carries no more."""
        self._asked.clear()
        self._left, self.due = 0, None

    def ask(self, now: float) -> list[SendDatagram | SendFrame]:
        """The small ping that is due."""
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
        """A ping as large as a packet of `size` bytes in the tunnel, and its transaction."""
        transaction, data = self._routes.relayed_ping(size, now)
        return transaction, self._relay.carry(data, whole=True)

    def answer(self, ping: Probe, source: SocketAddress, now: float) -> list[SendDatagram | SendFrame]:
        """The pong to a ping of the peer; nothing to one that is somebody's copy."""
        if not self._routes.freshness.takes(ping, now, from_peer=False):
            return []
        pong = self._routes.relayed_pong(ping, source, now)
        return [] if pong is None else self._relay.carry(pong)

    def answered(self, transaction: bytes) -> bool:
        """A pong came; True: it is the first to a small ping."""
        if transaction not in self._asked:
            return False
        self.rest()
        return True
