"""Sizes of packets that several parts of the document depend on."""

from __future__ import annotations

DEFAULT_MTU = 1420
"""Of a tunnel: 1500 less IPv6 40, UDP 8 and WireGuard 32."""
SEGMENT_OVERHEAD = 70
"""What a segment adds inside a tunnel: IPv6 40, UDP 8, VXLAN 8, Ethernet 14 (RFC 7348 §5)."""
IPV6_MIN_MTU = 1280
"""RFC 8200 §5."""
