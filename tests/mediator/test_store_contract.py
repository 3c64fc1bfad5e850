"""The contract: whatever stands behind `MemberStore` passes this, SQLite and PostgreSQL alike."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import pytest

from mediator.core import admissions as a
from mediator.core import audit as log
from mediator.core.leasegrants import GrantLease
from mediator.core.pairs import PairGrant, pair_of
from mediator.core.transactions import Basis, Outdated
from mediator.shell import storesql
from mediator.shell.memberstore import MemberStore
from mediator.shell.postgresstore import PostgresStore
from mediator.shell.sqlsession import Row, Session
from mediator.shell.store import Store
from mediator.shell.storeschema import TABLES
from mediator.shell.storesql import MAX_DOCUMENTS, SqlStore
from mediator.shell.storethread import StoreThread
from netctl.model.document import Document, Mode
from netctl.model.errors import LocalError, RemoteError
from netctl.model.keys import WireGuardKey
from netctl.system.tasks import awaited
from tests.mediator.contractkit import Open, applicant, invited, run
from tests.mediator.postgreskit import Postgres
from tests.mediator.test_admissions import DOCUMENT, LAN, NOW, document, identity, key

DATE = "1970-01-12T13:46:49Z"
"""Nine seconds after NOW."""


@pytest.fixture(params=["sqlite", "postgres", "cluster"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same one each time."""
    if request.param == "sqlite":
        return lambda: StoreThread(Store(tmp_path / "m.db"), patience_s=0.5)
    server: Postgres = request.getfixturevalue("postgres")
    place = server.place()
    return lambda: PostgresStore(place, shared=request.param == "cluster")


def test_what_returned_is_kept_and_the_book_is_the_one_that_is_kept(open_store: Open) -> None:
    pair = PairGrant(pair_of(key(1), key(2)), 40100, 1)

    names: list[str] = []

    async def first(store: MemberStore) -> None:
        assert (await store.kept()).book == a.Book()
        names.append((await store.kept()).name)
        assert len(names[0]) == 32
        await store.add([GrantLease("n", key(1), IPv4Address("10.9.0.1"))], [(key(1), 40000)], [pair])
        await store.reserve_generation(77)
        token = await invited(store, 3)
        for number, name in ((12, "zoe"), (10, "amy"), (11, "bob")):
            book = (await store.kept()).book
            verdict, _ = await store.redeem(DOCUMENT, applicant(number, token, name), NOW)
            assert verdict.admission.name == name
            assert book.admitted(verdict) == (await store.kept()).book
        book = (await store.kept()).book
        verdict, _ = await store.redeem(DOCUMENT, applicant(11, token), NOW)
        assert (verdict.fresh, book.admitted(verdict)) == (False, book)
        assert book == (await store.kept()).book
        await store.add([], [(key(10), 40001), (key(11), 40002), (key(12), 40003)])
        changes: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: store.rekey(key(10), key(30), identity(30), NOW, by="amy", unix_s=NOW),
            lambda: store.revoke(key(11), "bob", NOW, by="amy", unix_s=NOW),
            lambda: store.leave(key(12), NOW, unix_s=NOW),
            lambda: store.restore(key(11), NOW, by="amy"),
        )
        for change in changes:
            book = (await store.kept()).book
            records = await change()
            after = (await store.kept()).book
            assert after != book
            assert book.changed(records) == after
            assert after.changed(records) == after, "which may have been read before"

    async def second(store: MemberStore) -> None:
        kept = await store.kept()
        assert [entry.name for entry in kept.book.admissions] == ["amy"]
        assert kept.book.revoked == {key(10): "amy"}
        assert kept.leases["n", key(1)] == IPv4Address("10.9.0.1")
        assert (kept.ports, sorted(kept.resting)) == ({key(1): 40000}, [40001, 40002, 40003])
        assert kept.pairs == (pair,)
        assert kept.generation == (77 + 3 + 1 + 4 if store.shared else 77), (
            "each change that is seen has a number"
        )
        assert [kept.name] == names, "it is the same store"
        (invite,) = await store.invites()
        assert (invite.used, invite.uses) == (3, 3)

    run(open_store, first)
    run(open_store, second)


def test_of_many_at_once_as_many_come_in_as_there_are_uses(open_store: Open) -> None:
    async def main(store: MemberStore) -> None:
        token = await invited(store, 3)
        asked = [store.redeem(DOCUMENT, applicant(100 + n, token, f"h{n}"), NOW) for n in range(8)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(answer, RemoteError) for answer in answers] == 3 * [False] + 5 * [True]
        kept = await store.kept()
        assert len(kept.book.admissions) == len(set(kept.leases.values())) == 3

    run(open_store, main)


