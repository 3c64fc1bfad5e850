"""What a look at the host comes to: pure, from the state of the node and what was read."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from netctl.config import load_document
from netctl.model.foreign import Foreign, ForeignRoute
from netctl.model.hoststate import HostState
from netctl.model.packetfilter import Chain, PacketFilter, Table
from netctl.node.choices import Joined
from netctl.node.drift import Inspection, inspect
from netctl.node.evaluate import evaluate
from netctl.node.state import NodeState
from tests.node.test_projections import ME, TEXT

IN_THE_WAY = Foreign(routes=(ForeignRoute(ip_network("10.1.2.0/24"), "the route 10.1.2.0/24 over eth0"),))


CLOSED = Foreign(
    packet_filter=PacketFilter((Table("inet", "f", {"in": Chain("in", (), "input", 0, "drop")}),)),
)


def settled(more: str = "") -> NodeState:
    loaded = load_document(TEXT + more, "f")
    found = evaluate(loaded.document, None, {}, Foreign(), frozenset(), {}, key=ME)
    return NodeState(loaded=loaded).evaluated(found).brought(found.desired, loaded.document)


def test_what_is_as_it_should_be_is_no_drift() -> None:
    state = settled()
    assert inspect(state, ME, Foreign(), state.desired, ()) == Inspection()


@pytest.mark.parametrize(("more", "heals"), [("", True), ("drift: report\n", False)])
def test_a_departure_is_new_once_and_healed_where_the_document_says_so(more: str, heals: bool) -> None:
    state = settled(more)
    bare = replace(state.desired, routes=frozenset())
    first = inspect(state, ME, Foreign(), bare, ())
    assert first.departures
    assert (first.fresh, first.heal) == (len(first.departures), heals)
    assert inspect(state, ME, Foreign(), bare, first.departures).fresh == 0


def test_what_is_not_settled_yet_is_never_drift() -> None:
    state = replace(settled(), settled=False)
    found = inspect(state, ME, Foreign(), HostState(), ())
    assert (found.departures, found.heal, found.evaluate_again) == ((), False, True)
    assert inspect(NodeState(), ME, Foreign(), HostState(), ()) == Inspection()


def test_something_foreign_that_came_or_went_asks_for_another_evaluation() -> None:
    state = settled()
    assert inspect(state, ME, IN_THE_WAY, state.desired, ()).evaluate_again
    refused = state.evaluated(evaluate(state.loaded.document, None, {}, IN_THE_WAY, frozenset(), {}, key=ME))  # type: ignore[union-attr]
    assert inspect(refused, ME, Foreign(), state.desired, ()).evaluate_again
    assert not inspect(refused, ME, IN_THE_WAY, state.desired, ()).evaluate_again


def test_a_mediator_opens_no_firewall_of_a_host_that_joined() -> None:
    text = TEXT.replace(f'wireguard: "{ME}"', f'wireguard: "{ME}", firewall: manage')
    document = load_document(text, "f").document
    for joined in (None, Joined("net")):
        found = evaluate(document, None, {}, CLOSED, frozenset(), {}, key=ME, joined=joined)
        assert bool(found.desired.openings) is (joined is None)


def test_a_firewall_is_opened_by_the_key_alone_and_kept_open() -> None:
    said = f'wireguard: "{ME}"'
    assert said in TEXT
    for text, opened in ((TEXT, False), (TEXT.replace(said, f"{said}, firewall: manage"), True)):
        loaded = load_document(text, "f")
        found = evaluate(loaded.document, None, {}, CLOSED, frozenset(), {}, key=ME)
        assert bool(found.desired.openings) is opened
        state = NodeState(loaded=loaded).evaluated(found).brought(found.desired, loaded.document)
        assert inspect(state, ME, CLOSED, state.desired, ()) == Inspection()
        # The firewall that drops goes: with the key, what was opened is not needed any more.
        assert inspect(state, ME, Foreign(), state.desired, ()).evaluate_again is opened
    gone = frozenset(replace(one, stands=False) for one in state.desired.openings)
    taken = inspect(state, ME, CLOSED, replace(state.desired, openings=gone), ())
    assert taken.heal
    assert {path for one in taken.departures for path in one.paths} == {"members.me.firewall"}
    assert [one.kind for one in taken.departures] == ["OpenFirewall"]
    left = inspect(settled(), ME, Foreign(), replace(settled().desired, openings=state.desired.openings), ())
    assert [one.kind for one in left.departures] == ["CloseFirewall"]
