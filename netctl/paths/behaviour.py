"""What is known about the NAT in front of this host, in the words of RFC 4787."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from netctl.model.addresses import SocketAddress

Mapping4787 = Literal[
    "none", "endpoint-independent", "address-dependent", "address and port-dependent", "unknown"
]
DEPENDENT: tuple[Mapping4787, ...] = ("address-dependent", "address and port-dependent")
"""What is called symmetric: another destination sees another port."""
UdpState = Literal["works", "blocked", "not asked"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of one address family."""

    udp: UdpState
    """Whether any of the STUN servers asked has answered."""
    mapping: Mapping4787
    """`none`: no NAT, the servers see this host's own address (RFC 4787 §4.1)."""
    address_dependence_known: bool
    """Servers at two addresses have answered: with one, only the port's part is known."""
    port_kept: bool | None
    """The NAT kept the port (RFC 4787 §4.2.1); None: unknown, or no NAT."""
    mapped: tuple[SocketAddress, ...]
    """What the servers see, without repetition."""


NOT_ASKED = Behaviour("not asked", "unknown", False, None, ())
"""Of a host that has no port to ask from, or no server to ask."""


def behaviour(
    answers: Mapping[SocketAddress, SocketAddress | None], own: frozenset[SocketAddress], port: int | None
) -> Behaviour:
    """Judge what each server asked (of one family) has seen, None: it was silent. `port` is our local port."""
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
