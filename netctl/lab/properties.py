"""Properties of a box of the lab besides its kind of NAT, parsed from a sidecar file. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from netctl.model.errors import LocalError

MAX_UDP_TIMEOUT_S = 3600
"""Seconds. Longer than anybody watches a lab."""
MAX_LOSS_PERCENT = 90
"""With more loss, members would not connect within a bearable time."""


class Ipv6(StrEnum):
    """The IPv6 of a box."""

    NONE = "none"  # no IPv6
    OPEN = "open"  # public addresses for the hosts behind it, no filter
    FIREWALL = "firewall"  # public addresses, and from outside only replies to flows from inside


@dataclass(frozen=True, slots=True)
class Properties:
    """Properties of a box besides its kind."""

    hairpin: bool = False
    """Two hosts behind the box reach each other by its external address, which is also the source address they see."""
    isolated: bool = False
    """Hosts behind the box cannot reach each other on the LAN (as in guest networks)."""
    udp_timeout_s: int | None = None
    """Lifetime of an idle UDP mapping; None: the kernel's, two minutes for flows with replies."""
    loss_percent: int = 0
    """Share of packets lost, each way."""
    ipv6: Ipv6 = Ipv6.NONE
    wan_input_accepts: bool = False
    """The box accepts new packets to itself: early packets of a peer then force the mapping to another port."""


PLAIN = Properties()
"""A NAT without any special property."""
KEYS: Mapping[str, str] = {
    "kind": "what it does with addresses (port-restricted unless said)",
    "members": "who is behind it",
    "behind": "the box whose LAN its WAN side is on",
    "hairpin": "true: hosts behind it reach each other by its external address",
    "isolated": "true: hosts behind it do not see each other on the LAN",
    "udpTimeout": "seconds that an idle UDP mapping lives",
    "loss": "percent of the packets that are lost, each way",
    "ipv6": f"{', '.join(Ipv6)}: addresses of their own for all behind it",
    "wanInput": "drop, accept: what becomes of new packets to the box itself",
}
"""Keys of an entry of a sidecar's `nats`, with a description for people."""


def parse_properties(entry: Mapping[Any, Any], where: str) -> Properties:
    """The properties of one entry of a sidecar. Raises LocalError with the key and its allowed values."""
    unknown = [str(key) for key in entry if key not in KEYS]
    if unknown:
        raise LocalError(f"{where}.{unknown[0]}: unknown; a box has {', '.join(KEYS)}")
    try:
        ipv6 = Ipv6(str(entry.get("ipv6", Ipv6.NONE)))
    except ValueError as error:
        raise LocalError(f"{where}.ipv6: expected one of {', '.join(Ipv6)}") from error
    wan_input = entry.get("wanInput", "drop")
    if wan_input not in ("drop", "accept"):
        raise LocalError(f"{where}.wanInput: expected drop or accept")
    return Properties(
        hairpin=_flag(entry, "hairpin", where),
        isolated=_flag(entry, "isolated", where),
        udp_timeout_s=_number(entry, "udpTimeout", where, 1, MAX_UDP_TIMEOUT_S),
        loss_percent=_number(entry, "loss", where, 0, MAX_LOSS_PERCENT) or 0,
        ipv6=ipv6,
        wan_input_accepts=wan_input == "accept",
    )


def _flag(entry: Mapping[Any, Any], key: str, where: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise LocalError(f"{where}.{key}: expected true or false")
    return value


def _number(entry: Mapping[Any, Any], key: str, where: str, least: int, most: int) -> int | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise LocalError(f"{where}.{key}: expected a whole number from {least} to {most}")
    return value
