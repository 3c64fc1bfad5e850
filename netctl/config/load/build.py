"""Builds a Document from a tree that conforms to the schema."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import ipaddress
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from netctl.config.load.loader import Path, clean
from netctl.config.load.report import Report
from netctl.model.addresses import Address, Endpoint, Prefix, is_host, parse_address, parse_prefix
from netctl.model.derive import network_id, ula_prefix
from netctl.model.document import (
    AclTest,
    Document,
    Drift,
    Firewall,
    Join,
    Lazy,
    Mediator,
    Member,
    MemberState,
    Mode,
    Network,
    OwnRelay,
    PortRange,
    Rule,
    Ui,
)
from netctl.model.durations import seconds
from netctl.model.keys import IdentityKey, WireGuardKey

ALL = "*"
GROUP = "group:"
MAX_GROUPINGS = 1024
"""Sets of groups that are remembered: more than a document for people has."""


def digest(text: str) -> str:
    """The digest of a document's exact text: SHA-256, hex."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def build(tree: Mapping[str, Any], name_of_text: str, report: Report) -> Document:
    """The document of a tree. Invalid values are reported and left out. `name_of_text`: the text's digest."""
    members = {name: _member(name, body, report) for name, body in tree.get("members", {}).items()}
    document_id, selection = tree.get("id", ""), Selection(members)
    networks = {
        name: _network(name, body, document_id, selection, report) for name, body in tree["networks"].items()
    }
    mediators = tuple(_mediator(index, body, report) for index, body in enumerate(tree.get("mediators", [])))
    ui = tree.get("ui", {})
    confirm = tree.get("apply", {}).get("confirm", "90s")
    return Document(
        members=members,
        networks=networks,
        mediators=_members_among(tuple(filter(None, mediators)), members),
        id=document_id,
        confirm_s=seconds(confirm),
        drift=Drift(tree.get("drift", "correct")),
        ui=Ui(tuple(ui.get("viewers", ())), tuple(ui.get("operators", ()))),
        digest=name_of_text,
    )


def _prefix(text: str, path: Path, report: Report) -> Prefix | None:
    try:
        return parse_prefix(text)
    except ValueError as error:
        hint = ""
        with contextlib.suppress(ValueError):
            hint = f"did you mean {parse_prefix(text, strict=False)}?"
        report.error("NC101", path, f"not a prefix: {error}", hint)
        return None


def _ports(text: str, path: Path, report: Report) -> tuple[int, int] | None:
    first, _, last = text.partition("-")
    low, high = int(first), int(last)
    if not 0 < low <= high < 65536:
        report.error("NC102", path, "a port range is FIRST-LAST with 1 <= FIRST <= LAST <= 65535")
        return None
    return low, high


def _mediator(index: int, body: Mapping[str, Any], report: Report) -> Mediator | None:
    path: Path = ("mediators", index)
    try:
        url = urlsplit(body["url"])
        host, port = url.hostname, url.port
    except ValueError:
        host = port = None
    if not host or not port or not is_host(host):
        report.error("NC103", (*path, "url"), "a mediator's url is netctl://HOST:PORT with a port in 1-65535")
        return None
    relay_ports = _ports(body.get("relayPorts", "40000-40999"), (*path, "relayPorts"), report)
    return Mediator(
        host=host,
        port=port,
        identity=tuple(IdentityKey.parse(text) for text in body["identity"]),
        stun=tuple(body.get("stun", (3478, 3479))),
        relay_ports=relay_ports or (40000, 40999),
        tls=tuple(body.get("tls", ())),
        relay_only=body.get("role") == "relay",
    )


def _members_among(mediators: tuple[Mediator, ...], members: Mapping[str, Member]) -> tuple[Mediator, ...]:
    """The entries, with the member's name where a relay is a member, as an excerpt has it (`config.edit.excerpt`)."""
    if not any(mediator.relay_only for mediator in mediators):
        return mediators
    names = {member.identity: name for name, member in members.items() if member.identity is not None}
    return tuple(
        dataclasses.replace(one, member=names.get(one.identity[0], "")) if one.relay_only else one
        for one in mediators
    )


def _relay(body: bool | str | Mapping[str, Any], path: Path, report: Report) -> OwnRelay | None:
    if body is False or isinstance(body, str):
        return None
    given: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    ports = _ports(given.get("relayPorts", "40000-40999"), (*path, "relayPorts"), report)
    return OwnRelay(tuple(given.get("stun", (3478, 3479))), ports or (40000, 40999))


@functools.lru_cache(maxsize=MAX_GROUPINGS)
def _groups(names: tuple[str, ...]) -> frozenset[str]:
    """The same set for all members that are in the same groups."""
    return frozenset(names)


