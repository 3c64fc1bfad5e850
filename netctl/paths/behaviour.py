"""Classifies the NAT in front of this host from the answers of STUN servers, in the terms of RFC 4787."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from netctl.model.addresses import SocketAddress

Mapping4787 = Literal[
    "none", "endpoint-independent", "address-dependent", "address and port-dependent", "unknown"
]
DEPENDENT: tuple[Mapping4787, ...] = ("address-dependent", "address and port-dependent")
"""The symmetric mappings: another destination sees another port."""
UdpState = Literal["works", "blocked", "not asked"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The behaviour of the NAT for one address family."""

    udp: UdpState
    """Whether any of the asked STUN servers has answered."""
    mapping: Mapping4787
    """`none`: no NAT, the servers see this host's own address (RFC 4787 §4.1)."""
    address_dependence_known: bool
    """Whether servers at two addresses have answered; with one, only the dependence on the port is known."""
    port_kept: bool | None
    """Whether the NAT kept the port (RFC 4787 §4.2.1); None: unknown, or no NAT."""
    mapped: tuple[SocketAddress, ...]
    """The distinct addresses of this host that the servers see."""


NOT_ASKED = Behaviour("not asked", "unknown", False, None, ())
"""The behaviour for a host without a port to ask from or a server to ask."""


def behaviour(
    answers: Mapping[SocketAddress, SocketAddress | None], own: frozenset[SocketAddress], port: int | None
) -> Behaviour:
    """Classify the NAT from the address that each asked server of one family has seen; None: the server was silent.

    `own`: this host's own addresses; `port`: our local port.
    """
    seen = {server: mapped for server, mapped in answers.items() if mapped is not None}
    mapped = tuple(dict.fromkeys(seen.values()))
    hosts = {server.host for server in seen}
    udp: UdpState = "works" if seen else "blocked" if answers else "not asked"
    kind: Mapping4787
    if not seen:
        kind = "unknown"
    elif set(mapped) <= own:
        kind = "none"
    elif any(len({seen[s] for s in seen if s.host == host}) > 1 for host in hosts):
        kind = "address and port-dependent"
    elif len(mapped) > 1:
        kind = "address-dependent"
    elif len(seen) > 1:
        kind = "endpoint-independent"
    else:
        kind = "unknown"
    kept = None
    if kind not in ("none", "unknown") and port is not None:
        kept = all(address.port == port for address in mapped)
    return Behaviour(udp, kind, len(hosts) > 1, kept, mapped)
