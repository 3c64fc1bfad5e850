"""Who sits behind which NAT, and what the rulesets say."""

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from netctl.config import load_document
from netctl.lab.demo import route_between
from netctl.lab.internet import substitute
from netctl.lab.nat import NatKind, ruleset
from netctl.lab.properties import Ipv6, Properties
from netctl.lab.topology import PUBLIC, Nat, make_topology, parse_sidecar
from netctl.model.errors import LocalError

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCUMENT = load_document((EXAMPLES / "lan-party.yaml").read_text()).document


def test_by_default_two_members_share_a_nat_and_the_others_have_their_own() -> None:
    topology = make_topology(DOCUMENT, {})
    assert [len(box.members) for box in topology.boxes] == [2, 1, 1]
    assert topology.members == tuple(DOCUMENT.members)
    assert {box.kind for box in topology.boxes} == {NatKind.PORT_RESTRICTED}
    assert topology.box_of("laptop") is topology.box_of("console")
    assert topology.left_out == ()


def test_addresses_are_unique_and_where_they_belong() -> None:
    topology = make_topology(DOCUMENT, {})
    wans = [box.wan for box in topology.boxes] + [node.address for _, node in topology.mediators]
    assert len(set(wans)) == len(wans)
    assert all(wan in PUBLIC for wan in wans)
    for box in topology.boxes:
        inside = [node.address for node in box.members] + [box.gateway]
        assert len(set(inside)) == len(inside)
        assert all(address in box.lan for address in inside)


def test_a_sidecar_says_kinds_and_places() -> None:
    nats = parse_sidecar("nats:\n  work: {kind: symmetric-random, members: [nas, desktop]}\n", "x.lab.yaml")
    topology = make_topology(DOCUMENT, nats)
    assert topology.box_of("desktop").kind is NatKind.SYMMETRIC_RANDOM
    assert topology.box_of("nas").name == "work"
    assert topology.box_of("laptop").name == "laptop-nat"


