"""Values for IP addresses, prefixes, socket addresses and endpoints, and their parsers."""

from __future__ import annotations

import functools
import ipaddress
import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from netctl.model.remembered import Remembered

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
"""A host name without characters that a shell, a configuration file or an option parser treats specially."""
_SCOPE = re.compile(r"[A-Za-z0-9_.@-]{1,15}")
"""The interface of a link-local address (IFNAMSIZ less its NUL). `ipaddress` takes any text behind the ``%``."""
MAX_KNOWN = 1 << 15
"""Prefixes and endpoints that are remembered: of some ten thousand peers."""
MAX_NAME = 255
"""Octets of a domain name (RFC 1035 §2.3.4)."""
_GROUPS = struct.Struct(">8H")
_EIGHT = "{:x}:{:x}:{:x}:{:x}:{:x}:{:x}:{:x}:{:x}".format
_ZEROS = [":" + "0:" * count for count in range(8, 1, -1)]
PARSED = 4096
"""Parsed addresses to keep. A host sees the same few addresses in each packet, and parsing is slow; strangers can
send from any address, so the number is bounded."""


def parse_address(text: str) -> Address:
    """An IP address. Raises ValueError, also for an address with an interface (``%eth0``)."""
    if "%" in text:
        raise ValueError("an address without an interface")
    return ipaddress.ip_address(text)


def parse_prefix(text: str, *, strict: bool = True) -> Prefix:
    """A network. `strict`: host bits must be zero. Raises ValueError."""
    if "%" in text:
        raise ValueError("a prefix without an interface")
    return ipaddress.ip_network(text, strict=strict)


def is_host(text: str) -> bool:
    """Whether the text is the name or the address of a host."""
    if ":" not in text:
        return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None
    try:
        return _scope_is_plain(ipaddress.ip_address(text))
    except ValueError:
        return False


def _scope_is_plain(address: Address) -> bool:
    scope = address.scope_id if isinstance(address, IPv6Address) else None
    return scope is None or (address.is_link_local and _SCOPE.fullmatch(scope) is not None)


@functools.lru_cache(PARSED)
def _parsed(host: str) -> Address:
    return ipaddress.ip_address(host)


def address_text(address: Address) -> str:
    """`str(address)`, in less than half of its time for IPv6: `status` prints the addresses of thousands of peers."""
    if isinstance(address, IPv4Address) or address.scope_id is not None:
        return str(address)
    groups = _EIGHT(*_GROUPS.unpack(address.packed))
    if "0:0" not in groups:
        return groups
    framed = f":{groups}:"
    for zeros in _ZEROS:  # RFC 5952 §4.2: the longest run of zeros, and of several the first
        before, found, after = framed.partition(zeros)
        if found:
            return f"{before[1:]}::{after[:-1]}"
    return groups


def host_prefix(address: Address) -> Prefix:
    """The /32 or /128 of one address."""
    return prefix_of(address.packed, address.max_prefixlen)


_known: Remembered[bytes, Prefix] = Remembered(MAX_KNOWN)


def prefix_of(packed: bytes, prefix_len: int) -> Prefix:
    """The prefix with these 4 or 16 bytes as its address, without host bits. Raises ValueError.

    The same object for the same prefix, so that the desired and the actual state of thousands of peers are
    compared by identity and share their memory.
    """
    name = packed + bytes((prefix_len,))
    found = _known.get(name)
    if found is None:
        # Built from the integer: parsing would be most of the cost of reading a large device.
        whole = int.from_bytes(packed, "big")
        found = IPv4Network((whole, prefix_len)) if len(packed) == 4 else IPv6Network((whole, prefix_len))
        _known.keep(name, found)
    return found


@dataclass(frozen=True, slots=True, order=True)
class SocketAddress:
    """An IP address and a port: the destination of a packet. Printed ``1.2.3.4:5`` or ``[::1]:5``."""

    host: str
    """The canonical text of an IP address, never a name."""
    port: int

    @classmethod
    def of(cls, address: Address | str, port: int) -> SocketAddress:
        """Make the canonical value: IPv4-mapped IPv6 becomes IPv4. Raises ValueError for anything but an IP address."""
        parsed = _parsed(address) if isinstance(address, str) else address
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif not _scope_is_plain(parsed):
            raise ValueError("only a link-local address has an interface, by its name")
        if not 0 < port < 65536:
            raise ValueError(f"port {port} is not in 1-65535")
        return cls(str(parsed), port)

    @classmethod
    def parse(cls, text: str) -> SocketAddress:
        """From ``1.2.3.4:5`` or ``[::1]:5``. Raises ValueError."""
        endpoint = Endpoint.parse(text)
        return cls.of(endpoint.host, endpoint.port)

    @property
    def address(self) -> Address:
        """The IP address, parsed."""
        return _parsed(self.host)

    @property
    def is_ipv6(self) -> bool:
        """True for IPv6."""
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A host name or IP address and a port, as a person writes it in the document."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From ``name:port``, ``1.2.3.4:port`` or ``[v6]:port``. Raises ValueError."""
        host, separator, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("an IPv6 address in an endpoint is written in brackets: [2001:db8::1]:51820")
        if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("an endpoint is host:port with a port in 1-65535")
        if not is_host(host):
            raise ValueError("an endpoint is host:port, with the name or the address of a host")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
