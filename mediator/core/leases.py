"""Leases: which addresses are wanted that nobody has yet. Uniqueness is the store's own constraint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from netctl.model import derive
from netctl.model.document import Document, Network
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
    """Every usable host of a pool once, from an index on."""
    count = pool.num_addresses - 2
    base = int(pool.network_address) + 1
    for step in range(count):
        yield IPv4Address(base + (start + step) % count)


def missing_leases(
    document: Document, held: Mapping[LeaseKey, IPv4Address]
) -> Iterator[GrantLease | Exhausted]:
    """What the document wants and `held` has not: in the document's order, each from its key's own start.

    A held address outside the pool (the network was renumbered) is given anew. Fixed addresses need no lease,
    and nobody else gets them.
    """
    for network in document.networks.values():
        pool = network.ipv4
        if pool is None:
            continue
        fixed = _fixed(network)
        inside = {
            key: address for (where, key), address in held.items() if where == network.id and address in pool
        }
        taken = set(fixed.values()) | set(inside.values())
        for name in network.member_names:
            key = document.members[name].wireguard
            assert key is not None
            have = inside.get(key)
            if name in fixed or (have is not None and have not in fixed.values()):
                continue
            start = derive.lease_start(network.id, pool, key)
            address = next((a for a in _walk(pool, start) if a not in taken), None)
            if address is None:
                yield Exhausted(network.id, name, f"the pool {pool} of network '{network.name}' is full")
                continue
            taken.add(address)
            yield GrantLease(network.id, key, address)