def test_an_open_box_has_public_addresses_behind_it() -> None:
    topology = make_topology(DOCUMENT, {"vps": (NatKind.OPEN, ("nas",))})
    assert not topology.box_of("nas").lan.subnet_of(IPv4Network("192.168.0.0/16"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nats: [a]\n", "expected a mapping `nats:`"),
        ("nats: {home: {kind: cone, members: [nas]}}\n", "expected one of open, firewall, full-cone"),
        ("nats: {home: {members: []}}\n", "expected {kind: …, members: [NAME, …]}"),
        (
            "nats: {home: {members: [nas], pin: 1}}\n",
            "nats.home.pin: unknown; a box has kind, members, behind",
        ),
        ("nats: {'x; reboot': {members: [nas]}}\n", "'x; reboot' is no name of a box"),
        ('nats: {"x\\ny": {members: [nas]}}\n', "is no name of a box"),
        ("nats: {home: {members: [nas], hairpin: 1}}\n", "nats.home.hairpin: expected true or false"),
        ("nats: {home: {members: [nas], isolated: on it}}\n", "nats.home.isolated: expected true or false"),
        ("nats: {home: {members: [nas], loss: 95}}\n", "expected a whole number from 0 to 90"),
        ("nats: {home: {members: [nas], udpTimeout: 0}}\n", "expected a whole number from 1 to 3600"),
        ("nats: {home: {members: [nas], ipv6: nat}}\n", "expected one of none, open, firewall"),
        ("nats: {home: {members: [nas], wanInput: maybe}}\n", "expected drop or accept"),
    ],
)
def test_a_wrong_sidecar_gets_one_line(text: str, says: str) -> None:
    with pytest.raises(LocalError) as caught:
        parse_sidecar(text, "x.lab.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sidecar_says_what_a_box_does_beside_its_kind() -> None:
    text = (
        "nats:\n  flat: {members: [nas], behind: carrier, udpTimeout: 30, loss: 5, wanInput: accept}\n"
        "  carrier: {kind: port-changed, hairpin: true, isolated: true, ipv6: firewall}\n"
    )
    topology = make_topology(DOCUMENT, parse_sidecar(text, "x.lab.yaml"))
    carrier, flat = topology.boxes[0], topology.box_of("nas")
    assert (carrier.name, carrier.members, flat.behind) == ("carrier", (), "carrier")
    assert flat.wan in carrier.lan
    assert carrier.lan.subnet_of(IPv4Network("100.64.0.0/10"))
    assert flat.properties == Properties(udp_timeout_s=30, loss_percent=5, wan_input_accepts=True)
    assert carrier.properties == Properties(hairpin=True, isolated=True, ipv6=Ipv6.FIREWALL)


@pytest.mark.parametrize(
    ("nats", "says"),
    [
        ({"a": Nat(NatKind.OPEN, ("nas",), "b"), "b": Nat(NatKind.FULL_CONE, ())}, "must translate"),
        ({"a": Nat(NatKind.FULL_CONE, ("nas",), "b")}, "no other box 'b'"),
        ({"a": Nat(NatKind.FULL_CONE, ("nas",), "a")}, "no other box 'a'"),
        (
            {
                "a": Nat(NatKind.FULL_CONE, ("nas",), "b"),
                "b": Nat(NatKind.FULL_CONE, (), "c"),
                "c": Nat(NatKind.FULL_CONE, ()),
            },
            "two layers",
        ),
        ({"a": Nat(NatKind.OPEN, ("nas",), None, Properties(hairpin=True))}, "nothing to hairpin"),
        (
            {
                "a": Nat(NatKind.FULL_CONE, ("nas",), "b", Properties(ipv6=Ipv6.OPEN)),
                "b": Nat(NatKind.FULL_CONE, ()),
            },
            "only a box on the public segment has IPv6",
        ),
    ],
)
def test_boxes_that_cannot_be_are_refused(nats: dict[str, Nat], says: str) -> None:
    with pytest.raises(LocalError, match=says):
        make_topology(DOCUMENT, nats)


def test_nobody_can_be_behind_two_nats_or_be_a_stranger() -> None:
    kind = NatKind.PORT_RESTRICTED
    with pytest.raises(LocalError, match="already behind another NAT"):
        make_topology(DOCUMENT, {"a": (kind, ("nas",)), "b": (kind, ("nas",))})
    with pytest.raises(LocalError, match="no member with an identity"):
        make_topology(DOCUMENT, {"a": (kind, ("stranger",))})


@pytest.mark.parametrize("kind", list(NatKind))
def test_every_kind_drops_new_packets_to_the_box_itself(kind: NatKind) -> None:
    text = ruleset(kind, IPv4Address("203.0.113.9"))
    guard = text[text.index("chain input") :].split("}\n", 1)[0]
    assert 'iifname "wan" drop' in text[text.index("chain input") : text.index("chain input") + 300], guard
    assert text.count("{") == text.count("}")
    assert bool(re.search(r"\bsnat to 203\.0\.113\.9\b", text)) == kind.translates


def test_new_keys_take_the_place_of_old_ones_everywhere_and_at_once() -> None:
    text = 'a: "KEY1" b: "KEY2" c: "ed25519:KEY1" again: "KEY1"'
    new = substitute(text, {"KEY1": "KEY2", "KEY2": "KEY3", "ed25519:KEY1": "ed25519:NEW"})
    assert new == 'a: "KEY2" b: "KEY3" c: "ed25519:NEW" again: "KEY2"'
    assert substitute(text, {}) == text


def test_a_stock_app_is_left_out() -> None:
    document = load_document((EXAMPLES / "office.yaml").read_text()).document
    topology = make_topology(document, {})
    assert "anna-phone" in topology.left_out
    assert "anna-phone" not in topology.members
    assert "old-laptop" not in topology.members


def test_a_member_that_is_to_be_offline_gets_no_host() -> None:
    topology = make_topology(DOCUMENT, {}, offline={"console", "nas"})
    assert topology.members == ("laptop", "desktop")
    assert topology.left_out == ()
    with pytest.raises(LocalError, match="no member with an identity"):
        make_topology(DOCUMENT, {"a": (NatKind.OPEN, ("nas",))}, offline={"nas"})


def test_a_pair_of_spokes_goes_through_its_hub() -> None:
    document = load_document((EXAMPLES / "office.yaml").read_text()).document
    assert route_between(document, "anna", "files") == "hub"
    assert route_between(document, "anna", "hub") == ""
    assert route_between(DOCUMENT, "laptop", "nas") == ""