def test_an_address_or_port_that_is_taken_is_refused_and_with_it_all_the_rest(open_store: Open) -> None:
    async def main(store: MemberStore) -> None:
        await store.add([GrantLease("n", key(1), IPv4Address("10.9.0.1"))], [(key(1), 40000)])
        before = await store.kept()
        for leases, ports in (
            ([GrantLease("n", key(2), IPv4Address("10.9.0.1"))], [(key(2), 40001)]),
            ([GrantLease("n", key(2), IPv4Address("10.9.0.2"))], [(key(2), 40000)]),
        ):
            with pytest.raises(Outdated):
                await store.add(leases, ports)
        assert await store.kept() == before

    run(open_store, main)


def test_a_port_is_a_members_or_a_pairs_never_both(open_store: Open) -> None:
    pair = pair_of(key(1), key(2))

    async def main(store: MemberStore) -> None:
        await store.add([], [(key(1), 40000)], [PairGrant(pair, 40001, 1)])
        before = await store.kept()
        with pytest.raises(Outdated, match="the port is a pair's"):
            await store.add([], [(key(2), 40001)])
        with pytest.raises(Outdated, match="the port is a member's"):
            await store.add([], [], [PairGrant(pair_of(key(2), key(3)), 40000, 1)])
        assert await store.kept() == before
        await store.add([], [(key(1), 40002)], [PairGrant(pair_of(key(2), key(3)), 40001, 1, pair)])
        kept = await store.kept()
        assert kept.ports == {key(1): 40002}
        assert kept.pairs == (PairGrant(pair_of(key(2), key(3)), 40001, 1),)

    run(open_store, main)


def test_what_is_refused_is_refused_in_the_same_words(open_store: Open) -> None:
    async def main(store: MemberStore) -> None:
        for asked, words in (
            (store.approve(key(1), NOW, by="amy"), "does not wait for approval"),
            (store.restore(key(1), NOW, by="amy"), "was not revoked here"),
            (store.revoke_invite("nothin", NOW, by="amy"), "there is no invite"),
        ):
            with pytest.raises(LocalError, match=words):
                await asked
        with pytest.raises(RemoteError, match="knows no such invite"):
            await store.redeem(DOCUMENT, applicant(9, b"\1" * 32), NOW)
        token = await invited(store, 2)
        await store.redeem(DOCUMENT, applicant(10, token), NOW)
        await store.redeem(DOCUMENT, applicant(11, token), NOW)
        with pytest.raises(RemoteError, match="in use already"):
            await store.rekey(key(10), key(11), identity(30), NOW, by="amy", unix_s=NOW)

    run(open_store, main)


class Counting:
    """A session that counts the rows that are read."""

    def __init__(self, db: Session) -> None:
        self._db = db
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    async def rows(self, sql: str, *values: Any) -> list[Row]:
        found = await self._db.rows(sql, *values)
        self.read += len(found)
        return found


def test_an_admission_reads_no_more_rows_in_a_large_network_than_in_a_small_one(open_store: Open) -> None:
    """One look at all leases and members for each admission let a mediator admit some twenty hosts a second."""

    async def main(store: MemberStore) -> None:
        assert isinstance(store, SqlStore)
        wide, token, read = document("10.64.0.0/12"), await invited(store, 9), list[int]()
        pool = wide.networks["lan"].ipv4
        assert pool is not None

        async def fill(db: Session) -> None:
            there = [(key(5_000 + n).raw, identity(5_000 + n).raw, f"old{n}") for n in range(2_000)]
            await db.insert_many("guest", TABLES["guest"], there)
            rows = [(LAN, member, "abcdef", 0, NOW) for member, _, _ in there]
            await db.insert_many("admission", TABLES["admission"], rows)

        async def admit(db: Session, number: int) -> None:
            counting = Counting(db)
            who = applicant(number, token, f"new{number}")
            await storesql.redeem(cast(Session, counting), wide, who, NOW)
            read.append(counting.read)

        await store.within("a new member", lambda db: admit(db, 10))
        await store.add([GrantLease(LAN, key(5_000 + n), pool[100 * n + 10]) for n in range(2_000)], [])
        await store.within("many members", fill)
        await store.within("a new member", lambda db: admit(db, 11))
        assert read[1] <= read[0] + 5, "those in the part of the pool where its place is"
        assert len((await store.kept()).book.admissions) == 2_002

    run(open_store, main)


