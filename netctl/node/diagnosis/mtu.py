"""The `doctor` check that full packets of the tunnels fit the path MTU outside."""

from __future__ import annotations

from collections.abc import Mapping

from netctl.config.load.limits import tunnel_mtu
from netctl.config.load.mtu import least_mtu, link_mtu
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.node.evaluate import member_name
from netctl.node.snapshot import Snapshot
from netctl.paths.effects import PathStatus

ASKED_MAX = 256
"""Endpoints looked at, some 10 µs each: further peers are behind the same few links."""


def endpoints(
    paths: Mapping[WireGuardKey, PathStatus], tunnels: Mapping[WireGuardKey, PeerStatus]
) -> list[SocketAddress]:
    """The endpoints whose path MTU is looked at."""
    found = [status.endpoint for status in paths.values() if status.endpoint is not None]
    found += [status.endpoint for status in tunnels.values() if status.endpoint is not None]
    return list(dict.fromkeys(found))[:ASKED_MAX]


def advice(document: Document, name: str, fits: int) -> str:
    """What to do so that the tunnels of this member carry at most `fits` bytes."""
    text = f"set `mtu: {fits}` for '{name}'"
    for network in document.networks_of(name):
        least, needs, instead = least_mtu(network)
        if fits < least:
            text += f"; in '{network.name}' {needs}: {instead}, or leave it as it is"
    return text


def narrow(snapshot: Snapshot) -> tuple[str, str] | None:
    """(problem, advice) where full packets are sent in fragments outside; None where they fit."""
    document = snapshot.state.document
    if document is None:
        return None
    try:
        name = member_name(document, snapshot.key)
    except LocalError:
        return None
    inside = link_mtu(document, document.members[name])
    worst: tuple[int, SocketAddress, int] | None = None
    for endpoint, outside in snapshot.path_mtus.items():
        if outside is None:
            continue
        fits = tunnel_mtu(outside, 6 if endpoint.is_ipv6 else 4)
        if fits < inside and (worst is None or fits < worst[0]):
            worst = fits, endpoint, outside
    if worst is None:
        return None
    fits, endpoint, outside = worst
    text = (
        f"the way to {endpoint} carries {outside} bytes: full packets of this host's tunnels (mtu {inside}) "
        "go there in fragments, which costs speed and which some NATs drop"
    )
    return text, advice(document, name, fits)