def _member(name: str, body: Mapping[str, Any], report: Report) -> Member:
    path: Path = ("members", name)
    endpoints = []
    for index, text in enumerate(body.get("endpoints", ())):
        try:
            endpoints.append(Endpoint.parse(text))
        except ValueError as error:
            report.error("NC104", (*path, "endpoints", index), str(error))
    routes = [_prefix(text, (*path, "routes", i), report) for i, text in enumerate(body.get("routes", ()))]
    state = MemberState(body.get("state", "present"))
    key = body.get("wireguard")
    if key is None and state is MemberState.PRESENT:
        hint = "run `netctl keys` on the host, or say `state: absent`"
        report.error("NC105", path, "'wireguard' is missing", hint)
    return Member(
        name=name,
        wireguard=WireGuardKey.parse(key) if key is not None else None,
        identity=IdentityKey.parse(body["identity"]) if "identity" in body else None,
        groups=_groups(tuple(body.get("groups", ()))),
        endpoints=tuple(endpoints),
        routes=tuple(route for route in routes if route is not None),
        state=state,
        host=body.get("host"),
        listen_port=body.get("listenPort"),
        port_mapping=body.get("portMapping", True),
        port_guessing=body.get("portGuessing", True),
        firewall=Firewall(body.get("firewall", "report")),
        interfaces=tuple(body.get("interfaces", ())),
        mtu=body.get("mtu"),
        relay=_relay(body.get("relay", False), (*path, "relay"), report),
        at_relay=body["relay"] if isinstance(body.get("relay"), str) else "",
        previous_keys=tuple(WireGuardKey.parse(text) for text in body.get("previousKeys", ())),
    )


class Selection:
    """Finds the present members that selectors name: at the cost of those it finds, however many there are."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        present = [
            member
            for member in members.values()
            if member.state is MemberState.PRESENT and member.wireguard is not None
        ]
        self._all = tuple(member.name for member in present)
        self._place = {name: place for place, name in enumerate(self._all)}
        self._groups: dict[str, list[str]] = {}
        for member in present:
            for group in member.groups:
                self._groups.setdefault(group, []).append(member.name)

    def names(self, selectors: Collection[str]) -> tuple[str, ...]:
        """The present members that the selectors name, in the document's order."""
        if ALL in selectors:
            return self._all
        found = {text for text in selectors if text in self._place}
        for text in selectors:
            if text.startswith(GROUP):
                found.update(self._groups.get(text[len(GROUP) :], ()))
        return tuple(sorted(found, key=self._place.__getitem__))


def select(selectors: tuple[str, ...], members: Mapping[str, Member]) -> tuple[str, ...]:
    """The present members that the selectors name, in the document's order. For many calls: `Selection`."""
    return Selection(members).names(selectors)


def _addresses(value: Any, path: Path, report: Report) -> tuple[Address, ...]:
    found = []
    for text in value if isinstance(value, list) else [value]:
        try:
            found.append(parse_address(text))
        except ValueError:
            report.error("NC106", path, f"'{clean(text)}' is not an IP address")
    return tuple(found)


def _port(value: int | str, path: Path, report: Report) -> PortRange | None:
    if isinstance(value, int):
        return PortRange(value, value)
    ends = _ports(value, path, report)
    return PortRange(*ends) if ends else None


def _rule(index: int, body: Mapping[str, Any], path: Path, report: Report) -> Rule:
    ports = [_port(value, (*path, "ports", i), report) for i, value in enumerate(body.get("ports", ()))]
    types = [value if isinstance(value, int) else int(value, 16) for value in body.get("ethertypes", ())]
    return Rule(
        name=body.get("name", f"#{index + 1}"),
        src=tuple(body["src"]),
        dst=tuple(body["dst"]),
        proto=body.get("proto"),
        ports=tuple(port for port in ports if port is not None),
        ethertypes=tuple(types),
    )


def _network(
    name: str, body: Mapping[str, Any], document_id: str, selection: Selection, report: Report
) -> Network:
    path: Path = ("networks", name)
    identifier = network_id(document_id, body.get("id", name))
    pool = _prefix(body["ipv4"], (*path, "ipv4"), report) if "ipv4" in body else None
    ipv6 = body.get("ipv6", "auto")
    if ipv6 == "auto":
        pool6: Prefix | None = ula_prefix(identifier)
    else:
        pool6 = None if ipv6 == "none" else _prefix(ipv6, (*path, "ipv6"), report)
    if pool6 is not None and pool6.version != 6:
        report.error("NC107", (*path, "ipv6"), f"{pool6} is not IPv6")
        pool6 = None
    acls = body.get("acls")
    selectors = tuple(body["members"])
    join = body.get("join", {})
    return Network(
        name=name,
        id=identifier,
        mode=Mode(body.get("mode", "lan")),
        ipv4=pool if isinstance(pool, ipaddress.IPv4Network) else None,
        ipv6=pool6 if isinstance(pool6, ipaddress.IPv6Network) else None,
        members=selectors,
        member_names=selection.names(selectors),
        addresses={
            member: _addresses(value, (*path, "addresses", member), report)
            for member, value in body.get("addresses", {}).items()
        },
        hub=body.get("topology", {}).get("hub"),
        join=Join(invites=join.get("invites", False), approve=join.get("approve", "auto")),
        acls=None
        if acls is None
        else tuple(_rule(i, rule, (*path, "acls", i), report) for i, rule in enumerate(acls)),
        tests=tuple(
            AclTest(test["src"], tuple(test.get("accept", ())), tuple(test.get("deny", ())))
            for test in body.get("tests", ())
        ),
        mtu=body.get("mtu"),
        masquerade=body.get("masquerade", False),
        lazy=Lazy(body.get("lazy", "auto")),
        own_id=body.get("id", ""),
    )
