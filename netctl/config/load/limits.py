"""Sizes of packets that several parts of the document depend on."""

from __future__ import annotations

DEFAULT_MTU = 1420
"""Of a tunnel: 1500 less IPv6 40, UDP 8 and WireGuard 32."""
SEGMENT_OVERHEAD = 70
"""What a segment adds inside a tunnel: IPv6 40, UDP 8, VXLAN 8, Ethernet 14 (RFC 7348 §5)."""
IPV6_MIN_MTU = 1280
"""RFC 8200 §5."""
WIREGUARD_OVERHEAD = {4: 60, 6: 80}
"""What a tunnel adds outside, by IP version: the IP header, UDP 8 and WireGuard 32."""
PADDING = 16
"""WireGuard pads packets to a multiple of this, as far as the sender's MTU lets it."""


def tunnel_mtu(path_mtu: int, version: int) -> int:
    """The largest MTU of a tunnel that no sender's padding carries past `path_mtu` bytes outside.

    A path of a whole Ethernet has the default, to which nobody's padding can add.
    """
    fits = path_mtu - WIREGUARD_OVERHEAD[version]
    return fits if fits >= DEFAULT_MTU else fits // PADDING * PADDING
