"""Finds the leases that a document still needs. The store's own constraint ensures uniqueness."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import islice

from netctl.model import derive
from netctl.model.document import Document, MemberState, Network
from netctl.model.keys import WireGuardKey

LeaseKey = tuple[str, WireGuardKey]
"""Network id and member key."""


@dataclass(frozen=True, slots=True)
class GrantLease:
    """An address to be stored for a key."""

    network: str
    """The network's id."""
    key: WireGuardKey
    address: IPv4Address
    taken_from: WireGuardKey | None = None
    """The former holder, no present member of the network; its lease ends in the same transaction."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A member that gets no address, and why."""

    network: str
    member: str
    message: str


def _fixed(network: Network) -> dict[str, IPv4Address]:
    return {
        name: address
        for name, addresses in network.addresses.items()
        for address in addresses
        if isinstance(address, IPv4Address)
    }


def _walk(pool: IPv4Network, start: int) -> Iterator[IPv4Address]:
    """Every usable address of a pool once, from an index on."""
    count = pool.num_addresses - 2
    base = int(pool.network_address) + 1
    for step in range(count):
        yield IPv4Address(base + (start + step) % count)


def fixed_addresses(network: Network) -> set[IPv4Address]:
    """The addresses that the document gives to members of a network."""
    return set(_fixed(network).values())


def first_free(
    network: Network, key: WireGuardKey, taken: Container[IPv4Address], most: int
) -> IPv4Address | None:
    """The first free one of `most` addresses of the network's pool, from the key's own place in it on."""
    assert network.ipv4 is not None
    places = _walk(network.ipv4, derive.lease_start(network.id, network.ipv4, key))
    return next((address for address in islice(places, most) if address not in taken), None)


def places(network: Network, key: WireGuardKey, most: int) -> list[tuple[IPv4Address, IPv4Address]]:
    """The ranges, first and last address, of what `first_free` looks at."""
    assert network.ipv4 is not None
    count, base = pool_size(network.ipv4), int(network.ipv4.network_address) + 1
    start = derive.lease_start(network.id, network.ipv4, key)
    end = min(start + most, count)
    found = [(start, end), (0, most - (end - start))]
    return [(IPv4Address(base + a), IPv4Address(base + b - 1)) for a, b in found if b > a]


def pool_size(pool: IPv4Network) -> int:
    """Count of addresses that hosts may have."""
    return max(0, pool.num_addresses - 2)


def usable(pool: IPv4Network, address: IPv4Address) -> bool:
    """Whether a host may have the address: in the pool, and neither its network nor its broadcast address."""
    # As integers: each change of a document asks this of each member.
    return int(pool.network_address) < int(address) < int(pool.broadcast_address)


def _left(
    document: Document,
    network: Network,
    held: Mapping[WireGuardKey, IPv4Address],
    fixed: Mapping[str, IPv4Address],
    absent: Collection[WireGuardKey | None],
) -> list[WireGuardKey]:
    """Holders whose address may be reassigned, last one first: members with `state: absent` keep theirs longest."""
    leasing = {document.members[name].wireguard for name in network.member_names if name not in fixed}
    reserved = set(fixed.values())
    gone = [key for key, address in held.items() if key not in leasing and address not in reserved]
    return sorted(gone, key=lambda key: (key not in absent, key))


def _moves(
    document: Document, network: Network, held: Mapping[WireGuardKey, IPv4Address]
) -> dict[WireGuardKey, WireGuardKey]:
    """Members whose new key has no address here, with the previous key that has one."""
    found: dict[WireGuardKey, WireGuardKey] = {}
    for name in network.member_names:
        member = document.members[name]
        if member.wireguard is not None and member.wireguard not in held:
            previous = next((key for key in member.previous_keys if key in held), None)
            if previous is not None and previous not in found.values():
                found[member.wireguard] = previous
    return found


def missing_leases(
    document: Document, held: Mapping[LeaseKey, IPv4Address]
) -> Iterator[GrantLease | Exhausted]:
    """Leases that the document needs and `held` lacks, in the document's order; the search starts at a hash of the key.

    A held address outside the pool (a renumbered network) is replaced. Fixed addresses need no lease and are given to
    no other member. A former member keeps its address for its return until the pool has no other. A member with a new
    key gets the address of the key in its `previousKeys`.
    """
    absent = {member.wireguard for member in document.members.values() if member.state is MemberState.ABSENT}
    by_network: dict[str, list[tuple[WireGuardKey, IPv4Address]]] = {}
    for (where, key), address in held.items():
        by_network.setdefault(where, []).append((key, address))
    for network in document.networks.values():
        pool = network.ipv4
        if pool is None:
            continue
        fixed = _fixed(network)
        inside = {key: address for key, address in by_network.get(network.id, ()) if usable(pool, address)}
        taken = set(fixed.values()) | set(inside.values())
        moves = _moves(document, network, inside)
        left = [key for key in _left(document, network, inside, fixed, absent) if key not in moves.values()]
        for name in network.member_names:
            wanted = document.members[name].wireguard
            assert wanted is not None
            have = inside.get(wanted)
            if name in fixed or (have is not None and have not in fixed.values()):
                continue
            if (previous := moves.get(wanted)) is not None and inside[previous] not in fixed.values():
                yield GrantLease(network.id, wanted, inside[previous], previous)
                continue
            start = derive.lease_start(network.id, pool, wanted)
            free = next((a for a in _walk(pool, start) if a not in taken), None)
            if free is None and left:
                owner = left.pop()
                yield GrantLease(network.id, wanted, inside[owner], owner)
                continue
            if free is None:
                yield Exhausted(network.id, name, f"the pool {pool} of network '{network.name}' is full")
                continue
            taken.add(free)
            yield GrantLease(network.id, wanted, free)
