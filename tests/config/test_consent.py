"""A mediator's word for a host that joined by invite: what is taken without asking, and every way to ask for more."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest

from netctl.config import load_document
from netctl.config.resolve.conflicts import clear_of
from netctl.config.resolve.consent import MAX_NETWORKS, MAX_ROUTES, within_consent
from netctl.config.resolve.resolution import Condition
from netctl.model.document import Document
from netctl.model.errors import ConfigError
from netctl.model.foreign import Foreign, ForeignRoute

ME, GATEWAY = "me", "gw"
KEYS = {
    ME: {"wireguard": "oN9b+VcZct4Fqc0LWGekk0FboKkwHmJhBGo/bJHOfQo="},
    GATEWAY: {"wireguard": "DeMKT2R8ZOJrCOp8qkolzZHJGxVkha9f0qGa531v9gM="},
}
RESOLVER = ip_address("10.0.0.53")
HOME = ForeignRoute(ip_network("192.168.1.0/24"), "the route 192.168.1.0/24 over eth0")
OWN_ADDRESS = ForeignRoute(ip_network("192.168.1.7/32"), "the address 192.168.1.7 on eth0", True)
DEFAULT = ForeignRoute(ip_network("0.0.0.0/0"), "the route 0.0.0.0/0 over eth0")
HOST = Foreign(routes=(DEFAULT, HOME, OWN_ADDRESS), resolvers=(RESOLVER, ip_address("2001:db8::53")))


def document(
    routes: list[str] | None = None,
    mine: list[str] | None = None,
    pool: str = "10.77.0.0/24",
    ipv6: str = "none",
    mediator: str = "192.0.2.1",
    more: dict[str, list[str]] | None = None,
) -> Document:
    members: dict[str, dict[str, Any]] = {
        ME: {**KEYS[ME], "routes": mine or []},
        GATEWAY: {**KEYS[GATEWAY], "routes": routes or []},
    }
    for number, (name, theirs) in enumerate((more or {}).items(), 1):
        key = base64.b64encode(bytes([number]) * 32).decode()
        members[name] = {"wireguard": key, "routes": theirs}
    text = {
        "apiVersion": "netctl/v1",
        "mediators": [
            {
                "url": f"netctl://{mediator}:8443",
                "identity": ["ed25519:EKiLXYu8TJJvIcGdsUa9noi/8w5txrMbyNJninfBBJo="],
            }
        ],
        "members": members,
        "networks": {
            "net": {
                "mode": "routed",
                "ipv4": pool,
                "ipv6": ipv6,
                "members": ["*"],
                "allowPublicRange": True,
            }
        },
    }
    return load_document(json.dumps(text), "the mediator's excerpt").document


def taken(asked: Document, host: Foreign = HOST) -> tuple[Document, list[str]]:
    fitting, first = clear_of(asked, ME, host)
    left, second = within_consent(fitting, ME, host)
    return left, [f"{one.peer}: {one.message}" for one in (*first, *second)]


def routes(left: Document) -> set[str]:
    return {str(prefix) for member in left.members.values() for prefix in member.routes}


PIECES = [str(one) for one in IPv4Network("0.0.0.0/0").address_exclude(IPv4Network("10.77.0.0/24"))]
"""The whole Internet, and not the pool: a route over that is no valid document anyway."""
HOSTILE = {
    "all but the pool": PIECES,
    "a half": ["128.0.0.0/1"],
    "a quarter": ["64.0.0.0/2"],
    "global unicast": ["2000::/3"],
    "somebody's prefix": ["203.0.113.0/24"],
    "a public resolver": ["8.8.8.8/32"],
    "this host's LAN": ["192.168.1.0/24"],
    "what is around its LAN": ["192.168.0.0/16"],
    "a part of its LAN": ["192.168.1.128/25"],
    "its own address": ["192.168.1.7/32"],
    "its resolver": ["10.0.0.53/32"],
    "what is around its resolver": ["10.0.0.0/16"],
    "its IPv6 resolver": ["2001:db8::53/128"],
    "the mediator": ["192.0.2.1/32"],
    "multicast": ["224.0.0.0/4"],
    "loopback": ["127.0.0.0/8"],
    "link-local": ["169.254.0.0/16"],
}


@pytest.mark.parametrize("asked", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_route_takes_what_is_not_the_networks(asked: list[str]) -> None:
    left, said = taken(document(routes=[*asked, "10.99.0.0/16"]))
    private = {prefix for prefix in routes(left) if ip_network(prefix).is_private}
    assert routes(left) == private
    assert "10.99.0.0/16" in routes(left), "an honest gateway's LAN is routed all the same"
    for prefix in routes(left):
        assert not ip_network(prefix).overlaps(HOME.destination)
        assert RESOLVER not in ip_network(prefix)
    if set(asked) - routes(left):
        assert any("routes" in line for line in said), said


def test_refusals_are_said_with_the_way_to_agree_and_are_a_few() -> None:
    _, said = taken(document(routes=["64.0.0.0/3", *(f"96.{n}.0.0/16" for n in range(20))]))
    assert said[0] == (
        "members.gw.routes[0]: 64.0.0.0/3 is not routed: it is public address space; "
        "`sudo netctl join --allow-routes` agrees to it"
    )
    assert said[-1].startswith("members.gw.routes: ")
    assert "more are not routed" in said[-1]
    assert len(said) <= 5


def test_this_host_is_made_no_gateway_into_its_own_lan() -> None:
    left, said = taken(document(mine=["192.168.1.0/24"]))
    assert routes(left) == set()
    assert "open this host's own LAN" in said[0]


@pytest.mark.parametrize("pool", ["8.0.0.0/8", "203.0.113.0/24", "0.0.0.0/1", "100.0.0.0/8"])
def test_no_pool_is_public(pool: str) -> None:
    left, said = taken(document(pool=pool))
    assert not left.networks
    assert f"its pool {pool} is public address space" in said[0]


@pytest.mark.parametrize(
    ("pool", "word"), [("10.0.0.0/24", "a resolver of this host"), ("192.168.1.0/24", "over")]
)
def test_no_pool_is_where_this_host_lives(pool: str, word: str) -> None:
    left, said = taken(document(pool=pool))
    assert not left.networks
    assert word in said[0]


def test_no_pool_holds_the_mediator() -> None:
    left, said = taken(document(pool="10.77.0.0/24", mediator="10.77.0.9"))
    assert not left.networks
    assert "the mediator" in said[0]


def test_public_ipv6_is_no_pool_and_a_ula_is() -> None:
    left, _ = taken(document(ipv6="2001:db8:77::/64"))
    assert not left.networks
    left, said = taken(document(ipv6="fd00:77::/64"))
    assert (list(left.networks), said) == (["net"], [])


def test_thousands_of_private_routes_do_not_fill_the_table() -> None:
    many = [str(prefix) for prefix in ip_network("10.128.0.0/9").subnets(new_prefix=22)]
    gateways = {f"gw{number}": many[200 * number : 200 * (number + 1)] for number in range(8)}
    left, said = taken(document(more=gateways))
    assert len(routes(left)) == MAX_ROUTES
    assert any("more are not routed" in line for line in said)


def test_an_honest_excerpt_is_taken_whole() -> None:
    asked = document(routes=["10.99.0.0/16", "172.16.5.0/24", "fd00:5::/64"], ipv6="fd00:77::/64")
    left, conditions = within_consent(asked, ME, HOST)
    assert (left, conditions) == (asked, ())


def test_conditions_name_places_of_the_document() -> None:
    _, conditions = within_consent(document(routes=["128.0.0.0/1"]), ME, HOST)
    assert all(isinstance(one, Condition) and one.peer.startswith("members.gw.routes") for one in conditions)


@pytest.mark.parametrize("pool", ["192.168.1.0/24", "192.168.0.0/16", "192.168.1.0/28"])
def test_a_network_that_was_up_first_does_not_stay_over_a_lan_that_came_later(pool: str) -> None:
    """With a document it stays up; here the mediator leases what is in the pool, and could lease the router's."""
    left, said = taken(document(pool=pool), replace(HOST, own=frozenset({ip_network(pool)})))
    assert not left.networks
    assert f"its pool {pool} overlaps the route 192.168.1.0/24 over eth0" in said[-1]


