"""Sizes of packets that several parts of the document depend on."""

from __future__ import annotations

DEFAULT_MTU = 1420
"""The MTU of a tunnel in bytes: 1500 less IPv6 40, UDP 8 and WireGuard 32."""
SEGMENT_OVERHEAD = 70
"""Bytes that a segment adds inside a tunnel: IPv6 40, UDP 8, VXLAN 8, Ethernet 14 (RFC 7348 §5)."""
IPV6_MIN_MTU = 1280
"""The smallest MTU of a link with IPv6, in bytes (RFC 8200 §5)."""
WIREGUARD_OVERHEAD = {4: 60, 6: 80}
"""Bytes that a tunnel adds outside, by IP version: the IP header, UDP 8 and WireGuard 32."""
PADDING = 16
"""WireGuard pads packets to a multiple of so many bytes, but not past the sender's MTU."""


def tunnel_mtu(path_mtu: int, version: int) -> int:
    """The largest tunnel MTU with which no sender's padding makes a packet exceed `path_mtu` bytes outside.

    A path with the MTU of an Ethernet gets the default, past which no sender pads.
    """
    fits = path_mtu - WIREGUARD_OVERHEAD[version]
    return fits if fits >= DEFAULT_MTU else fits // PADDING * PADDING
