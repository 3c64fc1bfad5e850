"""Checks whether the document's MTUs are large enough for what its networks carry."""

from __future__ import annotations

from collections.abc import Iterator

from netctl.config.load.limits import DEFAULT_MTU, IPV6_MIN_MTU, SEGMENT_OVERHEAD
from netctl.config.load.loader import Path
from netctl.config.load.report import Report
from netctl.model.document import Document, Member, Mode, Network


def link_mtu(document: Document, me: Member) -> int:
    """The MTU of a member's tunnels in bytes: the least of its own MTU and those of its routed networks."""
    wanted = [me.mtu or DEFAULT_MTU]
    for network in document.networks_of(me.name):
        if network.mtu is not None and network.mode is Mode.ROUTED:
            wanted.append(network.mtu)
    return min(wanted)


def least_mtu(network: Network) -> tuple[int, str, str]:
    """(the least tunnel MTU for this network in bytes, the reason, an alternative for the user).

    A segment carries IPv6 (RFC 8200 §5) or, without an IPv6 pool, is itself carried by IPv6.
    """
    if network.mode is Mode.LAN and network.ipv6 is not None:
        least = IPV6_MIN_MTU + SEGMENT_OVERHEAD
        instead = f"say `ipv6: none` ({IPV6_MIN_MTU} will do then), or use `mode: routed`"
        return least, f"a segment with IPv6 needs {least}", instead
    if network.mode is Mode.LAN:
        return IPV6_MIN_MTU, f"a segment needs {IPV6_MIN_MTU}", "use `mode: routed`"
    if network.ipv6 is not None:
        return IPV6_MIN_MTU, f"IPv6 needs {IPV6_MIN_MTU}", "say `ipv6: none`"
    return 0, "", ""


def _said(document: Document, network: Network) -> Iterator[tuple[int, Path]]:
    """Each MTU in the document that limits the tunnels of a member of this network, and its place."""
    for name in network.member_names:
        mtu = document.members[name].mtu
        if mtu is not None:
            yield mtu, ("members", name, "mtu")
    mine = set(network.member_names)
    for other in document.networks.values():
        narrows = other.mode is Mode.ROUTED and not mine.isdisjoint(other.member_names)
        if narrows and other.mtu is not None:
            yield other.mtu, ("networks", other.name, "mtu")


def check_mtu(document: Document, network: Network, report: Report) -> None:
    """Report MTUs that are too small for this network."""
    least, needs, instead = least_mtu(network)
    for mtu, path in _said(document, network):
        if mtu < least:
            report.error(
                "NC515", path, f"{mtu} is too small for '{network.name}'; {needs}: raise it, or {instead}"
            )
    inside = network.mtu if network.mode is Mode.LAN and network.ipv6 is not None else None
    if inside is not None and inside < IPV6_MIN_MTU:
        message = f"{inside} is too small for IPv6, which needs {IPV6_MIN_MTU}"
        report.error("NC515", ("networks", network.name, "mtu"), message, "raise it, or say `ipv6: none`")
