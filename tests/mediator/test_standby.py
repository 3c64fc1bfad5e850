"""Two mediators, one store in PostgreSQL: one works, the other stands by, and takes over when the first is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from mediator.core.acceptance import other_ports
from mediator.shell.asking import ask_mediator
from mediator.shell.main import main as mediator_main
from netctl.config import load_document
from netctl.model.document import Document
from netctl.wire import operatorrequests as r
from netctl.wire.invite import parse_invite
from tests.mediator.loopbackkit import ANN, BOB, Member, Site, keys
from tests.mediator.postgreskit import Postgres, running
from tests.mediator.test_locked_store import admitted, open_house
from tests.support.freeports import free_port
from tests.support.lifeline import tether
from tests.support.patience import BUSY_S, wait_for

FIRST, SECOND = "127.0.0.1", "127.0.0.2"
"""Two machines of one identity, with the same ports."""
JOINED = keys(10)


class Server:
    """A mediator in a process of its own. `page`: the port of /readyz."""

    def __init__(self, site: Site, host: str, dsn: str, log: Path, page: int, *how: str) -> None:
        self.log, self._page = log, f"http://{host}:{page}"
        command = [
            sys.executable,
            "-P",
            "-m",
            "mediator.shell.main",
            "serve",
            "--listen",
            host,
            "--store",
            dsn,
        ]
        command += ["--document", str(site.document), "--state", str(site.state), "--no-relay"]
        command += [*(how or ("--standby",)), "--metrics", f"{host}:{page}"]
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, stderr=out)
        tether(self.process.pid)

    def says(self, words: str) -> None:
        wait_for(words, lambda: words in self.log.read_text() or self.process.poll() is not None)
        assert words in self.log.read_text(), self.log.read_text()

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self._page + path, timeout=BUSY_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def end(self) -> int:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.process.wait(BUSY_S)


class Pair:
    """Both machines' files: one identity, one relay secret, one document with an entry for each."""

    def __init__(self, directory: Path, dsn: str) -> None:
        self.directory, self._dsn = directory, dsn
        self.first = Site(directory / "first")
        open_house(self.first, {"ann": ANN, "bob": BOB})
        text = json.loads(self.first.document.read_text())
        (entry,) = text["mediators"]
        text["mediators"].append({**entry, "url": entry["url"].replace(FIRST, SECOND)})
        self.first.document.write_text(json.dumps(text))
        self.second = Site(directory / "second")
        for name in ("identity.key", "relay.secret"):
            if (self.first.state / name).exists():
                shutil.copy(self.first.state / name, self.second.state / name)
        shutil.copy(self.first.document, self.second.document)
        self._page = free_port()
        self._started: list[Server] = []

    @property
    def document(self) -> Document:
        return load_document(self.first.document.read_text()).document

    def start(self, host: str) -> Server:
        site = self.first if host == FIRST else self.second
        log = self.directory / f"log{len(self._started)}"
        self._started.append(Server(site, host, self._dsn, log, self._page))
        return self._started[-1]

    def member(self, one: object) -> Member:
        made = Member(one, self.document.mediators[0])  # type: ignore[arg-type]
        made.client.set_mediators(self.document.mediators)
        return made

    def close(self) -> None:
        for server in self._started:
            if server.process.poll() is None:
                server.end()
        assert not any("Traceback" in log.read_text() for log in self.directory.glob("log*"))


@contextmanager
def pair(directory: Path, postgres: Postgres) -> Iterator[tuple[Pair, str]]:
    dsn = postgres.database()
    made = Pair(directory, dsn)
    try:
        yield made, dsn
    finally:
        made.close()


def ask(site: Site, request: object) -> object:
    return ask_mediator(site.state, request).reply  # type: ignore[arg-type]


