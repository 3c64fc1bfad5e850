"""Converts a HostState to plain JSON values and back: for the checkpoint that another process may roll back to."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict
from typing import Any

from netctl.engine.filter.nftables import plain_table, table_of
from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import HostState, Opening, Peer, Route, SegmentLink, WireGuardLink
from netctl.model.keys import WireGuardKey

_address = ipaddress.ip_address
_network = ipaddress.ip_network


def to_plain(state: HostState) -> dict[str, Any]:
    """A state as JSON values; equal states give equal text."""
    return {
        "wireguard": _plain_link(state.wireguard) if state.wireguard is not None else None,
        "segments": [_plain_segment(segment) for _, segment in sorted(state.segments.items())],
        "routes": sorted(
            [str(route.destination), route.link, str(route.source) if route.source else "", route.path]
            for route in state.routes
        ),
        "unreachable": sorted(map(str, state.unreachable)),
        "filter": plain_table(state.filter) if state.filter is not None else None,
        "names": {name: [str(address) for address in found] for name, found in sorted(state.names.items())},
        "sysctls": dict(sorted(state.sysctls.items())),
        "openings": [asdict(one) for one in sorted(state.openings)],
    }


def from_plain(plain: dict[str, Any]) -> HostState:
    """The state of `to_plain`'s values. Raises ValueError, KeyError, TypeError or AttributeError for anything else."""
    segments = [_segment(segment) for segment in plain["segments"]]
    return HostState(
        wireguard=_link(plain["wireguard"]) if plain["wireguard"] is not None else None,
        segments={segment.name: segment for segment in segments},
        routes=frozenset(
            Route(_network(destination), link, _address(source) if source else None, path)
            for destination, link, source, path in plain["routes"]
        ),
        unreachable=frozenset(
            map(_network, plain.get("unreachable", ()))
        ),  # missing in checkpoints of earlier versions
        filter=table_of(plain["filter"]) if plain["filter"] is not None else None,
        names={name: tuple(_address(text) for text in found) for name, found in plain["names"].items()},
        sysctls={str(key): str(value) for key, value in plain["sysctls"].items()},
        openings=frozenset(Opening(**row) for row in plain.get("openings", ())),
    )


def _plain_link(link: WireGuardLink) -> dict[str, Any]:
    return {
        "key": str(link.key),
        "listen_port": link.listen_port,
        "mtu": link.mtu,
        "addresses": sorted(map(str, link.addresses)),
        "underlay": sorted(map(str, link.underlay)),
        "name": link.name,
        "peers": [
            {
                "key": str(key),
                "allowed_ips": sorted(map(str, peer.allowed_ips)),
                "endpoint": str(peer.endpoint) if peer.endpoint is not None else None,
                "keepalive_s": peer.keepalive_s,
                "path": peer.path,
            }
            for key, peer in sorted(link.peers.items())
        ],
    }


def _link(plain: dict[str, Any]) -> WireGuardLink:
    peers = [
        Peer(
            WireGuardKey.parse(peer["key"]),
            frozenset(map(_network, peer["allowed_ips"])),
            SocketAddress.parse(peer["endpoint"]) if peer["endpoint"] is not None else None,
            int(peer["keepalive_s"]),
            str(peer["path"]),
            insists=True,  # a roll-back restores the former endpoint, even if the peer answers from another one
        )
        for peer in plain["peers"]
    ]
    return WireGuardLink(
        key=WireGuardKey.parse(plain["key"]),
        listen_port=int(plain["listen_port"]),
        mtu=int(plain["mtu"]),
        addresses=frozenset(map(_address, plain["addresses"])),
        peers={peer.key: peer for peer in peers},
        name=str(plain["name"]),
        underlay=frozenset(map(_address, plain["underlay"])),
    )


def _plain_segment(segment: SegmentLink) -> dict[str, Any]:
    return {
        "name": segment.name,
        "network": segment.network,
        "vni": segment.vni,
        "mtu": segment.mtu,
        "mac": segment.mac,
        "local": str(segment.local),
        "addresses": sorted([str(address), length] for address, length in segment.addresses),
        "flood": sorted(map(str, segment.flood)),
    }


def _segment(plain: dict[str, Any]) -> SegmentLink:
    return SegmentLink(
        name=str(plain["name"]),
        network=str(plain["network"]),
        vni=int(plain["vni"]),
        mtu=int(plain["mtu"]),
        mac=str(plain["mac"]),
        local=_address(plain["local"]),
        addresses=frozenset((_address(address), int(length)) for address, length in plain["addresses"]),
        flood=frozenset(map(_address, plain["flood"])),
    )
