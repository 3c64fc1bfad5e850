"""What members hold for good: leases, relay ports, ports of pairs. Shown only once the shell has stored it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from types import MappingProxyType

from mediator.core.effects import Store
from mediator.core.leasegrants import Exhausted, GrantLease, missing_leases, usable
from mediator.core.membership import Membership
from mediator.core.pairs import PairBook, PairGrant, pair_ports
from mediator.core.relay_grants import GRANT_TTL_S
from mediator.core.relay_pairs import PairPort
from netctl.model.addresses import Address
from netctl.model.derive import member_ipv6
from netctl.model.keys import WireGuardKey

STORE_RETRY_S = 2.0
"""A full disk or a locked store is asked again this often: it costs a thread one try, and nobody waits for it."""


class Allocations:
    """Leases by network id and key, relay ports by key, as the store has them."""

    def __init__(self) -> None:
        self._leases: dict[tuple[str, WireGuardKey], IPv4Address] = {}
        self._ports: dict[WireGuardKey, int] = {}
        self._resting: dict[int, int] = {}
        """Relay ports that were given up, and until when (Unix time) a grant for them can live."""
        self.ports_due: int | None = None
        """When (Unix time) a port that somebody waits for has rested."""
        self.pairs = PairBook()
        self.exhausted: tuple[Exhausted, ...] = ()
        """Who gets no address, and why."""
        self.store_due: float | None = None
        """When a store that has refused is asked again."""
        self._asked = False
        """The store has been asked and has not answered yet: it is asked for one thing at a time."""
        self._again = False
        """What is wanted has changed since the store was asked."""

    def restore(
        self,
        leases: Mapping[tuple[str, WireGuardKey], IPv4Address],
        ports: Mapping[WireGuardKey, int],
        pairs: Iterable[PairGrant] = (),
        resting: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """What the store holds at the start."""
        self._resting = dict(resting)
        self._leases = dict(leases)
        self._ports = dict(ports)
        self.pairs.restore(pairs)

    def restore_leases(self, leases: Mapping[tuple[str, WireGuardKey], IPv4Address]) -> None:
        """What the store holds after a member's key was replaced."""
        self._leases = dict(leases)

    def want(self, membership: Membership, relay_ports: tuple[int, int], unix_s: int) -> Store | None:
        """What this membership needs of the store, if anything; `unix_s`: seconds since 1970.

        Nothing while the store still owes an answer: what it was asked for counts only with that. `stored` says
        then whether to ask again.
        """
        if self._asked:
            self._again = True
            return None
        self.store_due = None
        self._resting = {port: until_s for port, until_s in self._resting.items() if unix_s < until_s}
        found = list(missing_leases(membership.document, self._leases))
        self.exhausted = tuple(item for item in found if isinstance(item, Exhausted))
        leases = tuple(item for item in found if isinstance(item, GrantLease))
        ports = tuple(self._missing_ports(membership.by_key, relay_ports))
        taken = {*self._ports.values(), *(port for _, port in ports)}
        pairs = tuple(self.pairs.missing(membership, relay_ports, taken, self._resting))
        given = {*self._ports, *(key for key, _ in ports)}
        waiting = self.pairs.without_port or not given.issuperset(membership.by_key)
        self.ports_due = min(self._resting.values(), default=None) if waiting else None
        given_up = [self._ports[key] for key, _ in ports if key in self._ports] + [
            *self.pairs.given_up(pairs)
        ]
        resting = tuple((port, unix_s + GRANT_TTL_S) for port in given_up)
        self._asked = bool(leases or ports or pairs)
        return Store(leases, ports, pairs, resting) if self._asked else None

    def stored(
        self,
        leases: Iterable[GrantLease],
        ports: Iterable[tuple[WireGuardKey, int]],
        pairs: Iterable[PairGrant] = (),
        resting: Iterable[tuple[int, int]] = (),
    ) -> bool:
        """The store was asked for these and has them. True: more is wanted by now, ask with `want`."""
        self.granted(leases)
        self._ports.update(ports)
        self.pairs.stored(pairs)
        self._resting.update(resting)
        again, self._asked, self._again = self._again, False, False
        return again

    def granted(self, leases: Iterable[GrantLease]) -> None:
        """These are committed, together with what they belong to."""
        for lease in leases:
            if lease.taken_from is not None:
                self._leases.pop((lease.network, lease.taken_from), None)
            self._leases[lease.network, lease.key] = lease.address

    def refused(self, now: float) -> None:
        """The store did not take what it was asked for; it is asked again later, for what is wanted then."""
        self.store_due = now + STORE_RETRY_S
        self._asked = self._again = False

    def is_due(self, now: float, unix_s: int) -> bool:
        """Whether to ask the store: again, or for a port that has rested."""
        ports = self.ports_due is not None and unix_s >= self.ports_due
        return ports or (self.store_due is not None and now >= self.store_due)

    def forget(self, key: WireGuardKey, unix_s: int) -> None:
        """A member is one no longer. Its relay port rests as long as it may have a grant for it.

        With such a grant it can bind the port at the relay, which knows no members: nobody else may have it then.
        """
        port = self._ports.pop(key, None)
        if port is not None:
            self._resting[port] = unix_s + GRANT_TTL_S

    def port(self, key: WireGuardKey) -> int | None:
        """A member's relay port."""
        return self._ports.get(key)

    def pair_ports(self) -> list[PairPort]:
        """What the relay is to know of pairs."""
        return pair_ports(self.pairs.held(), self._ports)

    def addresses(
        self, membership: Membership, network_name: str, name: str, key: WireGuardKey
    ) -> tuple[Address, ...]:
        """What a member has in a network: fixed by the document, leased, derived."""
        network = membership.document.networks[network_name]
        found: dict[int, Address] = {address.version: address for address in network.addresses.get(name, ())}
        leased = self._leases.get((network.id, key))
        if leased in membership.fixed[network_name]:
            leased = None  # the document has given it to somebody; a new lease is not stored yet
        if leased is not None and network.ipv4 is not None and usable(network.ipv4, leased):
            found.setdefault(4, leased)
        if network.ipv6 is not None:
            found.setdefault(6, member_ipv6(network.ipv6, key))
        return tuple(found[version] for version in sorted(found))

    def _missing_ports(
        self, keys: Iterable[WireGuardKey], relay_ports: tuple[int, int]
    ) -> Iterable[tuple[WireGuardKey, int]]:
        first, last = relay_ports
        taken = {*self._ports.values(), *self.pairs.ports(), *self._resting}
        free = (port for port in range(first, last + 1) if port not in taken)
        for key in keys:
            held = self._ports.get(key)
            if held is None or not first <= held <= last:
                port = next(free, None)
                if port is None:
                    return
                yield key, port
