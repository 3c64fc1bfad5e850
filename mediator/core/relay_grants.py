"""Relay grants: made by the mediator, checked offline by the relay that has the same secret.

The relay beside the mediator is given that secret. A relay apart (`role: relay`) is told nothing: both compute it
(`netctl.wire.relaysecret`), and the relay's ports are the mediator's counted from the first of its own range. So what
the store knows of ports, and how long they rest, is true for every relay.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from netctl.model.document import Mediator
from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey
from netctl.wire.relay import SECRET_LEN, Allocation

GRANT_TTL_S = 6 * 3600
"""Long enough that a network survives hours without a mediator, short enough that a revoked member's right ends the
same day.
"""

Agreement = Callable[[IdentityKey], bytes]
"""The secret with the relay that has this identity. Raises RemoteError where none can be agreed on."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a `RelayGrant` message carries to a member."""

    allocation: str
    """Hex of the packed allocation."""
    key: str
    """Hex of the allocation's key, 32 bytes: secret, for the granted member only."""
    expires_s: int
    """Unix time."""
    port: int
    """The relay's port for the peer."""


def grant(secret: bytes, own_port: int, peer_port: int, expires_s: int) -> Grant:
    """Let the member with relay port `own_port` send to the one with `peer_port` until `expires_s`.

    Raises ValueError for a secret of the wrong length or equal ports.
    """
    if len(secret) != SECRET_LEN:
        raise ValueError(f"a relay secret is {SECRET_LEN} bytes")
    if own_port == peer_port or not (0 < own_port < 65536 and 0 < peer_port < 65536):
        raise ValueError("a grant is between two different ports")
    allocation = Allocation(own_port, peer_port, expires_s)
    return Grant(allocation.pack().hex(), allocation.key(secret).hex(), expires_s, peer_port)


def nobody(relay: IdentityKey) -> bytes:
    """The agreement of a mediator without relays apart. Raises RemoteError."""
    raise RemoteError(f"nothing is agreed on with {relay}", "relay.key")


def usable(own: int, peer: int, unheld: Container[int], *, at_pair: bool) -> bool:
    """Whether a relay can carry packets from the member with port `own` to `peer`.

    `unheld`: ports that the relay could not bind. `at_pair`: `peer` is the port of a pair with a stock app, at which
    the relay both sends and receives.
    """
    return peer not in unheld and (at_pair or own not in unheld)


class RelaysApart:
    """Grants for the document's relays apart."""

    def __init__(self, agree: Agreement = nobody) -> None:
        self._agree = agree
        self._relays: dict[str, tuple[Mediator, bytes]] = {}
        """By identity, as members name it."""
        self._circles: dict[str, tuple[frozenset[str], ...]] = {}
        """By identity of a member that relays: it carries pairs of two members of one set alone."""
        self._said: list[str] = []

    def load(
        self,
        mediators: Iterable[Mediator],
        ports: tuple[int, int],
        circles: Callable[[Mediator], tuple[frozenset[str], ...] | None] = lambda _: None,
    ) -> list[str]:
        """Take the document's relays; returns what is new to say of those that members cannot use, or not whole.

        `ports`: the first and the last of this mediator's own relay ports. `circles`: as `Document.circles`.
        """
        self._relays, self._circles, said = {}, {}, []
        wanted = ports[1] - ports[0] + 1
        for relay in mediators:
            if not relay.relay_only:
                continue
            where = f"the relay at {relay.host}:{relay.port}"
            if relay.member:
                where = f"the relay that is '{relay.member}'"
            room = relay.relay_ports[1] - relay.relay_ports[0] + 1
            if len(relay.identity) > 1:
                said.append(f"{where} is used by the first of its identities alone, {relay.identity[0]}")
            if room < wanted:
                said.append(
                    f"{where} has {room} relayPorts, and this mediator {wanted}: members whose port is beyond the "
                    f"first {room} get no grant for it"
                )
            try:
                self._relays[str(relay.identity[0])] = relay, self._agree(relay.identity[0])
            except RemoteError as error:
                said.append(f"{where} is left out: {error}")
                continue
            if (found := circles(relay)) is not None:
                self._circles[str(relay.identity[0])] = found
        new = [line for line in said if line not in self._said]
        self._said = said
        return new

    def carries(self, relay: str, one: str, other: str) -> bool:
        """Whether this relay may carry packets between these two members: one that is a member, in its networks."""
        found = self._circles.get(relay)
        return found is None or any(one in circle and other in circle for circle in found)

    def grant(
        self,
        relay: str,
        first: int,
        own: int,
        peer: int,
        expires_s: int,
        unheld: Container[int] = (),
        *,
        at_pair: bool = False,
    ) -> Grant | None:
        """A grant at this relay for two ports of the mediator's range, which begins at `first`; None: it has none.

        `unheld`, `at_pair`: as of `usable`.
        """
        found = self._relays.get(relay)
        if found is None:
            return None
        (low, high), secret = found[0].relay_ports, found[1]
        ports = [low + port - first for port in (own, peer)]
        if not all(low <= port <= high for port in ports):
            return None
        if not usable(ports[0], ports[1], unheld, at_pair=at_pair):
            return None
        return grant(secret, ports[0], ports[1], expires_s)
