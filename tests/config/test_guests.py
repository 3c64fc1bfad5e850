"""What a host with a document makes of members that joined by invite, and what a host without one is given."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from netctl.config import load_document, resolve
from netctl.config.edit.excerpt import bootstrap, excerpt
from netctl.config.edit.textedit import add_guests
from netctl.config.resolve.guests import Guest, guests_in, with_guests
from netctl.model.document import Document
from netctl.model.errors import ConfigError
from netctl.model.hoststate import HostState
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import Lease, View, ViewMember

PIN = str(IdentityKey(b"\x08" * 32))


def key(name: str) -> WireGuardKey:
    return WireGuardKey(name.encode().ljust(32, b"!"))


def identity(name: str) -> IdentityKey:
    return IdentityKey(name.encode().ljust(32, b"?"))


def text(*, invites: bool = True, **network: Any) -> str:
    members: dict[str, Any] = {
        name: {"wireguard": str(key(name)), "identity": str(identity(name))}
        for name in ("home", "nas", "far")
    }
    members["nas"].update(groups=["servers"], routes=["192.168.7.0/24"], endpoints=["nas.example.net:1"])
    members["home"]["groups"] = ["admins"]
    members["lost"] = {"state": "absent", "wireguard": str(key("lost"))}
    plain = {
        "apiVersion": "netctl/v1",
        "id": "guest-test",
        "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": [PIN], "tls": [443]}],
        "members": members,
        "networks": {
            "lan": {
                "ipv4": "10.1.0.0/24",
                "members": ["home", "nas"],
                "addresses": {"nas": "10.1.0.9"},
                "join": {"invites": invites},
                **network,
            },
            "else": {"mode": "routed", "ipv4": "10.2.0.0/24", "members": ["home", "far"]},
        },
    }
    return json.dumps(plain)


def document(**change: Any) -> Document:
    return load_document(text(**change)).document


def view(*guests: tuple[str, WireGuardKey, str, str]) -> View:
    """home, nas and guests (name, key, network, address)."""
    home = [("home", key("home"), "lan", "10.1.0.2"), ("home", key("home"), "else", "10.2.0.2")]
    rows = [*home, ("nas", key("nas"), "lan", "10.1.0.9"), *guests]
    members = {k: ViewMember(name, k, online=True) for name, k, _, _ in rows}
    leases = {(network, k): Lease(network, k, (ip_address(address),)) for _, k, network, address in rows}
    return View(1, members, leases)


NEWBIE = ("newbie", key("newbie"), "lan", "10.1.0.77")


def peers(state: HostState) -> dict[WireGuardKey, set[str]]:
    assert state.wireguard is not None
    return {k: {str(p) for p in peer.allowed_ips} for k, peer in state.wireguard.peers.items()}


def test_where_the_document_lets_invites_in_a_guest_is_a_peer() -> None:
    result = resolve(document(), "home", view(NEWBIE))
    assert "10.1.0.77/32" in peers(result.state)[key("newbie")]
    assert result.state.names["newbie.lan.netctl"][0] == ip_address("10.1.0.77")
    assert result.conditions == ()


def test_it_hears_broadcast_as_everybody_with_an_agent() -> None:
    result = resolve(document(), "home", view(NEWBIE), live=frozenset({key("newbie")}))
    (segment,) = result.state.segments.values()
    assert len(segment.flood) == 1


def test_where_the_document_lets_none_in_it_waits_and_status_says_so() -> None:
    closed = document(invites=False)
    result = resolve(closed, "home", view(NEWBIE))
    assert result.state == resolve(closed, "home", view()).state
    (condition,) = result.conditions
    assert condition.peer == "newbie"
    assert "netctl export --document" in condition.message


@pytest.mark.parametrize(
    ("guest", "says"),
    [
        (("nas", key("evil"), "lan", "10.1.0.77"), "belongs to another key"),
        (("lost", key("evil"), "lan", "10.1.0.77"), "belongs to another key"),
        (("newbie", key("lost"), "lan", "10.1.0.77"), None),
        (("newbie", key("evil"), "else", "10.2.0.7"), "lets none in there"),
        (("newbie", key("evil"), "nowhere", "10.2.0.7"), "no network 'nowhere'"),
        (("New Bie", key("evil"), "lan", "10.1.0.77"), "no host name"),
    ],
    ids=["name", "absent-name", "absent-key", "closed", "nowhere", "no-name"],
)
def test_a_mediator_cannot_bring_in_what_the_document_has_for_somebody(
    guest: tuple[str, WireGuardKey, str, str], says: str | None
) -> None:
    result = resolve(document(), "home", view(guest))
    assert result.state == resolve(document(), "home", view()).state
    assert [says in condition.message for condition in result.conditions if says] == [True] * bool(says)


@pytest.mark.parametrize("address", ["10.1.0.9", "10.1.0.2", "10.9.0.1", "192.168.7.1"])
def test_a_guest_at_somebodys_address_has_none(address: str) -> None:
    result = resolve(document(), "home", view(("newbie", key("newbie"), "lan", address)))
    mine = {p for p in peers(result.state)[key("newbie")] if ip_network(p).version == 4}
    assert mine == set()
    assert any(condition.peer == "newbie" for condition in result.conditions)
    assert "10.1.0.9/32" in peers(result.state)[key("nas")]


def test_rules_for_invited_members_are_rules_for_guests() -> None:
    acls = [{"name": "in", "src": ["group:invited"], "dst": ["home"], "proto": "tcp", "ports": [22]}]
    state = resolve(document(acls=acls), "home", view(NEWBIE)).state
    assert state.filter is not None
    (rule,) = (rule for rule in state.filter.rules if rule.name == "lan: in")
    assert ip_network("10.1.0.77/32") in rule.sources


def test_exported_it_is_what_it_was() -> None:
    guest = Guest("newbie", key("newbie"), ("lan",), identity("newbie"))
    exported = load_document(add_guests(text(), [guest])).document
    assert resolve(exported, "home", view(NEWBIE)).state == resolve(document(), "home", view(NEWBIE)).state


def test_the_excerpt_is_a_document_and_gives_the_guest_what_the_document_would() -> None:
    acls = [
        {"name": "ssh", "src": ["group:servers"], "dst": ["group:invited"], "proto": "tcp", "ports": [22]},
        {"name": "far", "src": ["group:admins"], "dst": ["nas"]},
        {"name": "ping", "src": ["*"], "dst": ["*"], "proto": "icmp"},
    ]
    whole = document(acls=acls, mtu=1300)
    there, _ = with_guests(whole, [Guest("newbie", key("newbie"), ("lan",), identity("newbie"))])
    given = excerpt(there, "newbie", {"newbie", "home", "nas"})
    loaded = load_document(given)
    assert set(loaded.document.members) == {"newbie", "home", "nas"}
    assert set(loaded.document.networks) == {"lan"}
    assert str(key("far")) not in given
    assert "nas.example.net" not in given
    assert loaded.document.mediators == whole.mediators
    mine, told = (resolve(one, "newbie", view(NEWBIE)).state for one in (there, loaded.document))
    assert told == mine


def test_of_members_out_of_sight_an_excerpt_says_nothing() -> None:
    acls = [{"name": "ssh", "src": ["group:servers"], "dst": ["newbie", "home"]}]
    members = {**json.loads(text())["members"], "newbie": {"wireguard": str(key("newbie"))}}
    plain = json.loads(text(acls=acls, members=["home", "nas", "newbie"]))
    whole = load_document(json.dumps({**plain, "members": members})).document
    given = json.loads(excerpt(whole, "newbie", {"newbie"}))
    assert list(given["members"]) == ["newbie"]
    assert given["networks"]["lan"]["acls"] == []
    assert "addresses" not in given["networks"]["lan"]
    load_document(json.dumps(given))


def test_whether_a_router_may_be_asked_is_told_to_the_member_it_concerns() -> None:
    plain = json.loads(text())
    for name in ("home", "nas"):
        plain["members"][name]["portMapping"] = False
    whole = load_document(json.dumps(plain)).document
    assert [whole.members[name].port_mapping for name in ("home", "nas", "far")] == [False, False, True]
    told = load_document(excerpt(whole, "home", {"home", "nas"})).document
    assert [told.members[name].port_mapping for name in ("home", "nas")] == [False, True]
    plain["members"]["home"]["portMapping"] = "no"
    with pytest.raises(ConfigError, match=r"members\.home\.portMapping"):
        load_document(json.dumps(plain))


def test_a_bootstrap_is_a_document_too() -> None:
    given = bootstrap("newbie", str(key("newbie")), str(identity("newbie")), document().mediators)
    loaded = load_document(given).document
    assert loaded.mediators == document().mediators
    assert loaded.member_by_key(key("newbie")) is not None
    assert loaded.networks == {}


def test_without_mediators_there_are_no_guests() -> None:
    assert guests_in(replace(document(), mediators=()), view(NEWBIE)) == []
    assert guests_in(document(), None) == []


def test_a_host_without_an_address_says_that_the_pool_is_full() -> None:
    known = view()
    leases = {where: lease for where, lease in known.leases.items() if where != ("lan", key("home"))}
    (condition,) = resolve(document(), "home", replace(known, leases=leases)).conditions
    assert condition.peer == "home"
    assert "no free address for it in 10.1.0.0/24 of 'lan'" in condition.message
