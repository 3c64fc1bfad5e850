"""Whether full packets of the tunnels fit through the ways that they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netctl.config.limits import tunnel_mtu
from netctl.config.mtu import least_mtu, link_mtu
from netctl.engine.pathmtu import path_mtu
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.node.evaluate import member_name

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

ASKED_MAX = 256
"""Endpoints looked at, some 10 µs each: hosts with more have them behind the same few links."""


def _endpoints(agent: Agent) -> list[SocketAddress]:
    paths = agent.paths.status()
    found = [status.endpoint for status in paths.values() if status.endpoint is not None]
    found += [status.endpoint for status in agent.tunnels.statuses.values() if status.endpoint is not None]
    return list(dict.fromkeys(found))[:ASKED_MAX]


def advice(document: Document, name: str, fits: int) -> str:
    """What to do so that the tunnels of this member carry no more than `fits` bytes."""
    text = f"set `mtu: {fits}` for '{name}'"
    for network in document.networks_of(name):
        least, needs, instead = least_mtu(network)
        if fits < least:
            text += f"; in '{network.name}' {needs}: {instead}, or leave it as it is"
    return text


def narrow(agent: Agent) -> tuple[str, str] | None:
    """(what is the case, what to do) where full packets go in fragments outside; None where they fit."""
    document = agent.state.document
    if document is None:
        return None
    try:
        name = member_name(document, agent.keys.wireguard)
    except LocalError:
        return None
    inside = link_mtu(document, document.members[name])
    worst: tuple[int, SocketAddress, int] | None = None
    for endpoint in _endpoints(agent):
        outside = path_mtu(endpoint)
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
