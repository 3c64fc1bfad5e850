"""Ports of pairs with a stock app: one a pair, kept like a lease, in a store that two processes read."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mediator.core.membership import Membership, membership_of
from mediator.core.pairs import HIGH, LOW, PairBook, PairGrant, pair_of, wanted_pairs
from mediator.core.relay_pairs import PairTable
from mediator.core.relay_table import RelayTable
from mediator.shell.pairstore import PairReader
from mediator.shell.store import STORE_FILE, Store
from mediator.shell.storeschema import MIGRATIONS, PAIRS
from netctl.config import load_document
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.wire import control as w
from netctl.wire.relay import Allocation
from tests.mediator.test_hub import PIN, Shell, identity, key

STOCK = ("phone", "tablet")


def document(
    members: tuple[str, ...] = ("ann", "bob", "phone"),
    *,
    ports: str = "40000-40009",
    hub: str | None = None,
    acls: list[dict[str, object]] | None = None,
) -> Document:
    network: dict[str, object] = {"mode": "routed", "ipv4": "10.1.0.0/24", "members": list(members)}
    if hub is not None:
        network["topology"] = {"hub": hub}
    if acls is not None:
        network["acls"] = acls
    text = {
        "apiVersion": "netctl/v1",
        "mediators": [
            {"url": "netctl://192.0.2.1:8443", "identity": [str(PIN)], "relayPorts": ports},
        ],
        "members": {
            name: {"wireguard": str(key(name))} | ({} if name in STOCK else {"identity": str(identity(name))})
            for name in ("ann", "bob", *STOCK)
        },
        "networks": {"lan": network},
    }
    return load_document(json.dumps(text)).document


def membership(*members: str, hub: str | None = None) -> Membership:
    return membership_of(document(members, hub=hub))


def grants(book: PairBook, wanted: Membership, ports: tuple[int, int], *taken: int) -> list[PairGrant]:
    found = list(book.missing(wanted, ports, taken))
    book.stored(found)
    return found


def test_a_pair_is_wanted_where_one_side_has_no_agent() -> None:
    assert wanted_pairs(membership("ann", "bob")) == {}
    pair = pair_of(key("ann"), key("phone"))
    assert wanted_pairs(membership("ann", "phone")) == {pair: HIGH}
    assert wanted_pairs(membership("ann", "bob", "phone", hub="bob")) == {
        pair_of(key("bob"), key("phone")): HIGH
    }
    both = wanted_pairs(membership(*STOCK))
    assert both == {pair_of(key("phone"), key("tablet")): LOW | HIGH}
    apart = document(acls=[{"name": "web", "src": ["phone"], "dst": ["bob"], "proto": "tcp", "ports": [80]}])
    assert set(wanted_pairs(membership_of(apart))) == {pair_of(key("bob"), key("phone"))}


def test_ports_are_kept_and_never_two_pairs() -> None:
    book = PairBook()
    first = grants(book, membership("ann", "bob", "phone"), (10, 19), 10, 11)
    assert [grant.port for grant in first] == [12, 13]
    assert grants(book, membership("ann", "bob", "phone"), (10, 19), 10, 11) == []
    assert [(g.port, g.apps) for g in grants(book, membership("ann", "phone"), (10, 19))] == [(13, 0)]
    assert book.port(key("bob"), key("phone")) is None
    again = grants(book, membership("ann", "bob", "phone"), (10, 19))
    assert [(grant.port, grant.apps, grant.taken_from) for grant in again] == [(13, HIGH, None)]
    assert book.port(key("phone"), key("bob")) == 13
    moved = grants(book, membership("ann", "bob", "phone"), (30, 39))
    assert {grant.port for grant in moved} == {30, 31}


def test_a_port_of_a_pair_that_is_gone_is_the_last_that_is_given_away() -> None:
    book = PairBook()
    grants(book, membership("ann", "phone"), (10, 10))
    old, new = pair_of(key("ann"), key("phone")), pair_of(key("bob"), key("phone"))
    grants(book, membership("bob"), (10, 10))
    assert grants(book, membership("bob", "phone"), (10, 10)) == [PairGrant(new, 10, HIGH, old)]
    assert book.ports() == {10}
    assert grants(book, membership("ann", "bob", "phone"), (10, 10)) == []
    assert book.without_port == 1


def test_a_port_outside_a_narrower_range_is_no_port() -> None:
    book = PairBook()
    grants(book, membership("ann", "phone"), (10, 10))
    (resting,) = grants(book, membership("ann", "phone"), (20, 20), 20)
    assert (resting.port, resting.apps, book.without_port) == (10, 0, 1)
    assert book.port(key("ann"), key("phone")) is None
    assert grants(book, membership("ann", "phone"), (20, 20), 20) == []
    assert [grant.port for grant in grants(book, membership("ann", "phone"), (20, 21), 20)] == [21]


def test_members_and_pairs_share_no_port_and_a_full_range_is_said() -> None:
    shell = Shell(document(ports="40000-40004"))  # four members, and one port for two pairs
    held = [*(port for store in shell.stores for _, port in store.ports)]
    held += [grant.port for store in shell.stores for grant in store.pairs]
    assert len(held) == len(set(held)) == 5
    assert shell.hub.without_port == 1
    shell.load(document(ports="40000-40009"))
    assert shell.hub.without_port == 0


def test_a_member_is_granted_the_port_of_its_pair_and_not_that_of_the_app() -> None:
    shell = Shell(document())
    shell.login(1, "ann")
    (granted,) = shell.give(1, w.RelayRequest(str(key("phone"))))
    assert isinstance(granted, w.RelayGrant)
    port = shell.hub.pair_port(key("ann"), key("phone"))
    assert granted.address == f"0.0.0.0:{port}"
    allocation = Allocation.unpack(bytes.fromhex(granted.allocation))
    assert (allocation.own_port, allocation.peer_port) == (shell.hub.relay_port(key("ann")), port)
    assert port not in (shell.hub.relay_port(key("phone")), shell.hub.pair_port(key("bob"), key("phone")))
    (other,) = shell.give(1, w.RelayRequest(str(key("bob"))))
    assert isinstance(other, w.RelayGrant)
    assert other.address == f"0.0.0.0:{shell.hub.relay_port(key('bob'))}"
    assert shell.give(1, w.RelayRequest(str(key("tablet")))) == []  # of no network of ann's


PAIR = pair_of(key("ann"), key("phone"))


def test_the_store_keeps_pairs_and_lets_no_port_be_two_things(tmp_path: Path) -> None:
    path = tmp_path / STORE_FILE
    with closing(Store(path)) as store:
        store.add([], [(key("ann"), 40000)], [PairGrant(PAIR, 40001, HIGH)])
        other = pair_of(key("bob"), key("phone"))
        for wrong in (40000, 40001):
            with pytest.raises(LocalError):
                store.add([], [(key("bob"), 40005)], [PairGrant(other, wrong, HIGH)])
        with pytest.raises(LocalError):
            store.add([], [(key("bob"), 40001)])
        assert store.relay_ports() == {key("ann"): 40000}
    with closing(Store(path)) as store:
        assert store.pairs() == [PairGrant(PAIR, 40001, HIGH)]
        store.add([], [], [PairGrant(other, 40001, HIGH, PAIR)])
        assert store.pairs() == [PairGrant(other, 40001, HIGH)]


def test_a_store_from_before_there_were_pairs_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / STORE_FILE
    with closing(Store(path)) as store:
        store.add([], [(key("ann"), 40000)])
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(
            "DROP TRIGGER pair_port_is_free; DROP TRIGGER member_port_is_free; DROP TABLE relay_pair;"
            "DROP TABLE resting_port; DROP TABLE place; DROP TABLE audit; DROP TABLE writer; DROP TABLE document"
        )
        raw.execute(f"PRAGMA user_version = {MIGRATIONS.index(PAIRS)}")
    with closing(Store(path)) as store:
        assert store.relay_ports() == {key("ann"): 40000}
        store.add([], [], [PairGrant(PAIR, 40001, HIGH)])
        assert store.pairs()[0].port == 40001


def test_the_relay_reads_what_the_mediator_wrote_and_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / STORE_FILE
    table = PairTable(RelayTable(bytes(32), bytes(32), range(40000, 40010)))
    with closing(PairReader(path)) as reader:
        assert reader.changed() is None  # there is no store yet
        with closing(Store(path)) as store:
            assert reader.changed() == []
            store.add([], [(key("ann"), 40000), (key("phone"), 40002)], [PairGrant(PAIR, 40001, HIGH)])
            found = reader.changed()
            assert found is not None
            (pair,) = found
            assert (pair.port, [side.stock for side in pair.members]) == (40001, [False, True])
            assert [side.port for side in pair.members] == [40000, 40002]
            assert reader.changed() is None
            store.add([], [], [PairGrant(PAIR, 40001, 0)])
            reader.tell(table, 0.0)
            assert 40001 not in table
            store.add([], [], [PairGrant(PAIR, 40001, HIGH)])
            reader.tell(table, 0.0)
            assert 40001 in table
        path.unlink()
        reader.tell(table, 1.0)  # a store that is away for a moment takes nothing from the relay
        assert 40001 in table
