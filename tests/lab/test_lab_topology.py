"""Who sits behind which NAT, and what the rulesets say."""

import re
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from netctl.config import load_document
from netctl.lab.nat import NatKind, ruleset
from netctl.lab.topology import PUBLIC, make_topology, parse_sidecar
from netctl.model.errors import LocalError

DOCUMENT = load_document((Path(__file__).parents[2] / "examples" / "lan-party.yaml").read_text()).document


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
    assert not topology.box_of("nas").lan.subnet_of(ipv4("192.168.0.0/16"))


def ipv4(text: str):  # type: ignore[no-untyped-def]
    from ipaddress import IPv4Network

    return IPv4Network(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nats: [a]\n", "expected a mapping `nats:`"),
        ("nats: {home: {kind: cone, members: [nas]}}\n", "expected one of open, full-cone"),
        ("nats: {home: {members: []}}\n", "expected {kind: …, members: [NAME, …]}"),
    ],
)
def test_a_wrong_sidecar_gets_one_line(text: str, says: str) -> None:
    with pytest.raises(LocalError) as caught:
        parse_sidecar(text, "x.lab.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


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
