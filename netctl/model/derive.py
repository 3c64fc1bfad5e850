"""Derives network ids, addresses, VNIs and MACs from names and keys (golden vectors: docs/protocol.md).

Every derivation is BLAKE2s (RFC 7693) over a label and length-prefixed parts, so no two derivations share an input.
Do not change any derivation: a change renumbers every network.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.remembered import Remembered

NETWORK_ID_BYTES = 8
VNI_RESERVED = 0  # VNI 0 means "none" to most implementations of RFC 7348
ULA_BITS = 0xFD  # RFC 4193 §3.1: locally assigned
REMEMBERED = 16_384
"""Cached results of each derivation: every evaluation of a document asks for the same ones again."""


def _digest(label: str, *parts: bytes) -> bytes:
    state = hashlib.blake2s(digest_size=32)
    for part in (label.encode(), *parts):
        state.update(len(part).to_bytes(4, "big"))
        state.update(part)
    return state.digest()


def network_id(document_id: str, network: str) -> str:
    """16 hex digits that identify a network: derived from the document's `id` and the network's own `id` or name."""
    return _digest("netctl network", document_id.encode(), network.encode())[:NETWORK_ID_BYTES].hex()


def ula_prefix(network: str) -> IPv6Network:
    """The ULA /64 (RFC 4193) of the network with this id."""
    bits = bytes([ULA_BITS]) + _digest("netctl ula", bytes.fromhex(network))[:7]
    return IPv6Network((int.from_bytes(bits + bytes(8), "big"), 64))


_members: Remembered[tuple[IPv6Network, WireGuardKey], IPv6Address] = Remembered(REMEMBERED)


def member_ipv6(prefix: IPv6Network, key: WireGuardKey) -> IPv6Address:
    """A member's address in a prefix: its host part comes from the key, so it needs no lease.

    The subnet-router anycast address (host part 0, RFC 4291 §2.6.1) is never given.
    """
    if (known := _members.get((prefix, key))) is not None:
        return known
    host_bits = 128 - prefix.prefixlen
    host = int.from_bytes(_digest("netctl host", key.raw), "big") % max((1 << host_bits) - 1, 1) + 1
    return _members.keep((prefix, key), IPv6Address(int(prefix.network_address) + host))


def underlay_prefix() -> IPv6Network:
    """The /64 of all underlay addresses, the same for every document: they appear only inside tunnels."""
    bits = bytes([ULA_BITS]) + _digest("netctl underlay prefix")[:7]
    return IPv6Network((int.from_bytes(bits + bytes(8), "big"), 64))


@functools.lru_cache(maxsize=REMEMBERED)
def underlay(key: WireGuardKey) -> IPv6Address:
    """The address that segments use inside this member's tunnels: a ULA outside every network's /64."""
    return underlay_prefix()[int.from_bytes(_digest("netctl underlay", key.raw)[:8], "big")]


@functools.lru_cache(maxsize=REMEMBERED)
def vni(network: str) -> int:
    """The 24-bit VXLAN network identifier (RFC 7348) of a network; never 0."""
    value = int.from_bytes(_digest("netctl vni", bytes.fromhex(network))[:3], "big")
    return value if value != VNI_RESERVED else 1


@functools.lru_cache(maxsize=REMEMBERED)
def mac(network: str, key: WireGuardKey) -> str:
    """A member's MAC in a segment: locally administered, unicast."""
    raw = bytearray(_digest("netctl mac", bytes.fromhex(network), key.raw)[:6])
    raw[0] = (raw[0] & 0xFC) | 0x02
    return raw.hex(":")


def lease_start(network: str, pool: IPv4Network, key: WireGuardKey) -> int:
    """The index of the first address to try, counted in the usable hosts of the pool."""
    usable = max(pool.num_addresses - 2, 1)
    return int.from_bytes(_digest("netctl lease", bytes.fromhex(network), key.raw)[:8], "big") % usable


def segment_name(network: str) -> str:
    """The link name of a network's segment: within the kernel's 15 characters."""
    return "nseg" + network[:8]


def first_host(pool: IPv4Network) -> int:
    """The integer of the usable host with index 0."""
    return int(ipaddress.ip_address(pool.network_address)) + (1 if pool.num_addresses > 2 else 0)


def relay_beside(host: str, port: int) -> str:
    """The name of the relay beside the mediator with this URL, written like the identities that name relays apart.

    Mediators may share an identity, so that cannot name their relays. Nobody has a key for this name.
    """
    return str(IdentityKey(_digest("netctl relay beside", host.encode(), port.to_bytes(2, "big"))))
