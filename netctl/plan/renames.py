"""Finds links of ours that were renamed, so that they get their names back instead of being created again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from netctl.model.hoststate import HostState


def renames(desired: HostState, actual: HostState) -> dict[str, str]:
    """Present name to desired name. A segment is recognised by its VNI and underlay address, which are unique."""
    found = {}
    wanted, present = desired.wireguard, actual.wireguard
    if wanted is not None and present is not None and wanted.name != present.name:
        found[present.name] = wanted.name
    missing = {
        (segment.vni, segment.local): name
        for name, segment in desired.segments.items()
        if name not in actual.segments
    }
    for name, segment in actual.segments.items():
        home = missing.get((segment.vni, segment.local))
        if home is not None and name not in desired.segments:
            found[name] = home
    return found


def renamed(state: HostState, names: Mapping[str, str]) -> HostState:
    """The state once these links have their new names."""
    if not names:
        return state
    link = state.wireguard
    if link is not None:
        link = replace(link, name=names.get(link.name, link.name))
    segments = {
        names.get(name, name): replace(segment, name=names.get(name, name))
        for name, segment in state.segments.items()
    }
    sysctls = {
        "/".join(names.get(part, part) for part in key.split("/")): value
        for key, value in state.sysctls.items()
    }
    routes = frozenset(replace(route, link=names.get(route.link, route.link)) for route in state.routes)
    return replace(state, wireguard=link, segments=segments, sysctls=sysctls, routes=routes)
