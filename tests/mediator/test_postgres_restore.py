"""Back-up and restore of a store in PostgreSQL, by the commands of docs/scaling.md."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
from pathlib import Path

from netctl.agent.mediators.enrolclient import enrol
from netctl.session import ViewChanged
from netctl.wire import operatorrequests as r
from tests.mediator.loopbackkit import ANN, BOB, Member
from tests.mediator.postgreskit import Postgres, programs
from tests.mediator.test_cluster_history import key_pair
from tests.mediator.test_standby import FIRST, SECOND
from tests.mediator.test_two_mediators import both, only
from tests.support.patience import wait_for

PAGE = Path(__file__).parents[2] / "docs/scaling.md"
DSN = "postgresql://netctl@db1.example.org,db2.example.org/netctl"


def documented(program: str, dsn: str, file: Path) -> list[str]:
    """The command of the page, with another server and file."""
    section = PAGE.read_text().partition("\n## Back-up and restore")[2].partition("\n## ")[0]
    (line,) = re.findall(rf"^{program} .*$", section, re.MULTILINE)
    assert DSN in line
    name, *words = shlex.split(line.replace(DSN, dsn).replace("netctl.dump", str(file)))
    there = programs()
    assert there is not None
    return [str(there / name), *words]


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stderr


def test_members_take_an_older_state_that_was_put_back_and_what_came_since_is_undone(
    tmp_path: Path, postgres: Postgres
) -> None:
    dump = tmp_path / "netctl.dump"

    async def story() -> None:
        with both(tmp_path, postgres) as two:
            servers = {host: two.start(host) for host in (FIRST, SECOND)}
            for server in servers.values():
                await asyncio.to_thread(server.says, "listening")
            invite = two.invite(FIRST, 3)
            assert (await enrol(key_pair(1), only(invite, 0), "early", exact=False)).name == "early"
            assert (await enrol(key_pair(2), only(invite, 1), "gone", exact=False)).name == "gone"
            await asyncio.to_thread(run, *documented("pg_dump", two.dsn, dump))

            first, second = two.document.mediators
            assert (await enrol(key_pair(3), only(invite, 0), "late", exact=False)).name == "late"
            await asyncio.to_thread(two.ask, FIRST, r.Revoke("gone"))
            ann = Member(ANN, first)
            async with ann:
                before = await ann.view(lambda changed: "late" in names(changed))
            for server in servers.values():
                await asyncio.to_thread(server.end)
            await asyncio.to_thread(run, *documented("pg_restore", two.dsn, dump))
            for host in servers:
                servers[host] = two.start(host)
            for server in servers.values():
                await asyncio.to_thread(server.says, "listening")
                assert server.page("/readyz")[0] == 200
            for entry in (first, second):
                again = Member(ANN, entry)
                again.client.kept = before.kept
                async with again:
                    after = (await again.view(lambda changed: "gone" in names(changed))).view
                assert after.generation > before.view.generation
                assert "late" not in {member.name for member in after.members.values()}
            for host in servers:
                wait_for("both show it", lambda: {"early", "gone"} <= two.members(host).keys())  # noqa: B023
                assert "late" not in two.members(host)
            assert (await enrol(key_pair(4), only(invite, 1), "new", exact=False)).name == "new"
            async with Member(BOB, second) as bob:
                await bob.view(lambda changed: "new" in names(changed))

    asyncio.run(story())


def names(changed: ViewChanged) -> set[str]:
    return {member.name for member in changed.view.members.values()}
