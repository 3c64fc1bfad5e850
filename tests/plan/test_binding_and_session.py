"""What a plan holds for, and whether it cuts the session that it is made from."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, settings

from netctl.model.addresses import SocketAddress, host_prefix
from netctl.model.document import PortRange
from netctl.model.hoststate import FilterRule, FilterTable, HostState, Peer, WireGuardLink
from netctl.plan import Binding, Session, carrier, drops, state_digest
from tests.plan.states import KEYS, host_states

ME, THEM = ipaddress.ip_address("10.9.0.1"), ipaddress.ip_address("10.9.0.2")
PEER = Peer(KEYS[1], frozenset({host_prefix(THEM)}), path="members.laptop")
LINK = WireGuardLink(KEYS[0], 51820, 1420, frozenset({ME}), {PEER.key: PEER})
POOL = frozenset({ipaddress.ip_network("10.9.0.0/24")})


def table(*rules: FilterRule) -> FilterTable:
    return FilterTable(frozenset({"nctl0"}), rules)


HOST = HostState(wireguard=LINK, filter=table(FilterRule("all", POOL, POOL)))
SSH = Session.parse("10.9.0.2 40000 10.9.0.1 22")


def test_a_session_is_read_as_sshd_tells_it() -> None:
    assert Session(THEM, ME, 22) == SSH
    assert Session.parse("::ffff:10.9.0.2 40000 ::ffff:10.9.0.1 22") == SSH
    local = Session.parse("fe80::1%eth0 1 fe80::2%eth0 22")
    assert local is not None
    assert str(local.client) == "fe80::1"
    for text in ("", "10.9.0.2", "a b c d", "10.9.0.2 1 10.9.0.1 ssh", "1 2 3 4 5"):
        assert Session.parse(text) is None, text


def test_which_peer_carries_it() -> None:
    assert SSH is not None
    assert carrier(SSH, HOST) == PEER
    assert carrier(replace(SSH, client=ipaddress.ip_address("192.0.2.1")), HOST) is None
    assert carrier(replace(SSH, server=ipaddress.ip_address("192.0.2.9")), HOST) is None
    wide = Peer(KEYS[2], POOL)
    both = replace(HOST, wireguard=replace(LINK, peers={PEER.key: PEER, wide.key: wide}))
    assert carrier(SSH, both) == PEER, "the longest prefix carries"


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (HOST, None),
        (HostState(), "link nctl0 goes"),
        (replace(HOST, wireguard=replace(LINK, key=KEYS[3])), "this host's key changes"),
        (replace(HOST, wireguard=replace(LINK, addresses=frozenset())), "this host's address 10.9.0.1 goes"),
        (replace(HOST, wireguard=replace(LINK, peers={})), "goes"),
        (
            replace(HOST, wireguard=replace(LINK, peers={PEER.key: replace(PEER, allowed_ips=frozenset())})),
            "is no longer behind peer",
        ),
        (replace(HOST, filter=table()), "no rule lets 10.9.0.2 reach tcp/22 any more"),
        (replace(HOST, filter=table(FilterRule("ssh", POOL, POOL, "tcp", (PortRange(22, 22),)))), None),
        (replace(HOST, filter=table(FilterRule("web", POOL, POOL, "tcp", (PortRange(80, 80),)))), "no rule"),
        (replace(HOST, wireguard=replace(LINK, mtu=1280, listen_port=1)), None),
    ],
)
def test_what_drops_it(after: HostState, why: str | None) -> None:
    assert SSH is not None
    said = drops(SSH, after, HOST)
    assert said is None if why is None else said is not None and why in said
    elsewhere = replace(SSH, client=ipaddress.ip_address("192.0.2.1"))
    assert drops(elsewhere, after, HOST) is None


@settings(max_examples=30, deadline=None)
@given(host_states())
def test_what_moves_by_itself_is_not_in_the_digest(state: HostState) -> None:
    link = state.wireguard
    moved = state
    if link is not None:
        peers = {
            key: replace(peer, endpoint=SocketAddress("203.0.113.9", 9), path="other")
            for key, peer in reversed(list(link.peers.items()))
        }
        moved = replace(
            state,
            wireguard=replace(link, peers=peers),
            segments={n: replace(s, flood=frozenset()) for n, s in reversed(list(state.segments.items()))},
        )
    assert state_digest(moved) == state_digest(state)


def test_what_hands_change_is_in_the_digest() -> None:
    wide = replace(PEER, allowed_ips=POOL)
    others = [
        replace(HOST, filter=table()),
        replace(HOST, wireguard=replace(LINK, peers={PEER.key: wide})),
        replace(HOST, wireguard=replace(LINK, mtu=1280)),
        replace(HOST, names={"a.x.netctl": (ME,)}),
    ]
    assert len({state_digest(state) for state in (HOST, *others)}) == len(others) + 1


def test_a_binding_says_which_part_is_stale() -> None:
    made = Binding("d", "o", "w")
    assert made.stale(made) is None
    assert made.stale(Binding("x", "o", "w")) == "the document is another one"
    assert made.stale(Binding("d", "x", "w")) == "the host has changed since"
    assert "mediator" in (made.stale(Binding("d", "o", "x")) or "")
