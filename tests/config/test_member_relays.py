"""A member that relays for its own networks: what the document says of it, and what is wrong with that."""

from __future__ import annotations

import json

import pytest

from netctl.config import load_document
from netctl.config.edit.excerpt import excerpt
from netctl.model.document import MAX_RELAYS, Document, OwnRelay
from netctl.model.errors import ConfigError
from netctl.node.context import identities
from tests.support.documents import key

M = f"ed25519:{key('m')}"
AT = 'endpoints: ["192.0.2.1:51820"]'
MEDIATOR = f'  - {{url: "netctl://m.example.net:8443", identity: ["{M}"]}}\n'


def text(
    relay: str, *, endpoints: str = AT, mediators: str = MEDIATOR, more: str = "", net: str = '"*"'
) -> str:
    return f"""apiVersion: netctl/v1
mediators:
{mediators}
members:
  gate: {{wireguard: "{key("gate")}", identity: "ed25519:{key("i gate")}", {endpoints}{relay}}}
  ann: {{wireguard: "{key("ann")}", identity: "ed25519:{key("i ann")}"}}
  bob: {{wireguard: "{key("bob")}", identity: "ed25519:{key("i bob")}"}}
{more}
networks:
  home: {{mode: routed, ipv4: 10.1.0.0/24, members: [{net}]}}
  far: {{mode: routed, ipv4: 10.2.0.0/24, members: [ann, bob]}}
"""


def said(document: str) -> list[str]:
    """The codes and places of all findings; with an exclamation mark where the document is refused."""
    try:
        return [f"{one.code} {one.path}" for one in load_document(document).warnings]
    except ConfigError as error:
        return [f"{one.code}! {one.path}" for one in error.findings]


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (text(", relay: true"), []),
        (text(", relay: {relayPorts: 42000-42999, stun: [3490]}"), []),
        (text("relay: false", endpoints=""), []),
        (text(", relay: 1"), ["NC018! members.gate.relay"]),
        (text(', relay: "yes"'), ["NC527! members.gate.relay"]),
        (text(", relay: m.example.net"), ["NC527! members.gate.relay"]),
        (text(', relay: "a b"'), ["NC018! members.gate.relay"]),
        (text(", relay: {ports: 1}"), ["NC018! members.gate.relay"]),
        (text(", relay: {stun: []}"), ["NC018! members.gate.relay"]),
        (text(", relay: {relayPorts: 9-2}"), ["NC102! members.gate.relay.relayPorts"]),
        (text("relay: true", endpoints=""), ["NC523! members.gate.relay"]),
        (text(", relay: {stun: [40001]}"), ["NC513! members.gate.relay"]),
        (text(", relay: true, listenPort: 40001"), ["NC524! members.gate.relay"]),
        (text(", relay: true, listenPort: 3478"), ["NC524! members.gate.relay"]),
        (
            text(", relay: {stun: [3490]}", endpoints='endpoints: ["m.example.net:1"]'),
            ["NC524! members.gate.relay"],
        ),
        (
            text(
                ", relay: {stun: [3490], relayPorts: 42000-42999}", endpoints='endpoints: ["m.example.net:1"]'
            ),
            [],
        ),
        (text(", relay: {relayPorts: 42000-42009}"), ["NC521 members.gate.relay"]),
        (text(", relay: true", net="ann, bob"), ["NC526 members.gate.relay"]),
        (text(", relay: true, state: absent", endpoints=AT), []),
    ],
)
def test_what_the_document_says_of_it(document: str, found: list[str]) -> None:
    assert said(document) == found


def test_a_stock_app_is_no_relay_and_two_at_one_address_need_other_ports() -> None:
    app = f'  app: {{wireguard: "{key("app")}", {AT}, relay: {{stun: [1], relayPorts: 5000-6000}}}}'
    assert said(text(", relay: true", more=app)) == ["NC522! members.app.relay"]
    other = f'  too: {{wireguard: "{key("too")}", identity: "ed25519:{key("i too")}", {AT}, relay: true}}'
    assert said(text(", relay: true", more=other)) == ["NC524! members.too.relay"]


def test_an_app_may_name_the_relay_at_which_it_meets_its_peers() -> None:
    def app(relay: str) -> str:
        return text("", endpoints=AT, more=f'  app: {{wireguard: "{key("app")}", relay: {relay}}}')

    assert said(app("m.example.net")) == []
    assert load_document(app("m.example.net")).document.members["app"].at_relay == "m.example.net"
    assert said(app("n.example.net")) == ["NC528! members.app.relay"]


def test_a_document_has_no_more_relays_than_an_offer_can_name() -> None:
    def more(count: int) -> str:
        return "\n".join(
            f'  r{n}: {{wireguard: "{key(f"r{n}")}", identity: "ed25519:{key(f"i r{n}")}", '
            f'endpoints: ["192.0.2.{n + 2}:1"], relay: true}}'
            for n in range(count)
        )

    assert said(text(", relay: true", more=more(MAX_RELAYS - 1))) == []
    assert said(text(", relay: true", more=more(MAX_RELAYS))) == [f"NC525! members.r{MAX_RELAYS - 1}.relay"]


def test_without_a_mediator_nobody_gives_grants_for_it() -> None:
    assert "NC518! members.gate.relay" in said(text(", relay: true", mediators="  []"))


def loaded() -> Document:
    return load_document(text(", relay: {stun: [3490], relayPorts: 42000-42999}")).document


def test_it_is_a_relay_at_its_first_endpoint_with_its_own_identity() -> None:
    document = loaded()
    assert document.members["gate"].relay == OwnRelay((3490,), (42000, 42999))
    (relay,) = document.relays()
    assert (relay.host, relay.stun, relay.relay_ports, relay.member) == (
        "192.0.2.1",
        (3490,),
        (42000, 42999),
        "gate",
    )
    assert relay.identity == (document.members["gate"].identity,)
    assert document.circles(relay) == (frozenset({"ann", "bob"}),)
    assert document.relays()[0] not in document.mediators


def test_a_guest_hears_of_it_as_of_any_relay() -> None:
    """In a form that agents of earlier releases read too; and it vouches for no view."""
    document = loaded()
    told = excerpt(document, "ann", ["gate", "bob"])
    assert "relay" not in json.loads(told)["members"]["gate"]
    again = load_document(told).document
    (relay,) = again.relays()
    assert (relay.member, relay.host, relay.relay_ports) == ("gate", "192.0.2.1", (42000, 42999))
    assert again.circles(relay) == (frozenset({"ann", "bob"}),)
    assert identities(again) == identities(document)
    assert str(document.members["gate"].identity) not in map(str, identities(again))
    alone = load_document(excerpt(document, "ann", ["bob"])).document
    assert alone.relays() == (), "who does not see the member is not told of its relay"
    assert load_document(excerpt(document, "gate", ["ann", "bob"])).document.relays() == ()
