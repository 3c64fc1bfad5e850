"""Two mediators at work on one store in PostgreSQL, each in a process of its own and with an identity of its own."""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mediator.shell.asking import ask_mediator
from mediator.shell.main import main as mediator_main
from netctl.agent.storage.keyfiles import Keys
from netctl.config import load_document
from netctl.model.document import Document
from netctl.session import ViewChanged
from netctl.wire import operatorrequests as r
from netctl.wire.invite import Invite, parse_invite
from tests.mediator.loopbackkit import ANN, BOB, STRANGER, Member, Site
from tests.mediator.postgreskit import Postgres
from tests.mediator.test_locked_store import admitted
from tests.mediator.test_standby import FIRST, SECOND, Server
from tests.support.freeports import free_port
from tests.support.patience import BUSY_S, wait_for

GUESTS = 40
MOVES = 6


@dataclass
class Both:
    """The files of two machines, and their processes."""

    directory: Path
    dsn: str
    page: int

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            (self.directory / name).mkdir()
        self.sites = {
            FIRST: Site(self.directory / "first"),
            SECOND: Site(self.directory / "second"),
        }
        self.started: list[Server] = []
        self.save({"ann": ANN, "bob": BOB}, *self.sites)

    def text(self, members: dict[str, Keys], approve: str = "auto") -> dict[str, Any]:
        site = copy.copy(self.sites[FIRST])
        site.document = self.directory / "draft.yaml"
        site.write(members)
        text: dict[str, Any] = json.loads(site.document.read_text())
        (entry,) = text["mediators"]
        entry["relayPorts"] = "20000-20099"
        other = {
            **entry,
            "url": entry["url"].replace(FIRST, SECOND),
            "identity": [str(self.sites[SECOND].identity.public)],
        }
        text["mediators"].append(other)
        text["id"] = "two-0001"
        text["networks"]["lan"].update(ipv4="10.1.0.0/24", join={"invites": True, "approve": approve})
        return text

    def save(self, members: dict[str, Keys], *hosts: str, approve: str = "auto") -> None:
        """The document of these machines."""
        content = json.dumps(self.text(members, approve))
        for host in hosts:
            self.write(host, content)

    def write(self, host: str, content: str) -> None:
        beside = self.sites[host].document.with_suffix(".new")
        beside.write_text(content)
        beside.rename(self.sites[host].document)

    @property
    def document(self) -> Document:
        return load_document(self.sites[SECOND].document.read_text()).document

    def start(self, host: str) -> Server:
        log = self.directory / f"log{len(self.started)}"
        self.started.append(Server(self.sites[host], host, self.dsn, log, self.page, "--cluster"))
        return self.started[-1]

    def ask(self, host: str, request: Any) -> Any:
        return ask_mediator(self.sites[host].state, request).reply

    def members(self, host: str) -> dict[str, r.MemberRow]:
        return {row.name: row for row in self.ask(host, r.ListMembers())}

    def status(self, host: str) -> r.ServerStatus:
        found: r.ServerStatus = self.ask(host, r.ServerStatusRequest())
        return found

    def invite(self, host: str, uses: int) -> Invite:
        return parse_invite(self.ask(host, r.CreateInvite("lan", uses)).invite)


@contextmanager
def both(directory: Path, postgres: Postgres) -> Iterator[Both]:
    made = Both(directory, postgres.database(), free_port())
    try:
        yield made
    finally:
        for server in made.started:
            if server.process.poll() is None:
                server.end()
    for log in directory.glob("log*"):
        assert "Traceback" not in log.read_text(), log.read_text()


def only(invite: Invite, number: int) -> Invite:
    """The same invite, for whoever asks one of its mediators alone."""
    first, second = sorted(invite.mediators, key=lambda one: one.host)
    return Invite(invite.network, invite.token, ((first, second)[number % 2],))


def test_two_work_on_one_store_as_one(tmp_path: Path, postgres: Postgres) -> None:
    with both(tmp_path, postgres) as two:
        servers = {host: two.start(host) for host in (FIRST, SECOND)}
        for server in servers.values():
            server.says("listening")
            assert server.page("/readyz") == (200, "ok\n")

        invite = two.invite(FIRST, GUESTS)

        async def all_join() -> list[str]:
            asked = [admitted(10 + n, only(invite, n), "guest") for n in range(GUESTS)]
            return await asyncio.gather(*asked)

        names = asyncio.run(asyncio.wait_for(all_join(), 2 * BUSY_S))
        assert sorted(names) == sorted(["guest", *(f"guest-{n}" for n in range(2, GUESTS + 1))])
        wait_for(
            "both know all of them",
            lambda: all(len(two.members(host)) == GUESTS + 2 for host in two.sites),
        )
        shown = {host: {n: row.networks for n, row in two.members(host).items()} for host in (FIRST, SECOND)}
        assert shown[FIRST] == shown[SECOND]
        leased = Counter(address for row in shown[FIRST].values() for address in row["lan"])
        assert len(leased) == 2 * (GUESTS + 2), "IPv4 and IPv6"
        assert set(leased.values()) == {1}, "every lease is somebody's alone"
        ports = [two.status(host).relay_ports for host in (FIRST, SECOND)]
        assert ports[0] == ports[1]
        assert sorted(ports[0].values()) == ["ann", "bob"]

        revoked_and_approved(two)
        documents(two, servers)
        wandering(two)

        # One of them is killed: the other goes on, and the first comes back to what happened meanwhile.
        servers[FIRST].process.kill()
        servers[FIRST].process.wait()
        assert two.ask(SECOND, r.Revoke("guest-2")) == "guest-2"
        assert two.status(SECOND).store is None
        again = two.start(FIRST)
        again.says("listening")
        assert two.members(FIRST)["guest-2"].state == "revoked"