def test_this_host_is_made_no_hub() -> None:
    asked = document()
    hub = {"net": replace(asked.networks["net"], hub=ME)}
    left, said = taken(replace(asked, networks=hub))
    assert not left.networks
    assert "would be its hub" in said[0]


def test_hundreds_of_networks_make_no_hundreds_of_links() -> None:
    asked = document()
    many = {
        f"n{number}": replace(
            asked.networks["net"], name=f"n{number}", ipv4=IPv4Network(f"10.78.{number}.0/24")
        )
        for number in range(200)
    }
    left, said = taken(replace(asked, networks=many))
    assert len(left.networks) == MAX_NETWORKS
    assert len(said) == 200 - MAX_NETWORKS


def test_a_text_of_a_keys_length_beyond_ascii_is_refused_in_words() -> None:
    with pytest.raises(ConfigError):
        load_document("\u00e9" * 43 + "=", "the mediator's excerpt")


@pytest.mark.parametrize("name", ["www.bank.com", "localhost.", "bank.com #", "a\n203.0.113.1 bank.com"])
def test_a_name_shadows_nobody_in_the_hosts_file(name: str) -> None:
    """Names end in our domain, and neither a member nor a network can have a dot, a blank or a line in its name."""
    text = {
        "apiVersion": "netctl/v1",
        "mediators": [],
        "members": {ME: KEYS[ME], name: KEYS[GATEWAY]},
        "networks": {},
    }
    with pytest.raises(ConfigError):
        load_document(json.dumps(text), "the mediator's excerpt")
    text = {"apiVersion": "netctl/v1", "mediators": [], "members": {ME: KEYS[ME]}}
    text["networks"] = {name: {"members": [ME], "ipv4": "10.77.0.0/24"}}
    with pytest.raises(ConfigError):
        load_document(json.dumps(text), "the mediator's excerpt")
