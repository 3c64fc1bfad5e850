"""From document to document: whatever somebody writes next, one apply leads there and a second has nothing to do."""

from __future__ import annotations

import copy
import ipaddress
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.config import clear_of, load_document, reach_changes, resolve
from netctl.config.load.provenance import Provenance
from netctl.engine import FakeEngine, apply_plan
from netctl.engine.applyplan import apply_prune
from netctl.model.document import Document
from netctl.model.foreign import Foreign, ForeignRoute
from netctl.model.hoststate import HostState
from netctl.model.view import Lease, View, ViewMember
from netctl.node.drift import departures
from netctl.plan import diff, prune, state_digest
from tests.support.documents import FIXED, NAMES, trees

FOREIGN = [
    ForeignRoute(ipaddress.ip_network(text), f"the route {text} over eth0")
    for text in ("10.77.8.0/24", "192.168.50.0/24", "10.0.0.0/8", "0.0.0.0/0")
]


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """One or two networks, with members that may be missing from them, in either mode."""
    tree: dict[str, Any] = copy.deepcopy(draw(trees()))
    if draw(st.booleans()):
        network = {
            "mode": draw(st.sampled_from(["routed", "lan"])),
            "ipv4": "10.99.0.0/24",
            "members": draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)),
        }
        tree["networks"]["party"] = network
    if draw(st.booleans()):
        tree["members"]["nas"]["mtu"] = draw(st.sampled_from([1360, 1400, 1420]))
        tree["members"]["nas"]["listenPort"] = draw(st.sampled_from([51820, 40000]))
    return load_document(yaml.safe_dump(tree)).document


@st.composite
def views(draw: st.DrawFn, document: Document) -> View:
    """What a mediator might say: some members, their leases."""
    seen = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    members, leases = {}, {}
    for name in seen:
        key = document.members[name].wireguard
        assert key is not None
        members[key] = ViewMember(name, key)
        for network in document.networks_of(name):
            lease = FIXED[name] if network.name == "office" else f"10.99.0.{NAMES.index(name) + 1}"
            leases[network.name, key] = Lease(network.name, key, (ipaddress.ip_address(lease),))
    return View(1, members, leases)


@st.composite
def wishes(draw: st.DrawFn) -> tuple[str, list[tuple[Document, HostState]]]:
    """A host, and two documents after each other with what it should have by each."""
    me = draw(st.sampled_from(NAMES))
    states = []
    for _ in range(2):
        document = draw(documents())
        view = draw(views(document))
        foreign = Foreign(tuple(draw(st.lists(st.sampled_from(FOREIGN), max_size=1))))
        live = frozenset(draw(st.lists(st.sampled_from(sorted(view.members)), unique=True)))
        fitting, _ = clear_of(document, me, foreign)
        states.append((document, resolve(fitting, me, view, live=live).state))
    return me, states


@settings(max_examples=40, deadline=None)
@given(wishes())
def test_one_apply_leads_from_any_document_to_any_other(
    wish: tuple[str, list[tuple[Document, HostState]]],
) -> None:
    me, ((before, old), (after, new)) = wish
    engine = FakeEngine()
    assert apply_plan(engine, old).error is None
    assert not diff(old, engine.read())
    plan = diff(new, engine.read())
    # Every step says where in the document it comes from.
    assert all(one.paths for one in departures(plan, Provenance(after, me), engine.read()))
    assert apply_plan(engine, new).error is None
    assert not diff(new, engine.read())
    assert apply_plan(engine, new).changed == 0
    assert state_digest(engine.read()) == state_digest(engine.read())
    assert not prune(new, engine.read())
    assert not reach_changes(after, after)
    reach_changes(before, after, about=me)


@settings(max_examples=20, deadline=None)
@given(wishes())
def test_a_prune_leaves_nothing_that_an_apply_would_remove(
    wish: tuple[str, list[tuple[Document, HostState]]],
) -> None:
    _, ((_, old), (_, new)) = wish
    engine = FakeEngine()
    assert apply_plan(engine, old).error is None
    wanted = prune(new, engine.read())
    outcome = apply_prune(engine, new, len(wanted.changes))
    assert outcome.error is None
    assert outcome.changed == len(wanted.changes)
    assert not prune(new, engine.read())
    assert apply_plan(engine, new).error is None
    assert not diff(new, engine.read())
