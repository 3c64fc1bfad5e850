"""Checks that a schema cannot express: references, overlaps, duplicate keys, pools in public address space.

Codes are stable: NC1xx values, NC2xx references, NC3xx keys and secrets, NC4xx address space, NC5xx networks.
"""

from __future__ import annotations

import difflib
import ipaddress
import itertools
from collections.abc import Collection, Mapping
from typing import Any

from netctl.config.load.build import ALL, GROUP
from netctl.config.load.loader import Path, clean
from netctl.config.load.mtu import check_mtu
from netctl.config.load.report import Report
from netctl.model import derive
from netctl.model.addresses import Prefix, parse_prefix
from netctl.model.document import (
    DEFAULT_LISTEN_PORT,
    MAX_RELAYS,
    Document,
    Lazy,
    Mediator,
    Member,
    MemberState,
    Mode,
    Network,
    OwnRelay,
    Rule,
)
from netctl.model.keys import IdentityKey, WireGuardKey

PRIVATE_SPACE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "fc00::/7",
        "198.18.0.0/15",
    )
)
"""RFC 1918, RFC 6598, RFC 4193, and the benchmarking range of RFC 2544."""
SHARED_SPACE = ipaddress.ip_network("100.64.0.0/10")
SEGMENT_WARN_MEMBERS = 128
"""Members of a segment above which an agent no longer opens all tunnels at join, so broadcast may miss some."""
SEGMENT_MAX_MEMBERS = 512
"""Members of a segment at most: head-end replication sends one copy a member, and more would flood every uplink."""
NO_KEY = bytes(32)
SHOWN_NAMES = 5
MAX_NEAR_LEN = 64  # characters: comparing words costs by length, and a longer word is no typing error
MAX_NEAR_NAMES = 2000  # names to compare with: each costs time
INVITED_GROUP = "invited"


def check_semantics(document: Document, tree: Mapping[str, Any], report: Report) -> None:
    """Report all errors and oddities of a document that conforms to the schema."""
    _check_mediators(document, report)
    _check_member_relays(document, report)
    _check_app_relays(document, report)
    _check_keys(document, report)
    _check_routes(document, report)
    groups = {group for member in document.members.values() for group in member.groups}
    for network in document.networks.values():
        _check_selectors(document, network, groups, report)
        _check_pools(network, bool(tree["networks"][network.name].get("allowPublicRange")), report)
        _check_fixed(document, network, report)
        _check_shape(document, network, report)
        check_mtu(document, network, report)
        if not document.mediators:
            _check_unmediated(document, network, report)
    _check_overlaps(document, report)
    _check_ids(document, tree, report)
    for role, selectors in (("viewers", document.ui.viewers), ("operators", document.ui.operators)):
        for index, selector in enumerate(selectors):
            _check_selector(selector, ("ui", role, index), document, groups, report)


def in_private_space(pool: Prefix) -> bool:
    """Whether a pool lies in private space, so that it hides no public addresses."""
    return any(_inside(pool, space) for space in PRIVATE_SPACE)


