"""Durable allocations of members: leases, relay ports, ports of pairs. They take effect once they are stored."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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
"""Retry interval for a full disk or a locked store: a retry costs a thread one attempt, and nobody waits for it."""


class Allocations:
    """Leases by (network id, key) and relay ports by key, as stored."""

    def __init__(self) -> None:
        self._leases: dict[tuple[str, WireGuardKey], IPv4Address] = {}
        self._ports: dict[WireGuardKey, int] = {}
        self._resting: dict[int, int] = {}
        """Given-up relay ports, with the Unix time until which a grant for them may be valid."""
        self.ports_due: int | None = None
        """Unix time at which the first resting port is free; None: nobody waits for a port."""
        self.pairs = PairBook()
        self.exhausted: tuple[Exhausted, ...] = ()
        """Members without an address, and why."""
        self.store_due: float | None = None
        """When to ask the store again after a refusal (monotonic); None: no refusal."""
        self._asked = False
        """Whether a request to the store is open; there is one at a time."""
        self._again = False
        """Whether the wanted allocations have changed since that request."""

    def restore(
        self,
        leases: Mapping[tuple[str, WireGuardKey], IPv4Address],
        ports: Mapping[WireGuardKey, int],
        pairs: Iterable[PairGrant] = (),
        resting: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """Take the store's content, at the start and after each reading."""
        self._resting = dict(resting)
        self._leases = dict(leases)
        self._ports = dict(ports)
        self.pairs.restore(pairs)

    def release(self) -> None:
        """Drop the open request; the next `want` decides anew."""
        self._asked = self._again = False

    def rekeyed(
        self, keys: Collection[WireGuardKey], leases: Mapping[tuple[str, WireGuardKey], IPv4Address]
    ) -> None:
        """A member's key was replaced: `leases` are all that the store has of its two keys now."""
        for lease in [lease for lease in self._leases if lease[1] in keys]:
            del self._leases[lease]
        self._leases.update(leases)

    def want(
        self,
        membership: Membership,
        relay_ports: tuple[int, int],
        unix_s: int,
        avoid: Collection[int] = (),
        leave: Collection[int] = (),
    ) -> Store | None:
        """The request to the store for missing allocations, or None; `unix_s`: seconds since 1970.

        `avoid`: ports that nobody is given now. `leave`: those of them whose members get other ones. A pair with a
        stock app keeps its port, which is in the app's configuration.

        None also while another request is open: its allocations count only with the answer. `stored` then says
        whether to ask again.
        """
        if self._asked:
            self._again = True
            return None
        self.store_due = None
        self._resting = {port: until_s for port, until_s in self._resting.items() if unix_s < until_s}
        found = list(missing_leases(membership.document, self._leases))
        self.exhausted = tuple(item for item in found if isinstance(item, Exhausted))
        leases = tuple(item for item in found if isinstance(item, GrantLease))
        ports = tuple(self._missing_ports(membership.by_key, relay_ports, avoid, leave))
        taken = {*self._ports.values(), *(port for _, port in ports)}
        pairs = tuple(self.pairs.missing(membership, relay_ports, taken, {*self._resting, *avoid}))
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
        """The store has committed a request. True: more is wanted by now, so call `want`."""
        self.granted(leases)
        self._ports.update(ports)
        self.pairs.stored(pairs)
        self._resting.update(resting)
        again, self._asked, self._again = self._again, False, False
        return again

    def granted(self, leases: Iterable[GrantLease]) -> None:
        """Leases were committed together with a membership."""
        for lease in leases:
            if lease.taken_from is not None:
                self._leases.pop((lease.network, lease.taken_from), None)
            self._leases[lease.network, lease.key] = lease.address

    def refused(self, now: float) -> None:
        """The store refused the request. A later request asks for what is wanted then."""
        self.store_due = now + STORE_RETRY_S
        self.release()

    def is_due(self, now: float, unix_s: int) -> bool:
        """Whether to call `want`: to retry, or as a resting port is free."""
        ports = self.ports_due is not None and unix_s >= self.ports_due
        return ports or (self.store_due is not None and now >= self.store_due)

    def forget(self, key: WireGuardKey, unix_s: int) -> None:
        """A key is no longer a member's. Its relay port rests while a grant for it may be valid.

        With such a grant the old holder can bind the port at the relay, which knows no members, so the port must not
        be given to others.
        """
        port = self._ports.pop(key, None)
        if port is not None:
            self._resting[port] = unix_s + GRANT_TTL_S

    def port(self, key: WireGuardKey) -> int | None:
        """A member's relay port."""
        return self._ports.get(key)

    def pair_ports(self) -> list[PairPort]:
        """The ports of pairs that the relay must serve."""
        return pair_ports(self.pairs.held(), self._ports)

    def addresses(
        self, membership: Membership, network_name: str, name: str, key: WireGuardKey
    ) -> tuple[Address, ...]:
        """A member's addresses in a network: fixed by the document, leased, or derived from the key."""
        network = membership.document.networks[network_name]
        found: dict[int, Address] = {address.version: address for address in network.addresses.get(name, ())}
        leased = self._leases.get((network.id, key))
        fixed = membership.fixed[network_name]
        if fixed and leased in fixed:
            leased = None  # now a fixed address of another member; the new lease is not stored yet
        if leased is not None and network.ipv4 is not None and usable(network.ipv4, leased):
            found.setdefault(4, leased)
        if network.ipv6 is not None:
            found.setdefault(6, member_ipv6(network.ipv6, key))
        return tuple(found[version] for version in sorted(found))

    def _missing_ports(
        self,
        keys: Iterable[WireGuardKey],
        relay_ports: tuple[int, int],
        avoid: Collection[int],
        leave: Collection[int],
    ) -> Iterable[tuple[WireGuardKey, int]]:
        first, last = relay_ports
        taken = {*self._ports.values(), *self.pairs.ports(), *self._resting, *avoid}
        free = (port for port in range(first, last + 1) if port not in taken)
        for key in keys:
            held = self._ports.get(key)
            if held is None or not first <= held <= last or held in leave:
                port = next(free, None)
                if port is None:
                    return
                yield key, port
