"""The part of a document that one member may see, as a document: a host that joined by invite uses this excerpt.

The mediator makes the excerpt and signs it within the view; the host loads it like any networks.yaml, with every
check. No rule in it names a member or group that the member may not see.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from netctl.config.load.build import ALL, GROUP
from netctl.config.load.semantic import in_private_space
from netctl.model.document import Document, Lazy, Mediator, Member, Mode, Network, Rule

MAX_ENTRIES = 16
"""Entries of `mediators` at most, as the schema says."""


def excerpt(document: Document, name: str, seen: Collection[str]) -> str:
    """networks.yaml (as JSON, which is valid YAML) for the member `name`, which may see the members `seen`."""
    networks = document.networks_of(name)
    visible = {*seen, name, *(network.hub for network in networks if network.hub is not None)}
    together = {other for network in networks for other in network.member_names} | {name}
    members = [member for member in document.members.values() if member.name in visible & together]
    names = {member.name for member in members}
    text: dict[str, Any] = {"apiVersion": "netctl/v1"}
    if document.id:
        text["id"] = document.id
    # A relay that is a member is an entry here, so that its own part of the document stays its own.
    relays = [
        one for one in document.relays() if one not in document.mediators and one.member in names - {name}
    ]
    text["mediators"] = [_mediator(one) for one in (*document.mediators, *relays)][:MAX_ENTRIES]
    used = _groups_in_rules(networks)
    text["members"] = {member.name: _member(member, name, used) for member in members}
    text["networks"] = {network.name: _network(document, network, names) for network in networks}
    text["drift"] = document.drift.value
    return json.dumps(text, separators=(",", ":"))


def bootstrap(name: str, wireguard: str, identity: str, mediators: Collection[Mediator]) -> str:
    """The document of a host between its enrolment and its first view, with only its mediators and itself."""
    return json.dumps(
        {
            "apiVersion": "netctl/v1",
            "mediators": [_mediator(mediator) for mediator in mediators],
            "members": {name: {"wireguard": wireguard, "identity": identity}},
            "networks": {},
        },
        indent=1,
    )


def _mediator(mediator: Mediator) -> dict[str, Any]:
    host = f"[{mediator.host}]" if ":" in mediator.host else mediator.host
    plain: dict[str, Any] = {
        "url": f"netctl://{host}:{mediator.port}",
        "identity": [str(pin) for pin in mediator.identity],
        "stun": list(mediator.stun),
        "relayPorts": f"{mediator.relay_ports[0]}-{mediator.relay_ports[1]}",
    }
    if mediator.tls:
        plain["tls"] = list(mediator.tls)
    if mediator.relay_only:
        plain["role"] = "relay"
    return plain


def _groups_in_rules(networks: Collection[Network]) -> frozenset[str]:
    return frozenset(
        text[len(GROUP) :]
        for network in networks
        for rule in network.acls or ()
        for text in (*rule.src, *rule.dst)
        if text.startswith(GROUP)
    )


def _member(member: Member, me: str, used: Collection[str]) -> dict[str, Any]:
    plain: dict[str, Any] = {"wireguard": str(member.wireguard)}
    groups = sorted(member.groups.intersection(used))
    if groups:
        plain["groups"] = groups
    if member.identity is not None:
        plain["identity"] = str(member.identity)
    if member.routes:
        plain["routes"] = [str(route) for route in member.routes]
    if member.endpoints and member.name == me:
        plain["endpoints"] = [str(endpoint) for endpoint in member.endpoints]
    if member.listen_port is not None and member.name == me:
        plain["listenPort"] = member.listen_port
    if not member.port_mapping and member.name == me:
        plain["portMapping"] = False
    if not member.port_guessing and member.name == me:
        plain["portGuessing"] = False
    if member.interfaces and member.name == me:
        plain["interfaces"] = list(member.interfaces)
    if member.mtu is not None:
        plain["mtu"] = member.mtu
    return plain


def _network(document: Document, network: Network, names: Collection[str]) -> dict[str, Any]:
    here = [name for name in network.member_names if name in names]
    plain: dict[str, Any] = {
        "mode": network.mode.value,
        "members": here,
        "ipv6": str(network.ipv6) if network.ipv6 is not None else "none",
    }
    if any(not in_private_space(pool) for pool in (network.ipv4, network.ipv6) if pool is not None):
        plain["allowPublicRange"] = True
    if network.own_id:
        plain["id"] = network.own_id
    if network.ipv4 is not None:
        plain["ipv4"] = str(network.ipv4)
    fixed = {name: [str(a) for a in found] for name, found in network.addresses.items() if name in here}
    if fixed:
        plain["addresses"] = fixed
    if network.hub is not None and network.mode is Mode.ROUTED:
        plain["topology"] = {"hub": network.hub}
    if network.mtu is not None:
        plain["mtu"] = network.mtu
    if network.masquerade:
        plain["masquerade"] = True
    if network.lazy is not Lazy.AUTO:
        plain["lazy"] = network.lazy.value
    if network.acls is not None:
        rules = (_rule(document, rule, here) for rule in network.acls)
        plain["acls"] = [rule for rule in rules if rule is not None]
    return plain


def _rule(document: Document, rule: Rule, here: Collection[str]) -> dict[str, Any] | None:
    """The rule with only visible members; None when one side then names no member and no prefix."""
    src, dst = _selected(document, rule.src, here), _selected(document, rule.dst, here)
    if not src or not dst:
        return None
    plain: dict[str, Any] = {"name": rule.name, "src": src, "dst": dst}
    if rule.proto is not None:
        plain["proto"] = rule.proto
    if rule.ports:
        plain["ports"] = [r.first if r.first == r.last else str(r) for r in rule.ports]
    if rule.ethertypes:
        plain["ethertypes"] = [f"0x{value:04x}" for value in rule.ethertypes]
    return plain


def _selected(document: Document, selectors: Collection[str], here: Collection[str]) -> list[str]:
    """The selectors that match a visible member, and prefixes."""
    groups = {group for name in here for group in document.members[name].groups}
    return [
        text
        for text in selectors
        if text == ALL or "/" in text or text in here or text[len(GROUP) :] in groups
    ]