def _inside(pool: Prefix, space: Prefix) -> bool:
    return pool.version == space.version and pool.subnet_of(space)  # type: ignore[arg-type]


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _near(word: str, names: Collection[str]) -> str:
    some = list(itertools.islice(names, MAX_NEAR_NAMES))
    close = difflib.get_close_matches(word[:MAX_NEAR_LEN], some, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""


def _check_keys(document: Document, report: Report) -> None:
    owners: dict[WireGuardKey, str] = {}
    identities: dict[IdentityKey, str] = {}
    for name, member in document.members.items():
        if member.wireguard is not None:
            other = owners.setdefault(member.wireguard, name)
            if other != name:
                message = f"this key is also that of '{other}'; a key belongs to one member"
                report.error("NC301", ("members", name, "wireguard"), message)
            if member.wireguard.raw == NO_KEY:
                report.error("NC305", ("members", name, "wireguard"), "all zeros is no key")
        if member.identity is not None:
            other = identities.setdefault(member.identity, name)
            if other != name:
                message = f"this identity is also that of '{other}'; an identity belongs to one member"
                report.error("NC302", ("members", name, "identity"), message)

    for name, member in document.members.items():
        for index, key in enumerate(member.previous_keys):
            if key in owners:
                message = f"this is the current key of '{owners[key]}'"
                report.error("NC304", ("members", name, "previousKeys", index), message)


def _check_mediators(document: Document, report: Report) -> None:
    places: dict[tuple[str, int], int] = {}
    wanted = sum(1 for member in document.members.values() if member.identity is not None)
    for index, mediator in enumerate(document.mediators):
        path: Path = ("mediators", index)
        other = places.setdefault((mediator.host, mediator.port), index)
        if other != index:
            report.error("NC512", (*path, "url"), f"mediators[{other}] has the same host and port")
        first, last = mediator.relay_ports
        for port in mediator.stun:
            if first <= port <= last:
                report.error(
                    "NC513", (*path, "relayPorts"), f"the STUN port {port} is one of the relay ports"
                )
        room = last - first + 1
        if mediator.relay_only:
            _check_relay(document, mediator, path, report)
            _check_mediated(document, (*path, "role"), "`role: relay`", report)
            _check_room(document, mediator.relay_ports, (*path, "relayPorts"), report)
        if room < wanted:
            message = f"{room} relay ports for {wanted} members: each needs one, so some cannot be relayed"
            report.warning("NC511", (*path, "relayPorts"), message, "widen the range")


def _check_relay(document: Document, relay: Mediator, path: Path, report: Report) -> None:
    """What keeps members from using a relay apart, although the document is valid."""
    full = document.full_mediators()
    if len(relay.identity) > 1:
        message = f"members use the first identity of a relay alone, {relay.identity[0]}"
        report.warning("NC519", (*path, "identity"), message, "name the relay's present identity alone")
    if any(pin in mediator.identity for mediator in full for pin in relay.identity):
        message = "this identity is also a mediator's: a relay apart has one of its own, or nobody uses it"
        report.warning("NC520", (*path, "identity"), message, "run `netctl-mediator init --relay` there")


def _check_mediated(document: Document, path: Path, what: str, report: Report) -> None:
    if not document.full_mediators():
        message = f"{what} needs a mediator in the document: nobody else gives grants for the relay"
        report.warning("NC518", path, message)


def _check_room(document: Document, ports: tuple[int, int], path: Path, report: Report) -> None:
    room = _room(ports)
    wanted = max((_room(one.relay_ports) for one in document.full_mediators()), default=0)
    if room < wanted:
        message = f"{room} relay ports, and {wanted} at the mediator: members with a later port do not use this relay"
        report.warning("NC521", path, message, "widen the range")


def _room(ports: tuple[int, int]) -> int:
    return ports[1] - ports[0] + 1


def _check_member_relays(document: Document, report: Report) -> None:
    """Members with `relay`: what makes it impossible is an error, what makes it useless a warning."""
    relaying = [
        (member, member.relay)
        for member in document.members.values()
        if member.relay is not None and member.state is MemberState.PRESENT
    ]
    if not relaying:
        return
    apart = sum(1 for mediator in document.mediators if mediator.relay_only)
    taken: list[tuple[str, frozenset[int], str]] = [
        (one.host, _udp_ports(one.stun, one.relay_ports), f"mediators[{index}]")
        for index, one in enumerate(document.mediators)
    ]
    for number, (member, relay) in enumerate(relaying, 1):
        path: Path = ("members", member.name, "relay")
        if number + apart > MAX_RELAYS:
            message = (
                f"a document has {MAX_RELAYS} relays at most, those with `role: relay` and members together"
            )
            report.error("NC525", path, message)
            return
        if member.identity is None:
            message = f"'{member.name}' has no agent that could relay: `identity` is missing"
            report.error("NC522", path, message, "`netctl keys` on the host prints it")
        if not member.endpoints:
            message = "a relay needs an address that everybody reaches: `endpoints` is missing"
            report.error("NC523", path, message, "name this host's public address and WireGuard's port there")
        _check_own_ports(member, relay, path, report)
        host, used = (
            member.endpoints[0].host if member.endpoints else "",
            _udp_ports(relay.stun, relay.relay_ports),
        )
        for where, others, who in taken:
            if host and where == host and used & others:
                message = f"{who} is at the same host, {host}, and has the port {min(used & others)} as well"
                report.error("NC524", path, message, "two relays at one address need different ports")
                break
        taken.append((host, used, f"members.{member.name}"))
        _check_mediated(document, path, "`relay`", report)
        _check_room(document, relay.relay_ports, path, report)
        if not document.networks_of(member.name):
            message = f"'{member.name}' is in no network, so its relay carries nobody's packets"
            report.warning("NC526", path, message)


def _check_app_relays(document: Document, report: Report) -> None:
    """Members that name the relay at which they meet their peers."""
    hosts = {mediator.host: mediator for mediator in document.mediators}
    for member in document.members.values():
        if not member.at_relay:
            continue
        path: Path = ("members", member.name, "relay")
        if member.identity is not None:
            message = f"'{member.name}' has an agent, which finds the nearest relay for each peer by itself"
            report.error("NC527", path, message, "`relay: true` lets it relay for others")
        elif member.at_relay not in hosts:
            message = f"no entry under `mediators` has the host '{clean(member.at_relay)}'"
            report.error("NC528", path, message, _near(member.at_relay, hosts))


def _udp_ports(stun: tuple[int, ...], relay_ports: tuple[int, int]) -> frozenset[int]:
    return frozenset((*stun, *range(relay_ports[0], relay_ports[1] + 1)))


def _check_own_ports(member: Member, relay: OwnRelay, path: Path, report: Report) -> None:
    first, last = relay.relay_ports
    for port in relay.stun:
        if first <= port <= last:
            report.error("NC513", path, f"the STUN port {port} is one of the relay ports")
    listen = member.listen_port or DEFAULT_LISTEN_PORT
    if listen in relay.stun or first <= listen <= last:
        report.error("NC524", path, f"port {listen} is WireGuard's on this member")


def _check_routes(document: Document, report: Report) -> None:
    claimed: dict[Prefix, str] = {}
    routed = {n for net in document.networks.values() if net.mode is Mode.ROUTED for n in net.member_names}
    pools = [(n.name, p) for n in document.networks.values() for p in (n.ipv4, n.ipv6) if p is not None]
    for name, member in document.members.items():
        if member.routes and name not in routed and member.state is MemberState.PRESENT:
            message = f"'{name}' is in no `mode: routed` network, and only those are offered its routes"
            report.warning("NC416", ("members", name, "routes"), message)
        for index, route in enumerate(member.routes):
            path: Path = ("members", name, "routes", index)
            if not route.prefixlen:
                message = f"{route} is the whole Internet, and its tunnels would go through themselves"
                report.error("NC415", path, message, "name the LAN behind this member")
            if route in claimed:
                message = f"{route} is also claimed by '{claimed[route]}'; WireGuard would silently move it"
                report.error("NC401", path, message)
            claimed.setdefault(route, name)
            for network, pool in pools:
                if route.prefixlen and route.version == pool.version and route.overlaps(pool):
                    report.error("NC402", path, f"{route} overlaps the pool {pool} of network '{network}'")


def _check_selectors(document: Document, network: Network, groups: set[str], report: Report) -> None:
    base: Path = ("networks", network.name)
    known = set(groups) | ({INVITED_GROUP} if network.join.invites else set())
    for index, selector in enumerate(network.members):
        _check_selector(selector, (*base, "members", index), document, known, report)
    for index, rule in enumerate(network.acls or ()):
        for side, selectors in (("src", rule.src), ("dst", rule.dst)):
            for i, selector in enumerate(selectors):
                path = (*base, "acls", index, side, i)
                if "/" in selector:
                    _check_prefix(selector, path, report)
                else:
                    _check_selector(selector, path, document, known, report)
        _check_rule(rule, (*base, "acls", index), network, report)


def _check_prefix(text: str, path: Path, report: Report) -> None:
    try:
        parse_prefix(text)
    except ValueError as error:
        report.error("NC101", path, f"not a prefix: {error}")


def _check_selector(selector: str, path: Path, document: Document, groups: set[str], report: Report) -> None:
    if selector == ALL:
        return
    if selector.startswith(GROUP):
        group = selector[len(GROUP) :]
        if group not in groups:
            report.error("NC202", path, f"no member is in the group '{clean(group)}'", _near(group, groups))
    elif selector not in document.members:
        hint = _near(selector, document.members)
        if not hint and selector in groups:
            hint = f"did you mean 'group:{selector}'?"
        report.error("NC201", path, f"there is no member '{clean(selector)}'", hint)
    elif document.members[selector].state is MemberState.ABSENT:
        report.warning("NC203", path, f"'{selector}' is absent, so this names nobody")


def _check_rule(rule: Rule, path: Path, network: Network, report: Report) -> None:
    if rule.ports and rule.proto not in ("tcp", "udp"):
        report.error("NC501", (*path, "ports"), "ports need `proto: tcp` or `proto: udp`")
    if rule.ethertypes and rule.proto != "ethernet":
        report.error("NC502", (*path, "ethertypes"), "ethertypes need `proto: ethernet`")
    if rule.proto == "ethernet" and not rule.ethertypes:
        report.error("NC503", path, "`proto: ethernet` needs `ethertypes`, for example ['0x8137'] (IPX)")
    if rule.proto == "ethernet" and network.mode is not Mode.LAN:
        report.error("NC504", path, "`proto: ethernet` is for `mode: lan`; a routed network carries only IP")


def _check_pools(network: Network, allow_public: bool, report: Report) -> None:
    base: Path = ("networks", network.name)
    if network.ipv4 is None and network.ipv6 is None:
        report.error("NC403", base, "a network needs `ipv4` or `ipv6`")
    for key, pool in (("ipv4", network.ipv4), ("ipv6", network.ipv6)):
        if pool is None:
            continue
        path = (*base, key)
        if not in_private_space(pool) and not allow_public:
            hint = "use 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16, or say `allowPublicRange: true`"
            message = (
                f"{pool} is publicly routed space: its owners would become unreachable from every member"
            )
            report.error("NC404", path, message, hint)
        if pool.version == 6 and pool.overlaps(derive.underlay_prefix()):
            report.error("NC417", path, f"{pool} overlaps {derive.underlay_prefix()}, which segments use")
        if _inside(pool, SHARED_SPACE):
            report.warning("NC405", path, f"{pool} is in 100.64.0.0/10, which carriers and other meshes use")
        if pool.version == 4 and pool.prefixlen > 30:
            report.error("NC406", path, f"{pool} has no room for two members; use /30 or larger")
        if pool.version == 6 and pool.prefixlen > 64:
            report.error("NC407", path, f"{pool} is too small: addresses come from the key and need a /64")


def _check_fixed(document: Document, network: Network, report: Report) -> None:
    taken: dict[object, str] = {}
    for name, addresses in network.addresses.items():
        path: Path = ("networks", network.name, "addresses", name)
        if name not in document.members:
            report.error("NC201", path, f"there is no member '{clean(name)}'", _near(name, document.members))
        elif name not in network.member_names:
            report.error("NC204", path, f"'{name}' is not a member of this network; see its `members`")
        versions = [address.version for address in addresses]
        if len(set(versions)) != len(versions):
            report.error("NC408", path, "at most one address of each family")
        for address in addresses:
            pool = network.ipv4 if address.version == 4 else network.ipv6
            if pool is None or address not in pool:
                shown = str(pool) if pool else f"no IPv{address.version} pool"
                report.error("NC409", path, f"{address} is outside the pool ({shown})")
            elif address.version == 4 and address in (pool.network_address, pool.broadcast_address):
                report.error("NC410", path, f"{address} is the network's own or broadcast address")
            other = taken.setdefault(address, name)
            if other != name:
                report.error("NC411", path, f"{address} is also the address of '{other}'")


def _check_shape(document: Document, network: Network, report: Report) -> None:
    base: Path = ("networks", network.name)
    count = len(network.member_names)
    if network.hub is not None:
        path = (*base, "topology", "hub")
        if network.hub not in network.member_names:
            hint = _near(network.hub, network.member_names)
            report.error("NC505", path, f"the hub '{network.hub}' is not a member of this network", hint)
        if network.mode is Mode.LAN:
            report.error("NC506", path, "`mode: lan` has no hub: use `mode: routed`")
    if network.ipv4 is not None and network.ipv4.prefixlen <= 30 and count > network.ipv4.num_addresses - 2:
        room = network.ipv4.num_addresses - 2
        message = f"{network.ipv4} has room for {room} members, and {count} belong to it; use a larger pool"
        report.error("NC412", (*base, "ipv4"), message)
    if network.mode is Mode.LAN:
        if count > SEGMENT_MAX_MEMBERS:
            message = (
                f"{count} members; `mode: lan` carries at most {SEGMENT_MAX_MEMBERS}. Use `mode: routed`"
            )
            report.error("NC507", (*base, "members"), message)
        elif count > SEGMENT_WARN_MEMBERS:
            message = f"{count} members: above {SEGMENT_WARN_MEMBERS} broadcast may miss idle ones"
            report.warning("NC508", (*base, "members"), message)
        stock = [name for name in network.member_names if document.members[name].identity is None]
        if stock and document.mediators:
            message = f"no identity (a stock WireGuard app), so no broadcast for {_some(stock)}"
            report.warning("NC509", (*base, "members"), message)
    elif (
        network.hub is None
        and network.masquerade
        and not any(document.members[name].routes for name in network.member_names)
    ):
        report.warning(
            "NC514", (*base, "masquerade"), "no member of this network has `routes` to masquerade to"
        )


def _check_unmediated(document: Document, network: Network, report: Report) -> None:
    base: Path = ("networks", network.name)
    fixed = {name for name, found in network.addresses.items() if any(one.version == 4 for one in found)}
    homeless = [name for name in network.member_names if name not in fixed]
    if network.ipv4 is not None and homeless:
        message = f"without mediators nobody leases an IPv4 address to {_some(homeless)}"
        report.error("NC413", base, message, f"fix them under networks.{network.name}.addresses")
    hidden = [name for name in network.member_names if not document.members[name].endpoints]
    if network.hub is not None:
        hidden = [network.hub] if network.hub in hidden else []
    elif len(hidden) == 1:
        hidden = []
    if hidden:
        message = f"no mediators and no `endpoints`: nobody can find {_some(hidden)}"
        report.warning("NC510", (*base, "members"), message, "give them `endpoints`, or add a mediator")
    if network.lazy is Lazy.ALWAYS:
        message = "without mediators nobody can wake a peer: all tunnels are kept open"
        report.warning("NC517", (*base, "lazy"), message, "add a mediator, or leave `lazy` out")


def _check_ids(document: Document, tree: Mapping[str, Any], report: Report) -> None:
    """Report equal ids, link names and VNIs: all are derived from the id, and a host can use each only once."""
    for what in ("id", "link name", "VNI"):
        owners: dict[object, str] = {}
        for network in document.networks.values():
            derived = {
                "id": network.id,
                "link name": derive.segment_name(network.id),
                "VNI": derive.vni(network.id),
            }
            other = owners.setdefault(derived[what], network.name)
            if other != network.name:
                path: Path = ("networks", network.name)
                if "id" in tree["networks"][network.name]:
                    path = (*path, "id")
                message = f"the {what} of this network is that of '{other}' too"
                report.error("NC516", path, message, "give it another `id`")
                return


def _check_overlaps(document: Document, report: Report) -> None:
    networks = document.networks.values()
    for one, other in itertools.combinations(networks, 2):
        for key, first, second in (("ipv4", one.ipv4, other.ipv4), ("ipv6", one.ipv6, other.ipv6)):
            if one.id == other.id and key == "ipv6":
                continue  # reported by the check of the ids
            if first is not None and second is not None and first.overlaps(second):
                message = f"{second} overlaps {first} of network '{one.name}'"
                report.error("NC414", ("networks", other.name, key), message)
