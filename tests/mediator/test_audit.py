"""The audit log as an operator reads it, of a server that runs and of one that does not."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mediator.shell.asking import ask_mediator
from mediator.shell.documentnotes import DocumentNotes
from mediator.shell.main import main as mediator_main
from mediator.shell.store import STORE_FILE, Store
from mediator.shell.storeplace import note_store
from mediator.shell.storethread import StoreThread
from mediator.shell.timearguments import moment_s
from netctl.cli.commands.sync import MediatorTarget
from netctl.config.load.build import digest
from netctl.system.asker import asker
from netctl.wire import operatorrequests as r
from netctl.wire.invite import parse_invite
from netctl.wire.origin import MAX_BYTES, origin_of, origin_path
from tests.mediator.loopbackkit import ANN, BOB, STRANGER, Site
from tests.mediator.test_locked_store import admitted, open_house
from tests.support.patience import BUSY_S

COMMIT = "0123456789" * 4
URL = "https://git.example.net/net.git"


def audit(site: Site, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, object]]:
    capsys.readouterr()
    assert mediator_main(["audit", "--state", str(site.state), "-o", "json", *more]) == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


async def lines(site: Site, count: int) -> list[r.AuditRow]:
    """Wait until there are so many: a document is noted after it has come into force."""
    async with asyncio.timeout(BUSY_S):
        while len(found := (await asyncio.to_thread(ask_mediator, site.state, r.ListAudit())).reply) < count:
            await asyncio.sleep(0.05)
    return found


def test_who_did_what_is_told_while_it_runs_and_afterwards(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    open_house(site, {"ann": ANN, "bob": BOB})
    first = digest(site.document.read_text())

    async def main() -> None:
        async with site.serving():
            await lines(site, 1)
            made = await asyncio.to_thread(ask_mediator, site.state, r.CreateInvite("lan", 5))
            assert await admitted(10, parse_invite(made.reply.invite), "new") == "new"
            await asyncio.to_thread(ask_mediator, site.state, r.Revoke("new", by="eve"))
            # What Git brings is told with its commit; what a person writes over it has none.
            text = site.document.read_text() + "\n"
            target = MediatorTarget(site.document, URL)
            target.take(text, COMMIT, lambda: True, again=False)
            found = await lines(site, 5)
            assert (found[-1].who, found[-1].subject) == ("netctl sync", digest(text))
            assert found[-1].detail == f"commit {COMMIT} of {URL}"
            open_house(site, {"ann": ANN, "bob": BOB, "more": STRANGER})
            assert (await lines(site, 6))[-1].detail == ""
            told = await asyncio.to_thread(audit, site, capsys)
            assert [(row["who"], row["what"]) for row in told] == [
                (str(site.document), "document"),
                (asker(), "invited"),
                ("new", "joined"),
                # Whoever asks is named by the command that asks, not by what somebody put into a request before.
                (asker(), "revoked"),
                ("netctl sync", "document"),
                (str(site.document), "document"),
            ]
            assert told[0]["subject"] == first
            assert (told[4]["subject"], told[4]["detail"]) == (digest(text), f"commit {COMMIT} of {URL}")
            assert [row["number"] for row in told] == sorted({row["number"] for row in told})  # type: ignore[type-var]
        async with site.serving():  # a new start with the same document is no line
            await asyncio.sleep(0)
            assert await asyncio.to_thread(audit, site, capsys) == told

    asyncio.run(main())
    alive = audit(site, capsys)
    assert len(alive) == 6, "no server runs: the file is read"
    assert audit(site, capsys, "--since", "1h") == alive
    assert audit(site, capsys, "--since", "2999-01-01") == []
    assert mediator_main(["audit", "--state", str(site.state)]) == 0
    text = capsys.readouterr().out.splitlines()
    assert len(text) == 6
    assert f" {asker()}: revoked new (key " in text[3]
    assert mediator_main(["audit", "--state", str(site.state), "--since", "soon"]) == 1
    assert "say 30m, 24h or 7d, or a date" in capsys.readouterr().err


def test_where_there_is_nothing_to_read_it_says_where_the_lines_are(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mediator_main(["audit", "--state", str(site.state)]) == 1
    assert "no mediator runs here" in capsys.readouterr().err
    note_store(site.state, "postgresql://db/netctl")
    assert mediator_main(["audit", "--state", str(site.state)]) == 1
    assert (
        "its store is postgresql://db/netctl: the lines are in the table `audit`" in capsys.readouterr().err
    )


def test_documents_that_came_while_the_store_took_nothing_are_told_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / STORE_FILE

    async def main() -> None:
        store = StoreThread(Store(path), patience_s=0.2)
        notes = DocumentNotes(store, "/etc/n.yaml")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            notes.accepted("d1", None, 7)
            await notes.write()
            notes.accepted("d2", None, 8)
            assert notes.due
            other.execute("ROLLBACK")
        await asyncio.gather(notes.write(), notes.write())
        assert not notes.due
        assert [(line.subject, line.at_s) for line in await store.audit()] == [("d1", 7), ("d2", 8)]
        await store.close()

    asyncio.run(main())


def test_an_origin_that_is_of_another_text_or_makes_no_sense_says_nothing(tmp_path: Path) -> None:
    document = tmp_path / "networks.yaml"
    MediatorTarget(document, "x" * 9000).take("a: 1\n", COMMIT, lambda: True, again=False)
    raw = origin_path(document).read_bytes()
    assert len(raw) < MAX_BYTES
    found = origin_of(digest("a: 1\n"), raw)
    assert found is not None
    assert found.commit == COMMIT
    assert origin_of(digest("a: 2\n"), raw) is None
    for bad in (b"", b"[]", b"\xff", raw.replace(COMMIT.encode(), b"see\\u001b[31m"), b"[" * MAX_BYTES):
        assert origin_of(digest("a: 1\n"), bad) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("30m", 1_000_000 - 1800),
        ("366d", 0),
        ("1970-01-02", 86400),
        ("1970-01-02T01:00", 90000),
        ("1970-01-02T01:00:00Z", 90000),
        ("1970-01-02T01:00:00+01:00", 86400),
        ("1900-01-01", 0),
        ("soon", None),
        ("-5m", None),
        ("0001-01-01T00:00+23:59", 0),
    ],
)
def test_since_takes_a_duration_or_a_date(text: str, wanted: int | None) -> None:
    assert moment_s(text, 1_000_000) == wanted