def revoked_and_approved(two: Both) -> None:
    """What one decides the other knows: at once for an operator, within seconds for members."""
    members = {"ann": ANN, "bob": BOB}
    two.save(members, *two.sites, approve="manual")
    wanted = two.document.digest
    wait_for("at both", lambda: all(two.status(host).document.digest == wanted for host in two.sites))
    waits = two.invite(SECOND, 1)
    assert asyncio.run(admitted(200, only(waits, 1), "late")) == "late"
    assert two.ask(FIRST, r.Approve("late")) == "late", "it has come to the other one"

    async def gone() -> None:
        async with Member(BOB, two.document.mediators[1]) as bob:
            await bob.view()
            await asyncio.to_thread(two.ask, FIRST, r.Revoke("bob"))
            assert "no member any more" in str((await bob.refused()).error)

    asyncio.run(asyncio.wait_for(gone(), BUSY_S))
    assert two.ask(SECOND, r.Restore("bob")) == "bob"


def documents(two: Both, servers: dict[str, Server]) -> None:
    """One saves it, the other takes it; a file that differs is said, and so is one that cannot be taken."""
    wider = {"ann": ANN, "bob": BOB, "carl": STRANGER}
    two.save(wider, SECOND)
    wait_for("the first takes it", lambda: "carl" in two.members(FIRST))
    assert two.status(SECOND).document.disagrees is None
    said = two.status(FIRST).document.disagrees
    assert said is not None
    assert "is not the document in force" in said
    two.save(wider, FIRST)
    wait_for("the files agree", lambda: two.status(FIRST).document.disagrees is None)
    with_both = two.sites[FIRST].document.read_text()
    without_first = json.loads(with_both)
    del without_first["mediators"][0], without_first["members"]["carl"]
    two.write(SECOND, json.dumps(without_first))
    wait_for("the first refuses it", lambda: two.status(FIRST).document.store_refused is not None)
    status, why = servers[FIRST].page("/readyz")
    assert (status, "identity" in why) == (503, True), why
    assert mediator_main(["status", "--state", str(two.sites[FIRST].state)]) == 1
    assert servers[SECOND].page("/readyz")[0] == 200
    assert ("carl" in two.members(FIRST), "carl" in two.members(SECOND)) == (True, False)
    two.write(SECOND, with_both)
    wait_for("the first takes it again", lambda: two.status(FIRST).document.store_refused is None)
    assert servers[FIRST].page("/readyz")[0] == 200


def wandering(two: Both) -> None:
    """A member that goes from one to the other never meets an older state, however soon it comes."""

    async def walk() -> None:
        mediators, hosts, here = two.document.mediators, (FIRST, SECOND), 0
        seen: list[int] = []
        async with Member(ANN, mediators[0]) as ann:
            for turn in range(MOVES):
                name = f"guest-{turn + 3}"
                while not ann.heard.empty():
                    ann.heard.get_nowait()
                ann.client.set_mediators((mediators[here],))
                await ann.view()
                await asyncio.to_thread(two.ask, hosts[here], r.Revoke(name))
                changed = await ann.view(lambda one, name=name: name not in names(one))  # type: ignore[misc]
                ann.client.kept = changed.kept  # as the agent does
                seen.append(changed.view.generation)
                here = 1 - here  # and off at once, before that one has asked the store again
            while not ann.states.empty():
                assert "older view" not in str(ann.states.get_nowait().error)
        assert seen == sorted(seen)

    asyncio.run(asyncio.wait_for(walk(), 2 * BUSY_S))


def names(changed: ViewChanged) -> set[str]:
    return {member.name for member in changed.view.members.values()}


def test_a_file_that_changed_while_its_mediator_was_down_counts_and_an_old_one_does_not(
    tmp_path: Path, postgres: Postgres
) -> None:
    with both(tmp_path, postgres) as two:
        for host in (FIRST, SECOND):
            two.start(host).says("listening")
        two.save({"ann": ANN, "bob": BOB, "carl": STRANGER}, FIRST)
        wait_for("the second takes it", lambda: "carl" in two.members(SECOND))
        for server in two.started:
            assert server.end() == 0
        # The second's file is older than what is in force, and has not changed since.
        two.start(SECOND).says("listening")
        assert "carl" in two.members(SECOND)
        assert two.status(SECOND).document.disagrees is not None
        assert two.started[-1].end() == 0
        two.save({"ann": ANN, "bob": STRANGER}, SECOND)
        two.start(SECOND).says("listening")
        wait_for("it counts", lambda: "carl" not in two.members(SECOND))
        # A machine that never worked with the store brings it no document of its own.
        shutil.rmtree(two.sites[FIRST].state / "offered", ignore_errors=True)
        (two.sites[FIRST].state / "offered").unlink(missing_ok=True)
        two.start(FIRST).says("listening")
        assert "carl" not in two.members(FIRST)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "give --store too"),
        (["--store", "postgresql://u@db.invalid/n", "--standby"], "give one of them"),
    ],
)
def test_what_makes_no_cluster_is_said(
    site: Site, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    where = ["--state", str(site.state), "--document", str(site.document)]
    assert mediator_main(["serve", "--cluster", *where, *more]) == 1
    assert words in capsys.readouterr().err
