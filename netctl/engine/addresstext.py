"""Converts addresses to text and back with the C library: `ipaddress` is ten times slower, which would be most of the
time for a thousand peers.
"""

from __future__ import annotations

import ipaddress
import socket

from netctl.model.addresses import Address, Prefix, SocketAddress, prefix_of


def packed(text: str) -> bytes:
    """The 4 or 16 bytes of an address. Raises ValueError."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError as error:
        raise ValueError("not an address") from error


def address(text: str) -> Address:
    """The address of a text. Raises ValueError."""
    raw = packed(text)
    whole = int.from_bytes(raw, "big")
    return ipaddress.IPv4Address(whole) if len(raw) == 4 else ipaddress.IPv6Address(whole)


def parse_prefix(text: str) -> Prefix:
    """The prefix of an engine's text, which has no host bits. Raises ValueError."""
    host, _, prefix_len = text.partition("/")
    return prefix_of(packed(host), int(prefix_len))


def print_address(address: Address) -> str:
    """An address in the form that every resolver and engine reads."""
    return socket.inet_ntop(socket.AF_INET if address.version == 4 else socket.AF_INET6, address.packed)


def print_prefix(prefix: Prefix) -> str:
    """A prefix as ``address/length``."""
    return f"{print_address(prefix.network_address)}/{prefix.prefixlen}"


def endpoint(text: str) -> SocketAddress | None:
    """The endpoint of an engine's text, without the interface of a link-local address; None: no valid endpoint."""
    try:
        host, _, port = text.rpartition(":")
        if "." in host and ":" not in host:  # the C library accepts only the canonical spelling of IPv4
            packed(host)
            if port.isascii() and port.isdigit() and 0 < int(port) < 65536:
                return SocketAddress(host, int(port))
        scope = text.find("%")
        return SocketAddress.parse(text if scope < 0 else text[:scope] + text[text.rindex("]") :])
    except ValueError:
        return None