OTHERS = 2_000
MOST_ROWS = 9


def test_what_is_decided_about_a_member_reads_no_more_rows_among_many_than_among_few(
    open_store: Open,
) -> None:
    """An approval, a revocation and a new key read all leases and members, and so did a departure."""
    read: dict[str, list[int]] = {}

    def decisions(number: int) -> dict[str, Callable[[Session], Awaitable[a.Records]]]:
        one, other, third = key(number), key(number + 1), key(number + 2)
        return {
            "approve": lambda db: storesql._approve(db, one, NOW, "amy"),
            "rekey": lambda db: storesql._rekey(db, one, third, identity(number + 2), NOW, NOW, "amy"),
            "leave": lambda db: storesql._leave(db, third, NOW, NOW),
            "revoke": lambda db: storesql._revoke(db, other, "x", NOW, NOW, "amy"),
            "restore": lambda db: storesql._restore(db, other, NOW, "amy"),
        }

    async def member(db: Session, number: int, count: int, pending: int) -> None:
        there = range(number, number + count)
        await db.insert_many(
            "guest", TABLES["guest"], [(key(n).raw, identity(n).raw, f"m{n}") for n in there]
        )
        rows = [(LAN, key(n).raw, "abcdef", pending, NOW) for n in there]
        await db.insert_many("admission", TABLES["admission"], rows)

    async def counted(db: Session, what: str, body: Callable[[Session], Awaitable[a.Records]]) -> a.Records:
        counting = Counting(db)
        records = await body(cast(Session, counting))
        read.setdefault(what, []).append(counting.read)
        return records

    async def main(store: MemberStore) -> None:
        assert isinstance(store, SqlStore)
        for number in (100, 200):
            await store.within("two", partial(member, number=number, count=2, pending=1))
            await store.add(
                [GrantLease("n", key(number), IPv4Address("10.9.0.1") + number)],
                [(key(number), 40_000 + number), (key(number + 1), 41_000 + number)],
            )
            for what, body in decisions(number).items():
                before = (await store.kept()).book
                records = await store.within(what, partial(counted, what=what, body=body))
                assert before.changed(records) == (await store.kept()).book, what
            if number == 100:
                await store.within("many", partial(member, number=5_000, count=OTHERS, pending=0))
                await store.add(
                    [GrantLease("n", key(5_000 + n), IPv4Address("10.9.8.0") + n) for n in range(OTHERS)], []
                )
        assert len((await store.kept()).leases) == OTHERS + 2

    run(open_store, main)
    assert len(read) == 5
    assert all(few == many <= MOST_ROWS for few, many in read.values()), read


CHANCE_SEEDS = 60


