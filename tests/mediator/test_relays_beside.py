"""Relays beside several mediators: each has a name, and takes the grants of every mediator of the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core.apprelays import relay_of_pair
from mediator.core.relay_table import MAX_BINDINGS, RelayTable
from mediator.core.relayload import EVERY_S
from mediator.shell.relayplace import UNHELD_FILE, UnheldFile, UnheldPorts
from netctl.config import load_document
from netctl.model.addresses import SocketAddress
from netctl.model.document import MAX_RELAYS, Document
from netctl.paths.relaychoice import BESIDE
from netctl.session.login import make_login
from netctl.wire import control as w
from netctl.wire import relay
from tests.mediator.test_hub import (
    MEDIATOR,
    NAMES,
    NONCE,
    PIN,
    SECRET,
    SOURCE,
    identity,
    key,
    note_sent,
    private,
)

UNIX = 1_800_000_000
HERE = SocketAddress("198.51.100.7", 51820)


def document(*entries: dict[str, str]) -> Document:
    """Ann, bob, and an app in one network, and these mediators, all with one identity."""
    mediators = [{"identity": [str(PIN)], **entry} for entry in entries]
    members = {name: {"wireguard": str(key(name)), "identity": str(identity(name))} for name in NAMES}
    text = {
        "apiVersion": "netctl/v1",
        "id": "side-0001",
        "mediators": mediators,
        "members": {**members, "phone": {"wireguard": str(key("phone"))}},
        "networks": {"lan": {"mode": "routed", "ipv4": "10.1.0.0/28", "members": ["ann", "bob", "phone"]}},
    }
    return load_document(json.dumps(text)).document


TWO = document({"url": "netctl://192.0.2.1:8443"}, {"url": "netctl://192.0.2.2:8443"})
FIRST, SECOND = (one.relay_name for one in TWO.mediators)


class Mediator:
    """A hub of one store, to which ann is logged in."""

    def __init__(self, of: Document = TWO, *, shared: bool = True, bus: bool = True) -> None:
        self.hub = h.Hub(PIN, MEDIATOR.sign, SECRET, generation=100)
        self.sent: dict[int, list[w.Message]] = {}
        self.carried: list[fx.Publish] = []
        if shared:
            self.hub.follow(101)
        if bus:
            self.hub.join_bus(bytes(16), "m1", 0.0)
        self._perform(self.hub.load(of, of.mediators[0], UNIX))
        self._perform(self.hub.connected(1, SOURCE, bytes(32), 0.0))
        login = make_login(PIN, bytes(32), NONCE, identity("ann"), key("ann"), private("ann").sign)
        self._perform(self.hub.received(1, w.encode(login), 0.0, UNIX))

    def _perform(self, effects: list[fx.Effect]) -> None:
        pending = list(effects)
        while pending:
            match pending.pop(0):
                case fx.Send() | fx.Deliver() as told:
                    note_sent(self.sent, told)
                case fx.Store() as wanted:
                    done = self.hub.stored(wanted.leases, wanted.ports, wanted.pairs, wanted.resting, UNIX)
                    pending = done + pending
                case _:
                    pass

    def follow(self, of: Document, number: int) -> None:
        """The store has another document."""
        self.hub.follow(number)
        self._perform(self.hub.load(of, of.mediators[0], UNIX))

    def ask(self, name: str, peer: str = "bob") -> w.RelayGrant | None:
        """Ann asks for a grant."""
        self.sent.clear()
        self._perform(self.hub.received(1, w.encode(w.RelayRequest(str(key(peer)), name)), 1.0, UNIX))
        granted = [one for one in self.sent.get(1, []) if isinstance(one, w.RelayGrant)]
        return granted[0] if granted else None

    @property
    def welcome(self) -> w.Welcome:
        """What ann was told at login."""
        (found,) = (one for one in self.sent[1] if isinstance(one, w.Welcome))
        return found


def test_everybody_computes_the_same_names_and_they_are_written_like_identities() -> None:
    assert FIRST != SECOND
    assert document({"url": "netctl://192.0.2.1:8443"}).mediators[0].relay_name == FIRST
    assert w.decode(w.encode(w.RelayRequest(str(key("bob")), FIRST))) == w.RelayRequest(
        str(key("bob")), FIRST
    )
    other = document({"url": "netctl://192.0.2.1:8444"}).mediators[0]
    assert other.relay_name != FIRST, "another port is another server"


def test_one_mediator_needs_no_name_and_of_many_there_are_as_many_as_an_offer_has_room_for() -> None:
    assert document({"url": "netctl://192.0.2.1:8443"}).relays_beside() == ()
    assert TWO.relays_beside() == TWO.mediators
    many = document(*({"url": f"netctl://192.0.2.{number}:8443"} for number in range(1, MAX_RELAYS + 2)))
    assert many.relays_beside() == many.mediators[:MAX_RELAYS]


def test_the_relay_beside_one_mediator_takes_the_grant_of_another() -> None:
    one = Mediator()
    granted = one.ask(SECOND)
    assert granted is not None
    assert granted.relay == SECOND
    own, peer = one.hub.relay_port(key("ann")), one.hub.relay_port(key("bob"))
    assert own is not None
    assert peer is not None
    assert granted.address == f"0.0.0.0:{peer}"
    table = RelayTable(SECRET, b"c" * 32, range(40000, 41000))  # of the second machine
    allocation = relay.Allocation.unpack(bytes.fromhex(granted.allocation))
    bind = relay.seal(relay.Bind(allocation, bytes(relay.TRANSACTION_LEN)), bytes.fromhex(granted.key))
    (answer,) = table.handle_control(bind, HERE, peer, 0.0, UNIX)
    assert isinstance(relay.open_message(answer.data, bytes.fromhex(granted.key)), relay.Cookie)


def test_a_grant_at_a_relay_beside_a_mediator_is_for_the_stores_ports_or_there_is_none() -> None:
    narrow = document(
        {"url": "netctl://192.0.2.1:8443"}, {"url": "netctl://192.0.2.2:8443", "relayPorts": "42000-42999"}
    )
    one = Mediator(narrow)
    assert one.ask(FIRST) is not None
    assert one.ask(SECOND) is None


def test_no_grant_by_name_for_a_port_that_this_machines_relay_has_not_got() -> None:
    one = Mediator()
    port = one.hub.relay_port(key("bob"))
    assert port is not None
    one.hub.beside.told(frozenset({port}), 0.0)
    assert one.ask(FIRST) is None
    assert one.ask(BESIDE) is None
    assert one.ask(SECOND) is not None


def test_an_app_is_met_at_a_relay_beside_any_mediator_because_all_have_its_pairs() -> None:
    assert Mediator().ask(SECOND, "phone") is not None


@pytest.mark.parametrize(
    ("of", "shared", "bus", "spread"),
    [
        (TWO, True, True, True),
        (TWO, True, False, False),
        (TWO, False, True, False),
    ],
)
def test_members_may_spread_where_several_mediators_have_one_store_and_a_bus(
    of: Document, shared: bool, bus: bool, spread: bool
) -> None:
    one = Mediator(of, shared=shared, bus=bus)
    assert (one.hub.spread, one.welcome.spread) == (spread, spread)


def test_a_member_that_logs_in_before_the_document_names_a_second_mediator_uses_its_relay_later() -> None:
    """A host may have the new document before its mediator, and logs in again because of it: once, and not later."""
    one = Mediator(document({"url": "netctl://192.0.2.1:8443"}))
    assert one.welcome.spread
    assert not one.hub.spread, "as long as it knows no other"
    one.follow(TWO, 102)
    assert one.ask(SECOND) is not None


def test_a_mediator_alone_gives_grants_at_its_own_relay_only() -> None:
    """A standby may have another relay secret."""
    one = Mediator(shared=False)
    assert one.ask(BESIDE) is not None
    assert one.ask(SECOND) is None


def test_an_app_meets_a_member_beside_the_mediator_that_is_much_nearer_to_it() -> None:
    members, beside = TWO.members, {one.relay_name: one for one in TWO.mediators}

    def at(distances: dict[str, int], *, known: bool = True) -> object:
        return relay_of_pair(TWO, members["phone"], members["ann"], distances, (), beside if known else {})

    assert at({BESIDE: 80, FIRST: 80, SECOND: 5}) == TWO.mediators[1]
    assert at({BESIDE: 80, FIRST: 80, SECOND: 75}) is None, "hardly nearer"
    assert at({BESIDE: 80, SECOND: 5}, known=False) is None, "that relay is not told the pairs"
    one = Mediator()
    one.hub._distances[key("ann")] = {BESIDE: 80, FIRST: 80, SECOND: 5}
    port = one.hub.pair_port(key("phone"), key("ann"))
    assert one.hub.meeting(key("phone"), key("ann")) == (TWO.mediators[1], port)


# -- the load of the relay beside a mediator


class Relay:
    """As much of a relay as its word to the mediator needs."""

    def __init__(self) -> None:
        self.unheld: frozenset[int] = frozenset()
        self.table: list[int] = []


def test_the_relay_beside_a_mediator_tells_it_how_loaded_it_is(tmp_path: Path) -> None:
    found, busy, now = Relay(), [0.0], 0.0
    told, heard = UnheldFile(tmp_path, found, lambda: busy[0]), UnheldPorts(tmp_path)

    def load(share: float) -> int:
        nonlocal now
        now += EVERY_S
        busy[0] += share * EVERY_S
        told.look(now)
        heard.look()
        return heard.load

    told.look(now)
    assert heard.look() == frozenset()
    assert heard.load == 0
    assert [load(share) for share in (0.2, 0.6, 0.8, 0.95, 0.1)] == [0, 1, 2, 3, 0]
    found.table = [0] * MAX_BINDINGS
    found.unheld = frozenset({40007})
    assert load(0.0) == 3
    assert heard.look() == {40007}


@pytest.mark.parametrize(
    ("text", "load"),
    [
        ('{"ports": []}', 0),
        ('{"ports": [], "load": 2}', 2),
        ('{"ports": [], "load": 99}', 0),
        ('{"ports": [], "load": -1}', 0),
        ('{"ports": [], "load": "x"}', 0),
        ('{"ports": [], "load": Infinity}', 0),
        ('{"ports": [], "load": 2.5}', 0),
    ],
)
def test_a_load_of_an_earlier_release_or_a_damaged_file(tmp_path: Path, text: str, load: int) -> None:
    (tmp_path / UNHELD_FILE).write_text(text)
    heard = UnheldPorts(tmp_path)
    assert heard.look() == frozenset()
    assert heard.load == load