def test_a_standby_takes_over_with_everything_and_who_was_replaced_ends(
    tmp_path: Path, postgres: Postgres
) -> None:
    with pair(tmp_path, postgres) as (both, dsn):
        first = both.start(FIRST)
        first.says("listening")
        second = both.start(SECOND)
        second.says("this one stands by")
        status, why = second.page("/readyz")
        assert (status, "stands by" in why, "netctl-mediator" in why) == (503, True, True), why
        assert second.page("/healthz") == (200, "ok\n")
        assert first.page("/readyz")[0] == 200

        async def lost() -> None:
            made = await asyncio.to_thread(ask, both.first, r.CreateInvite("lan", 5))
            assert isinstance(made, r.NewInvite)
            assert await admitted(10, parse_invite(made.invite), "new") == "new"
            await asyncio.to_thread(ask, both.first, r.Revoke("bob"))
            async with both.member(ANN) as ann:
                before = (await ann.view(lambda changed: "new" in names(changed))).view
                first.process.kill()
                first.process.wait()
                after = (await ann.view(lambda changed: changed.view.generation > before.generation)).view
                assert after.leases == before.leases
                assert after.members == before.members
            # What was acknowledged there holds here: who was let in is, who was shut out is not, and it goes on.
            async with both.member(JOINED) as new:
                await new.view()
            async with Member(BOB, both.document.mediators[1]) as bob:
                assert "no member" in str((await bob.refused()).error)
            assert await admitted(11, parse_invite(made.invite), "later") == "later"
            rows = await asyncio.to_thread(ask, both.second, r.ListAudit())
            assert isinstance(rows, list)
            assert [row.what for row in rows] == ["document", "invited", "joined", "revoked", "joined"]

        asyncio.run(asyncio.wait_for(lost(), 3 * BUSY_S))
        second.says("this one takes over")

        # The machine of the second stands still, and its connection with it; the first comes back meanwhile.
        again = both.start(FIRST)
        again.says("this one stands by")
        second.process.send_signal(signal.SIGSTOP)
        with psycopg.connect(dsn, autocommit=True) as admin:
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname=current_database() AND pid IN"
            admin.execute(end + " (SELECT pid FROM pg_locks WHERE locktype='advisory' AND granted)")
        again.says("listening")
        second.process.send_signal(signal.SIGCONT)
        assert second.process.wait(BUSY_S) == 1, "two never serve one store for long"
        second.says("this one ends, and its members go there")

        async def back() -> None:
            async with both.member(ANN) as ann:
                await ann.view(lambda changed: {"new", "later"} <= names(changed))

        asyncio.run(asyncio.wait_for(back(), BUSY_S))


def names(changed: object) -> set[str]:
    return {member.name for member in changed.view.members.values()}  # type: ignore[attr-defined]


def test_a_standby_outlives_its_server_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with running() as server, pair(tmp_path, server) as (both, _):
        first = both.start(FIRST)
        first.says("listening")
        second = both.start(SECOND)
        second.says("this one stands by")
        third = both.start("127.0.0.3")
        third.says("this one stands by")
        assert third.end() == 0, "SIGTERM ends one that waits"
        server.kill()
        wait_for("it says so", lambda: "cannot be" in second.page("/readyz")[1])
        assert second.process.poll() is None
        server.start()

        def works(one: Server) -> bool:
            with contextlib.suppress(OSError):  # it has just ended
                return one.page("/readyz")[0] == 200
            return False

        wait_for("one of them works, and the other stands by or ends", lambda: works(first) or works(second))
        for one in (first, second):
            if one.process.poll() is None:
                assert one.end() == 0


@pytest.mark.parametrize("more", [[], ["--store", "postgresql://u@db.invalid/n?connect_timeout=2"]])
def test_what_there_is_nothing_to_wait_for_is_said_at_once(
    site: Site, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    words = ["serve", "--standby", "--state", str(site.state), "--document", str(site.document), *more]
    assert mediator_main(words) == 1
    said = capsys.readouterr().err
    assert ("cannot be reached" if more else "give --store too") in said


def test_two_entries_of_one_identity_with_other_ports_are_warned_of(site: Site) -> None:
    text = json.loads(site.document.read_text())
    (entry,) = text["mediators"]
    for url, said in (
        (re.sub(r":\d+$", ":9", entry["url"]), True),
        (entry["url"].replace(FIRST, SECOND), False),
    ):
        text["mediators"] = [entry, {**entry, "url": url}]
        document = load_document(json.dumps(text)).document
        assert (other_ports(document, document.mediators[0]) is not None) is said
