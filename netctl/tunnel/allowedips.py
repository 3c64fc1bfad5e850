"""Allowed IPs: the cryptokey routing table (paper §2) as longest-prefix match over both families.

One dictionary for each prefix length, searched from the longest. Real tables use a handful of lengths, so a look-up
takes a handful of dictionary probes for any number of peers, and usually one, in the cache.
"""

from __future__ import annotations

import ipaddress

from netctl.model.addresses import Prefix
from netctl.tunnel.constants import LOOKUP_CACHE_SIZE
from netctl.tunnel.peer import Peer

_BITS = {4: 32, 16: 128}  # family by length of the packed address


class AllowedIPs:
    """Prefix → peer. A prefix has one owner: inserting it for another peer moves it."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[int, dict[int, Peer]]] = {4: {}, 16: {}}
        """By bytes of the address, then by prefix length, then by the prefix's leading bits."""
        self._lengths: dict[int, tuple[int, ...]] = {4: (), 16: ()}
        self._owned: dict[Peer, dict[Prefix, None]] = {}
        self._cache: dict[bytes, Peer | None] = {}
        self.revision = 0
        """Changes with every change of the table: earlier look-ups may then be outdated."""

    def insert(self, prefix: Prefix, peer: Peer) -> None:
        """Give `prefix` to `peer`, taking it from its present owner."""
        size, bits = _key(prefix)
        table = self._tables[size].setdefault(prefix.prefixlen, {})
        before = table.get(bits)
        if before is not None:
            del self._owned[before][prefix]
        table[bits] = peer
        self._owned.setdefault(peer, {})[prefix] = None
        self._changed()

    def remove(self, prefix: Prefix, peer: Peer) -> bool:
        """Take `prefix` from `peer`. False: it was not its owner."""
        if prefix not in self._owned.get(peer, {}):
            return False
        size, bits = _key(prefix)
        table = self._tables[size][prefix.prefixlen]
        del table[bits], self._owned[peer][prefix]
        if not table:
            del self._tables[size][prefix.prefixlen]
        self._changed()
        return True

    def remove_peer(self, peer: Peer) -> None:
        """Take every prefix from `peer`."""
        for prefix in self.prefixes(peer):
            self.remove(prefix, peer)
        self._owned.pop(peer, None)

    def prefixes(self, peer: Peer) -> tuple[Prefix, ...]:
        """The prefixes of `peer`, in the order of insertion."""
        return tuple(self._owned.get(peer, ()))

    def lookup(self, address: bytes) -> Peer | None:
        """The owner of the longest prefix that covers a packed address (4 or 16 bytes); else None."""
        try:
            return self._cache[address]
        except KeyError:
            pass
        found = self._search(address)
        if len(self._cache) >= LOOKUP_CACHE_SIZE:
            self._cache.clear()
        self._cache[bytes(address)] = found
        return found

    def _search(self, address: bytes) -> Peer | None:
        size = len(address)
        if size not in _BITS:
            return None
        number, tables, bits = int.from_bytes(address, "big"), self._tables[size], _BITS[size]
        for length in self._lengths[size]:
            peer = tables[length].get(number >> (bits - length))
            if peer is not None:
                return peer
        return None

    def _changed(self) -> None:
        self.revision += 1
        self._cache.clear()
        self._lengths = {size: tuple(sorted(tables, reverse=True)) for size, tables in self._tables.items()}


def _key(prefix: Prefix) -> tuple[int, int]:
    packed = prefix.network_address.packed
    return len(packed), int.from_bytes(packed, "big") >> (_BITS[len(packed)] - prefix.prefixlen)


def parse_prefix(address: bytes, length: int) -> Prefix:
    """A prefix from a packed address; host bits are masked away as the kernel does. Raises ValueError."""
    return ipaddress.ip_network((address, length), strict=False)