def test_a_decision_is_the_same_with_the_parts_of_the_book_that_it_needs_as_with_the_whole(
    tmp_path: Path,
) -> None:
    """Small pools and few names, so that most are taken; networks of either mode; former members with leases."""
    seen: set[str] = set()
    for seed in range(CHANCE_SEEDS):
        chance = random.Random(seed)
        join = {"approve": chance.choice(["auto", "auto", "manual"])}
        full = seed % 4 == 0
        bits = 29 if full else chance.choice([20, 24, 25, 27, 29])
        there = document(f"10.1.0.0/{bits}", **join)
        network = there.networks["lan"]
        if chance.random() < 0.2:
            networks = {**there.networks, "lan": replace(network, mode=Mode.LAN)}
            there = replace(there, networks=networks)
        pool = network.ipv4
        assert pool is not None
        path = tmp_path / f"{seed}.db"
        with closing(Store(path)) as store:
            places = chance.sample(range(1, pool.num_addresses - 1), min(100, pool.num_addresses - 2))
            count = (
                len(places) if full else chance.choice([0, len(places) // 2, len(places) - 1, len(places)])
            )
            members = [key(100 + n) for n in range(count)]
            store.add([GrantLease(LAN, one, pool[at]) for one, at in zip(members, places, strict=False)], [])

            store.perform("members", partial(_fill, members=members, chance=chance, all_in=full))
            for _ in range(6):
                invite = a.Invite("abcdef", LAN, 9, chance.choice([0, 9]), NOW - 1, NOW + 9)
                number = chance.choice([9, 30, 31, 1, 5, *range(100, 104)])
                other = number if chance.random() < 0.8 else chance.randrange(100, 110)
                name = chance.choice(["n", "n1", "n-2", "fresh", "home", "gone"])
                who = a.Applicant(key(number), identity(other), name, chance.random() < 0.3, b"")
                whole = store.perform("all", storesql.book, writes=False)
                some = partial(storesql.book_for, document=there, invite=invite, who=who)
                part = store.perform("a part", some, writes=False)
                verdicts = [_decided(there, one, invite, who) for one in (whole, part)]
                assert verdicts[0] == verdicts[1], (seed, who)
                seen.add(
                    verdicts[0] if isinstance(verdicts[0], str) else "fresh" if verdicts[0].fresh else "old"
                )
    assert {
        "fresh",
        "old",
        "invite.full",
        "enrol.name",
        "enrol.mixed",
        "enrol.revoked",
        "enrol.known",
    } <= seen


async def _fill(db: Session, members: list[WireGuardKey], chance: random.Random, *, all_in: bool) -> None:
    """Some of those with a lease are guests, and unless `all_in` some of them wait or are in another network."""
    names = [f"n{number}" if number else "n" for number in range(400)]
    count = min(len(members), 300)
    chosen = chance.sample(names[: max(5, len(members))], count)
    some = chance.sample(members, count)
    rows = [(one.raw, identity(100 + n).raw, chosen[n]) for n, one in enumerate(some)]
    await db.insert_many("guest", TABLES["guest"], rows)
    where, waits = ([LAN], [0]) if all_in else ([LAN, LAN, LAN, "another"], [0, 0, 1])
    found = [(chance.choice(where), row[0], "abcdef", chance.choice(waits), NOW) for row in rows]
    await db.insert_many("admission", TABLES["admission"], found)
    await db.change("INSERT INTO revoked (member, name, at_s) VALUES (?,?,?)", key(9).raw, "x", 1)


def _decided(there: Document, book: a.Book, invite: a.Invite, who: a.Applicant) -> a.Verdict | str:
    try:
        return a.decide(there, book, invite, who, NOW)
    except RemoteError as error:
        return error.code


def test_names_come_in_the_order_of_their_letters_codes(open_store: Open) -> None:
    """Whatever language the database sorts for: the book after an admission is put together from memory."""

    async def main(store: MemberStore) -> None:
        token = await invited(store, 9)
        book = a.Book()
        for number, name in enumerate(("b-2", "b1", "a", "z-2", "z1", "1")):
            verdict, _ = await store.redeem(DOCUMENT, applicant(40 + number, token, name), NOW)
            book = book.admitted(verdict)
            assert book == (await store.kept()).book
        assert [entry.name for entry in book.admissions] == ["1", "a", "b-2", "b1", "z-2", "z1"]

    run(open_store, main)


def test_who_is_cancelled_while_it_waits_harms_nobody(open_store: Open) -> None:
    async def main(store: MemberStore) -> None:
        token = await invited(store, 50)
        asked = [awaited(store.redeem(DOCUMENT, applicant(100 + n, token, f"h{n}"), NOW)) for n in range(20)]
        await asyncio.sleep(0)
        for one in asked[::2]:
            one.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        whole = {answer[0].admission.name for answer in answers if isinstance(answer, tuple)}
        kept = {entry.name for entry in (await store.kept()).book.admissions}
        assert whole <= kept
        await store.reserve_generation(3)

    run(open_store, main)


def test_the_audit_log_has_a_line_for_what_happened_and_none_for_what_was_refused(open_store: Open) -> None:
    strict = document("10.64.0.0/12", approve="manual")

    async def first(store: MemberStore) -> None:
        made, token = await store.invite(
            LAN, called="lan", uses=5, made_s=NOW, expires_s=NOW + 9, name="", by="amy"
        )
        for number, name in ((10, "one"), (11, "two"), (12, "three")):
            await store.redeem(strict, applicant(number, token, name), NOW + 1)
        await store.redeem(strict, applicant(10, token, "one"), NOW + 1)  # again, and no news
        await store.approve(key(10), NOW + 2, by="ben")
        await store.revoke(key(11), "two", NOW + 3, by="ben", unix_s=NOW + 3)
        await store.rekey(key(10), key(30), identity(30), NOW + 4, by=None, unix_s=NOW + 4)
        await store.leave(key(12), NOW + 5, unix_s=NOW + 5)
        await store.leave(key(12), NOW + 5, unix_s=NOW + 5)
        await store.restore(key(11), NOW + 6, by="amy")
        await store.revoke(key(30), "one", NOW + 7, by="amy", unix_s=NOW + 7)
        await store.revoke_invite(made.id, NOW + 8, by="amy")
        for digest, detail in (("d1", ""), ("d1", ""), ("d2", "commit c of r"), ("d1", "")):
            await store.note_document(digest, detail, NOW + 9, by="/etc/n.yaml")
        for refused in (
            store.approve(key(10), NOW, by="eve"),
            store.restore(key(10 + 40), NOW, by="eve"),
            store.revoke_invite("nothin", NOW, by="eve"),
            store.rekey(key(11), key(31), identity(31), NOW, by="eve", unix_s=NOW),
            store.redeem(strict, applicant(13, b"\1" * 32), NOW),
        ):
            with pytest.raises((LocalError, RemoteError)):
                await refused
        lines = await store.audit()
        joined = f"network 'lan' with invite {made.id}, key {{}}, waits for approval"
        assert [line.number for line in lines] == list(range(1, len(lines) + 1))
        assert [(line.at_s - NOW, line.who, line.what, line.subject, line.detail) for line in lines] == [
            (0, "amy", "invited", made.id, f"network 'lan', 5 uses, until {DATE}"),
            (1, "one", "joined", "one", joined.format(key(10))),
            (1, "two", "joined", "two", joined.format(key(11))),
            (1, "three", "joined", "three", joined.format(key(12))),
            (2, "ben", "approved", "one", f"key {key(10)}"),
            (3, "ben", "rejected", "two", f"key {key(11)}"),
            (4, "one", "rekeyed", "one", f"key {key(30)} in the place of {key(10)}"),
            (5, "three", "left", "three", f"key {key(12)}"),
            (6, "amy", "restored", "two", f"key {key(11)}"),
            (7, "amy", "revoked", "one", f"key {key(30)}"),
            (8, "amy", "invite-revoked", made.id, ""),
            (9, "/etc/n.yaml", "document", "d1", ""),
            (9, "/etc/n.yaml", "document", "d2", "commit c of r"),
            (9, "/etc/n.yaml", "document", "d1", ""),
        ]
        assert await store.audit(NOW + 8) == lines[-4:]
        assert await store.audit(NOW + 8, lines[-2].number) == lines[-1:]

    async def second(store: MemberStore) -> None:
        await store.note_document("d1", "", NOW + 10, by="/etc/n.yaml")
        assert len(await store.audit()) == 14, "a new start with the same document is no news"

    run(open_store, first)
    run(open_store, second)


def test_the_audit_log_is_bounded_and_its_numbers_never_go_back(open_store: Open) -> None:
    fill = (
        "INSERT INTO audit SELECT n, 7, 'f', 'document', 'old', '' FROM (WITH RECURSIVE count(n) AS "
        f"(SELECT 1 UNION ALL SELECT n+1 FROM count WHERE n < {log.MAX_ENTRIES}) SELECT n FROM count) AS numbers"
    )

    async def main(store: MemberStore) -> None:
        assert isinstance(store, SqlStore)
        assert await store.within("years of lines", lambda db: db.change(fill)) == log.MAX_ENTRIES
        for number in range(3):
            await store.note_document(f"d{number}", "", NOW, by="f")
        page = await store.audit()
        assert (len(page), page[0].number) == (log.PAGE, 4)
        assert [line.number - log.MAX_ENTRIES for line in await store.audit(NOW)] == [1, 2, 3]
        (found,) = await store.within("a count", lambda db: db.rows("SELECT count(*) FROM audit"))
        assert found == (log.MAX_ENTRIES,)

    run(open_store, main)


# -- several mediators ------------------------------------------------------------------------------------------


def two(open_store: Open, main: Callable[[MemberStore, MemberStore], Awaitable[None]]) -> None:
    """Two mediators' stores that are one."""

    async def whole(first: MemberStore) -> None:
        second = open_store()
        await second.open()
        try:
            await main(first, second)
        finally:
            await second.close()

    run(open_store, whole)


@pytest.fixture
def cluster(postgres: Postgres) -> Open:
    place = postgres.place()
    return lambda: PostgresStore(place, shared=True)


def test_every_change_that_members_see_takes_the_next_number_of_one_sequence(cluster: Open) -> None:
    async def main(first: MemberStore, second: MemberStore) -> None:
        await first.reserve_generation(1000)
        token = await invited(first, 5)
        assert await second.state() == 1000, "an invite is nothing that a member sees"
        _, number = await second.redeem(DOCUMENT, applicant(10, token), NOW)
        assert number == 1001
        assert await first.add([GrantLease("n", key(1), IPv4Address("10.9.0.1"))], []) == 1002
        before = (await first.kept()).book
        records = await second.revoke(key(10), "newbie", NOW, unix_s=NOW, by="amy")
        assert records.number == 1003
        assert before.changed(records) == (await first.kept()).book, "all changes up to it are in it"
        with pytest.raises(LocalError):
            await first.approve(key(10), NOW, by="amy")
        assert await first.state() == 1003, "what is refused takes none"
        await second.reserve_generation(7)
        assert await first.state() == 1003, "it never goes back"

    two(cluster, main)


def test_of_two_that_choose_the_same_the_second_is_to_choose_anew(cluster: Open) -> None:
    def lease(number: int, address: str) -> GrantLease:
        return GrantLease("n", key(number), IPv4Address(address))

    async def main(first: MemberStore, second: MemberStore) -> None:
        basis = Basis(await first.state(), "")
        await first.add([lease(1, "10.9.0.1")], [(key(1), 40001)], basis=basis)
        for leases, ports in (
            ([lease(2, "10.9.0.1")], [(key(2), 40002)]),  # somebody else's address
            ([lease(1, "10.9.0.2")], []),  # another address for the same member
            ([], [(key(1), 40003)]),  # another port for it
            ([], [(key(2), 40001)]),
            (
                [GrantLease("n", key(2), IPv4Address("10.9.0.1"), key(1))],
                [],
            ),  # taken from somebody who is back
        ):
            with pytest.raises(Outdated):
                await second.add(leases, ports, basis=basis)
        await second.add([lease(1, "10.9.0.1"), lease(2, "10.9.0.3")], [(key(1), 40001)], basis=basis)
        kept = await first.kept()
        assert kept.leases == {("n", key(1)): IPv4Address("10.9.0.1"), ("n", key(2)): IPv4Address("10.9.0.3")}
        assert kept.ports == {key(1): 40001}
        now = Basis(kept.generation, "")
        await second.add([lease(1, "10.9.0.9")], [], basis=now)  # the network was renumbered

    two(cluster, main)


def test_of_two_documents_the_first_counts_and_the_newest_stay(cluster: Open) -> None:
    async def main(first: MemberStore, second: MemberStore) -> None:
        number = await first.offer("text 0", "d0", 0, NOW, by="amy", detail="")
        with pytest.raises(Outdated):
            await second.offer("text x", "dx", 0, NOW, by="ben", detail="")
        found = (await second.kept()).document
        assert found is not None
        assert (found.number, found.digest, found.content) == (number, "d0", "text 0")
        again = (await second.kept("d0")).document
        assert again is not None
        assert again.content == "", "whoever has it is not sent it again"
        for version in range(1, MAX_DOCUMENTS + 5):
            number = await second.offer(f"text {version}", f"d{version}", number, NOW, by="ben", detail="")
        assert isinstance(second, SqlStore)
        (count,) = await second.within("a count", lambda db: db.rows("SELECT count(*) FROM document"))
        assert count == (MAX_DOCUMENTS,)
        # Whoever decides by a document that is not in force any more decides anew.
        with pytest.raises(Outdated):
            await first.add([], [(key(1), 40001)], basis=Basis(number, "d0"))
        with pytest.raises(Outdated):
            await first.redeem(DOCUMENT, applicant(10, await invited(first)), NOW)
        lines = [line for line in await first.audit() if line.what == "document"]
        assert [line.subject for line in lines] == [f"d{n}" for n in range(MAX_DOCUMENTS + 5)]

    two(cluster, main)


def test_one_that_is_alone_and_several_keep_each_other_out(postgres: Postgres) -> None:
    async def keeps_out(shared: bool, words: str) -> None:
        place = postgres.place()
        first, second = PostgresStore(place, shared=shared), PostgresStore(place, shared=not shared)
        await first.open()
        with pytest.raises(LocalError, match=words):
            await second.open()
        await first.close()
        await second.open()
        await second.close()

    async def main() -> None:
        await asyncio.gather(
            keeps_out(True, "start all with --cluster"), keeps_out(False, "was started without --cluster")
        )

    asyncio.run(main())


def test_mediators_that_start_at_once_with_an_empty_database_make_its_tables_once(postgres: Postgres) -> None:
    place = postgres.place()

    async def main() -> None:
        stores = [PostgresStore(place, shared=True) for _ in range(4)]
        await asyncio.gather(*(store.open() for store in stores))
        names = {(await store.kept()).name for store in stores}
        assert len(names) == 1
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(main())
