"""A relay port that was given up is nobody else's while a grant for it can live: the relay knows no members."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from mediator.core.allocations import Allocations
from mediator.core.effects import Store as Stored
from mediator.core.relay_grants import GRANT_TTL_S
from mediator.shell.store import STORE_FILE, Store
from tests.mediator.test_hub import Shell, key
from tests.mediator.test_pairs import document, membership


class Book:
    """Allocations that are told what they ask for, as by a store that takes everything."""

    def __init__(self) -> None:
        self.holdings = Allocations()

    def load(self, at_s: int, ports: tuple[int, int], *members: str) -> Stored:
        wanted = self.holdings.want(membership(*members), ports, at_s)
        if wanted is None:
            return Stored((), ())
        self.holdings.stored(wanted.leases, wanted.ports, wanted.pairs, wanted.resting)
        return wanted

    def port(self, name: str) -> int | None:
        return self.holdings.port(key(name))

    def pair(self, one: str, other: str) -> int | None:
        return self.holdings.pairs.port(key(one), key(other))


def test_a_port_that_another_range_replaced() -> None:
    book = Book()
    book.load(0, (10, 12), "ann")
    old = {name: book.port(name) for name in ("ann", "bob")}
    moved = book.load(100, (20, 22), "ann")
    assert {port for port, _ in moved.resting} >= set(old.values())
    assert {until_s for _, until_s in moved.resting} == {100 + GRANT_TTL_S}
    again = book.load(200, (10, 14), "ann")
    given = {port for _, port in again.ports}
    assert given, "they came back to the old range"
    assert not given & set(old.values()), "whose ports these were may still bind them"
    later = Book()
    later.holdings.restore({}, {}, (), {10: 50})
    assert 10 in {port for _, port in later.load(50, (10, 14), "ann").ports}


def test_a_port_of_a_pair_that_is_wanted_no_longer() -> None:
    book = Book()
    members = len(book.load(0, (10, 99), "ann", "phone").ports)
    ports = (10, 10 + members)  # one more than members have
    pair = book.pair("ann", "phone")
    assert pair == ports[1]
    gone = book.load(100, ports, "ann")
    assert gone.resting == ((pair, 100 + GRANT_TTL_S),)
    book.load(200, ports, "ann", "phone")
    assert book.pair("ann", "phone") == pair, "it comes back to its own"
    book.load(300, ports, "ann")
    book.load(400, ports, "bob", "phone")
    assert book.pair("bob", "phone") is None
    assert book.holdings.ports_due is not None
    free_s = 300 + GRANT_TTL_S
    book.load(free_s - 1, ports, "bob", "phone")
    assert book.pair("bob", "phone") is None
    book.load(free_s, ports, "bob", "phone")
    assert book.pair("bob", "phone") == pair
    assert book.holdings.ports_due is None


def test_a_pair_gives_its_port_to_no_other_in_the_moment_that_it_ends() -> None:
    book = Book()
    members = len(book.load(0, (10, 99), "ann", "phone").ports)
    ports = (10, 10 + members)
    book.load(100, ports, "bob", "phone")
    assert book.pair("bob", "phone") is None


def test_the_store_keeps_it_with_what_took_its_place(tmp_path: Path) -> None:
    with closing(Store(tmp_path / STORE_FILE)) as store:
        store.add([], [(key("ann"), 40000)])
        store.add([], [(key("ann"), 50000)], (), [(40000, 900)])
    with closing(Store(tmp_path / STORE_FILE)) as store:
        assert (store.relay_ports(), store.resting_ports()) == ({key("ann"): 50000}, {40000: 900})


def test_who_waits_gets_a_port_as_soon_as_one_has_rested() -> None:
    shell = Shell(document(("ann", "phone"), ports="40000-40004"))
    assert shell.hub.pair_port(key("ann"), key("phone")) is not None
    shell.unix_s = 1000
    shell.load(document(("ann",), ports="40000-40004"))
    shell.load(document(("bob", "phone"), ports="40000-40004"))
    assert shell.hub.pair_port(key("bob"), key("phone")) is None
    assert shell.hub.without_port == 1
    for unix_s, has in ((1000 + GRANT_TTL_S - 1, False), (1000 + GRANT_TTL_S, True)):
        shell.unix_s = unix_s
        shell.perform(shell.hub.handle_timer(0.0, shell.unix_s))
        assert (shell.hub.pair_port(key("bob"), key("phone")) is not None) is has


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_the_store_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = tmp_path / STORE_FILE
        with closing(Store(path)) as store:
            store.add([], [(key("ann"), 40000)])
            assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
        path.chmod(0o644)  # of an older netctl
        with closing(Store(path)):
            assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    finally:
        os.umask(before)
