"""What one host should have: the document and the view, member by member."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from netctl.config import load_document, resolve
from netctl.model import derive
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document, MemberState
from netctl.model.errors import LocalError
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from tests.support import documents
from tests.support.documents import key

MEDIATOR = f'mediators: [{{url: "netctl://m.example.net:8443", identity: ["ed25519:{key("m")}"]}}]'


def document(networks: str, *, mediators: str = MEDIATOR, **members: str) -> Document:
    """A document of members (name to further keys) and networks."""
    lines = [f'  {name}: {{wireguard: "{key(name)}", {more}}}' for name, more in members.items()]
    return load_document(
        "\n".join(["apiVersion: netctl/v1", mediators, "members:", *lines, "networks:", networks])
    ).document


def wg(name: str) -> WireGuardKey:
    return WireGuardKey.parse(key(name))


def view(*names: str, leases: dict[str, str] | None = None, network: str = "net") -> View:
    """What a mediator says: these members, these leases in one network."""
    return View(
        members={wg(name): ViewMember(name, wg(name)) for name in names},
        leases={
            (network, wg(name)): Lease(network, wg(name), (ip_address(address),))
            for name, address in (leases or {}).items()
        },
    )


def identity(name: str) -> str:
    return f'identity: "ed25519:{key("identity " + name)}"'


THREE = {name: identity(name) for name in ("a", "b", "c")}
ROUTED = "  net: {mode: routed, ipv4: 10.1.0.0/24, ipv6: none, members: ['*']}"
LAN = "  net: {mode: lan, ipv4: 10.1.0.0/24, members: ['*']}"
LEASES = {"a": "10.1.0.1", "b": "10.1.0.2", "c": "10.1.0.3"}


def allowed(state: HostState, name: str) -> set[str]:
    assert state.wireguard is not None
    return {str(prefix) for prefix in state.wireguard.peers[wg(name)].allowed_ips}


def test_a_peer_needs_the_document_and_the_mediator() -> None:
    loaded = document(ROUTED, **THREE)
    without = resolve(loaded, "a", None).state
    some = resolve(loaded, "a", view("a", "b", "stranger", leases=LEASES)).state
    assert without.wireguard is not None
    assert not without.wireguard.peers
    assert not without.wireguard.addresses
    assert some.wireguard is not None
    assert set(some.wireguard.peers) == {wg("b")}
    assert some.wireguard.addresses == {ip_address("10.1.0.1")}


@pytest.mark.parametrize(
    ("leases", "words"),
    [
        ({**LEASES, "b": "10.9.0.2"}, "outside its pool"),
        ({**LEASES, "b": "10.1.0.1"}, "which is 'a''s"),
        ({**LEASES, "b": "10.1.0.77"}, "which is 'c''s"),
    ],
)
def test_a_lease_that_would_take_an_address_from_another_is_refused(
    leases: dict[str, str], words: str
) -> None:
    fixed = ROUTED.replace("members:", "addresses: {c: 10.1.0.77}, members:")
    resolution = resolve(document(fixed, **THREE), "a", view("a", "b", "c", leases=leases))
    assert [condition.peer for condition in resolution.conditions] == ["b"]
    assert words in resolution.conditions[0].message
    assert allowed(resolution.state, "b") == set()
    assert allowed(resolution.state, "c") == {"10.1.0.77/32"}


def test_a_lan_has_routed_unicast_and_a_segment_for_the_rest() -> None:
    loaded = document(LAN, **THREE, phone="groups: [phones]")
    everybody = view("a", "b", "c", "phone", leases={**LEASES, "phone": "10.1.0.9"})
    state = resolve(loaded, "a", everybody, live=frozenset({wg("b"), wg("phone")})).state
    network = loaded.networks["net"]
    assert network.ipv6 is not None
    six = derive.member_ipv6(network.ipv6, wg("b"))
    outer = derive.underlay(wg("b"))
    assert allowed(state, "b") == {"10.1.0.2/32", f"{six}/128", f"{outer}/128"}
    assert state.wireguard is not None
    own = {address for segment in state.segments.values() for address, _ in segment.addresses}
    assert state.wireguard.addresses == own, "what a NAT rule of the host makes its own needs one on the link"
    assert state.wireguard.underlay == {derive.underlay(wg("a"))}
    (segment,) = state.segments.values()
    assert segment.name == derive.segment_name(network.id)
    assert segment.mtu == 1350
    assert (ip_address("10.1.0.1"), 24) in segment.addresses
    assert segment.flood == {outer}, "only live members that have a segment"
    routes = {str(route.destination): route for route in state.routes}
    assert routes["10.1.0.2/32"].source == ip_address("10.1.0.1")
    assert routes["10.1.0.2/32"].link == "nctl0"
    assert state.sysctls[f"net/ipv4/conf/{segment.name}/rp_filter"] == "2"
    assert state.filter is not None
    binding = next(one for one in state.filter.bindings if one.underlay == outer)
    assert binding.mac == derive.mac(network.id, wg("b"))
    assert {ip_address("10.1.0.2"), six} <= binding.addresses
    assert len(binding.addresses) == 3, "and its link-local address"
    assert state.names["b.net.netctl"] == (ip_address("10.1.0.2"), six)


def test_a_spoke_talks_to_its_hub_alone() -> None:
    loaded = document(ROUTED.replace("members:", "topology: {hub: b}, members:"), **THREE)
    everybody = view("a", "b", "c", leases=LEASES)
    spoke, hub = resolve(loaded, "a", everybody).state, resolve(loaded, "b", everybody).state
    assert spoke.wireguard is not None
    assert set(spoke.wireguard.peers) == {wg("b")}
    assert allowed(spoke, "b") == {"10.1.0.0/24", "10.1.0.2/32"}
    assert "c.net.netctl" in spoke.names
    assert allowed(hub, "a") == {"10.1.0.1/32"}
    assert hub.sysctls["net/ipv4/ip_forward"] == "1"
    assert "net/ipv4/ip_forward" not in spoke.sysctls


def test_a_gateway_is_where_its_lan_is_routed_to() -> None:
    networks = ROUTED.replace("members:", "masquerade: true, members:")
    loaded = document(networks, a=identity("a"), b=f"{identity('b')}, routes: [192.168.5.0/24]")
    everybody = view("a", "b", leases=LEASES)
    state, gateway = resolve(loaded, "a", everybody).state, resolve(loaded, "b", everybody).state
    assert allowed(state, "b") == {"10.1.0.2/32", "192.168.5.0/24"}
    assert any(str(route.destination) == "192.168.5.0/24" for route in state.routes)
    assert not any(str(route.destination) == "192.168.5.0/24" for route in gateway.routes)
    assert gateway.filter is not None
    assert gateway.filter.masquerade == {(ip_network("10.1.0.0/24"), ip_network("192.168.5.0/24"))}


@pytest.mark.parametrize("order", ["mesh first", "hub first"])
def test_a_lan_offered_in_two_networks_has_one_way(order: str) -> None:
    mesh = ROUTED
    star = "  star: {mode: routed, ipv4: 10.2.0.0/24, ipv6: none, topology: {hub: c}, members: ['*']}"
    networks = "\n".join([mesh, star] if order == "mesh first" else [star, mesh])
    loaded = document(networks, **{**THREE, "b": f"{identity('b')}, routes: [192.168.5.0/24]"})
    leases = {
        (net, wg(name)): Lease(net, wg(name), (ip_address(address.replace("10.1", pool)),))
        for net, pool in (("net", "10.1"), ("star", "10.2"))
        for name, address in LEASES.items()
    }
    both = View(members=view("a", "b", "c").members, leases=leases)
    state = resolve(loaded, "a", both).state
    assert "192.168.5.0/24" in allowed(state, "b"), "the gateway itself"
    assert "192.168.5.0/24" not in allowed(state, "c"), "and not the hub"
    assert [str(route.destination) for route in state.routes].count("192.168.5.0/24") == 1


@pytest.mark.parametrize(
    ("dst", "destinations"),
    [
        ("b", {"10.1.0.2/32"}),
        ("10.1.0.0/24", {"10.1.0.2/32"}),
        ("0.0.0.0/0", {"10.1.0.2/32", "192.168.5.0/24"}),
        ("192.168.5.7/32", {"192.168.5.7/32"}),
        ("192.168.0.0/16", {"192.168.5.0/24"}),
        ("a", None),
        ("172.16.0.0/12", None),
    ],
)
def test_a_receiver_enforces_its_own_part_of_a_rule(dst: str, destinations: set[str] | None) -> None:
    rule = f"{{name: r, src: [a], dst: ['{dst}'], proto: tcp, ports: [22, 80-90]}}"
    networks = ROUTED.replace("members:", f"acls: [{rule}], members:")
    loaded = document(networks, a=identity("a"), b=f"{identity('b')}, routes: [192.168.5.0/24]")
    table = resolve(loaded, "b", view("a", "b", leases=LEASES)).state.filter
    assert table is not None
    if destinations is None:
        assert table.rules == ()
        return
    (found,) = table.rules
    assert {str(prefix) for prefix in found.sources} == {"10.1.0.1/32"}
    assert {str(prefix) for prefix in found.destinations} == destinations
    assert [str(port) for port in found.ports] == ["22", "80-90"]


def test_broadcast_has_the_receiver_as_its_destination() -> None:
    rule = "{name: games, src: ['*'], dst: [a], proto: udp, ports: [27015]}"
    loaded = document(LAN.replace("members:", f"acls: [{rule}], members:"), **THREE)
    everybody = view("a", "b", "c", leases=LEASES)
    for name, hears in (("a", True), ("b", False)):
        table = resolve(loaded, name, everybody).state.filter
        assert table is not None
        destinations = {str(prefix) for found in table.rules for prefix in found.destinations}
        assert ("10.1.0.255/32" in destinations) is hears
        assert ("255.255.255.255/32" in destinations) is hears


def test_no_acls_and_empty_acls_are_opposites() -> None:
    everybody = view("a", "b", "c", leases=LEASES)
    open_table = resolve(document(ROUTED, **THREE), "a", everybody).state.filter
    shut = ROUTED.replace("members:", "acls: [], members:")
    shut_table = resolve(document(shut, **THREE), "a", everybody).state.filter
    assert open_table is not None
    assert [rule.name for rule in open_table.rules] == ["network net: all"]
    assert shut_table is not None
    assert shut_table.rules == ()
    assert "nctl0" in shut_table.links


def test_without_mediators_the_document_says_everything() -> None:
    networks = ROUTED.replace("members:", "addresses: {a: 10.1.0.1, b: 10.1.0.2, c: 10.1.0.3}, members:")
    members = {"a": "endpoints: ['203.0.113.5:51820']", "b": "endpoints: ['b.example.net:51821']", "c": ""}
    loaded = document(networks, mediators="mediators: []", **members)
    unresolved = resolve(loaded, "c", None)
    assert unresolved.state.wireguard is not None
    peers = unresolved.state.wireguard.peers
    assert peers[wg("a")].endpoint == SocketAddress("203.0.113.5", 51820)
    assert peers[wg("b")].endpoint is None
    assert [condition.peer for condition in unresolved.conditions] == ["b"]
    found = {"b.example.net:51821": SocketAddress("198.51.100.9", 51821)}
    resolved = resolve(loaded, "c", None, resolved=found)
    assert resolved.conditions == ()
    assert resolved.state.wireguard is not None
    assert resolved.state.wireguard.peers[wg("b")].endpoint == found["b.example.net:51821"]


def test_who_is_not_in_the_document_has_nothing() -> None:
    loaded = document(ROUTED.replace("'*'", "a"), **THREE, gone="state: absent")
    assert resolve(loaded, "b", view("a", "b")).state == HostState()
    for name in ("gone", "stranger"):
        with pytest.raises(LocalError, match=name):
            resolve(loaded, name, None)


@pytest.mark.parametrize("example", documents.EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_valid_and_say_nothing_odd(example: Path) -> None:
    loaded = load_document(example.read_text(encoding="utf-8"), example.name)
    assert loaded.warnings == ()
    present = [m.name for m in loaded.document.members.values() if m.state is MemberState.PRESENT]
    assert len(present) >= 4
    for name in present:
        assert resolve(loaded.document, name, None).conditions == ()


LAZY = "  net: {mode: routed, ipv4: 10.1.0.0/16, ipv6: none, lazy: %s, members: ['*']}"


def lazy_peers(state: HostState) -> dict[WireGuardKey, int]:
    """With their keepalives."""
    assert state.wireguard is not None
    return {key: peer.keepalive_s for key, peer in state.wireguard.peers.items() if peer.lazy}


@pytest.mark.parametrize(
    ("lazy", "members", "is_lazy"),
    [
        ("auto", 128, False),
        ("auto", 129, True),
        ("always", 3, True),
        ("never", 129, False),
    ],
)
def test_a_lazy_peer_has_no_keepalive(lazy: str, members: int, is_lazy: bool) -> None:
    """One would open the tunnel."""
    names = [f"m{number}" for number in range(members)]
    loaded = document(LAZY % lazy, **{name: identity(name) for name in names})
    state = resolve(loaded, "m0", view(*names)).state
    assert lazy_peers(state) == (dict.fromkeys(map(wg, names[1:]), 0) if is_lazy else {})
    assert state.wireguard is not None
    assert {peer.keepalive_s for peer in state.wireguard.peers.values()} == {0 if is_lazy else 25}


def test_who_is_in_an_open_network_too_or_is_a_stock_app_is_not_lazy() -> None:
    networks = LAZY % "always" + "\n  all: {mode: routed, ipv4: 10.2.0.0/24, members: [a, b]}"
    loaded = document(networks, **THREE, phone="")
    state = resolve(loaded, "a", view("a", "b", "c", "phone")).state
    assert set(lazy_peers(state)) == {wg("c")}


def test_without_mediators_nobody_is_lazy() -> None:
    """Nobody could wake a peer: NC517."""
    fixed = "addresses: {a: 10.1.0.1, b: 10.1.0.2}, "
    text = (LAZY % "always").replace("members:", fixed + "members:")
    members = {name: f'endpoints: ["192.0.2.{number}:51820"]' for number, name in enumerate("ab", 1)}
    loaded = document(text, mediators="mediators: []", **members)
    assert not lazy_peers(resolve(loaded, "a", None).state)
