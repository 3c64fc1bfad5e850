"""Two mediators in processes of their own, on one PostgreSQL and one bus: their members are one network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mediator.core.introducer import PUNCH_ACROSS_MS
from mediator.core.peers import SILENT_S
from mediator.shell.main import main as mediator_main
from netctl.agent.storage.keyfiles import Keys
from netctl.model.document import Mediator
from netctl.session import PathMessage
from netctl.wire import control as w
from tests.mediator.loopbackkit import ANN, BOB, STRANGER, Member
from tests.mediator.natskit import nats
from tests.mediator.postgreskit import Postgres
from tests.mediator.test_health_page import WITH_A_BUS, named, on_the_dashboard, samples
from tests.mediator.test_standby import FIRST, SECOND, Server
from tests.mediator.test_two_mediators import Both, both
from tests.support.patience import BUSY_S, wait_for

MEMBERS = {"ann": ANN, "bob": BOB, "carl": STRANGER}


@pytest.fixture(params=["postgres", "nats"])
def bus(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> Iterator[str]:
    if request.param == "postgres":
        yield postgres.database()
        return
    with nats(tmp_path / "nats.out") as server:
        yield f"nats://127.0.0.1:{server.port}"


def start(two: Both, host: str, bus: str) -> Server:
    log = two.directory / f"log{len(two.started)}"
    made = Server(two.sites[host], host, two.dsn, log, two.page, "--cluster", "--bus", bus)
    two.started.append(made)
    made.says("listening")
    return made


def others(two: Both, host: str) -> list[tuple[bool, bool, int]]:
    return [(one.alive, one.current, one.online) for one in two.status(host).mediators]


@asynccontextmanager
async def member(pair: Keys, *mediators: Mediator) -> AsyncIterator[Member]:
    made = Member(pair, mediators[0])
    made.client.set_mediators(mediators)
    async with made:
        yield made


async def until(check: object, what: str) -> None:
    await asyncio.to_thread(wait_for, what, check)  # type: ignore[arg-type]


@contextlib.contextmanager
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.setblocking(False)
        yield one


async def direct(one: Member, one_is: Keys, other: Member, other_is: Keys, number: int) -> None:
    """Both offer where they are, are introduced, and are told to start; then packets pass between them."""
    loop = asyncio.get_running_loop()
    ends = ((one, other_is), (other, one_is))
    with udp() as first, udp() as second:
        sockets = (first, second)
        for (each, peer), own in zip(ends, sockets, strict=True):
            here = w.Candidate("host", f"127.0.0.1:{own.getsockname()[1]}")
            each.client.send(w.Candidates(str(peer.wireguard), number, [here]))
        for (each, peer), own in zip(ends, sockets, strict=True):
            found: list[w.Introduction | w.Punch] = []
            while len(found) < 2:
                effect = await each.until(lambda effect: isinstance(effect, PathMessage))
                assert isinstance(effect, PathMessage)
                assert not isinstance(effect.message, w.RelayGrant)
                found.append(effect.message)
            introduction, punch = found
            assert isinstance(introduction, w.Introduction)
            assert (introduction.peer, introduction.round) == (str(peer.wireguard), number)
            assert punch == w.Punch(str(peer.wireguard), PUNCH_ACROSS_MS)
            host, _, port = introduction.candidates[0].address.rpartition(":")
            await loop.sock_sendto(own, b"punch", (host, int(port)))
        for own in sockets:
            assert await loop.sock_recv(own, 16) == b"punch"


def test_two_mediators_are_one_network_and_a_killed_one_leaves_its_members_to_be_checked(
    tmp_path: Path, postgres: Postgres, bus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def story(two: Both, servers: dict[str, Server]) -> None:
        first, second = two.document.mediators
        async with (
            member(BOB, second) as bob,
            member(ANN, first) as ann,
            member(STRANGER, first) as carl,
        ):
            for one, peer in ((bob, ANN), (bob, STRANGER), (ann, BOB), (carl, BOB)):
                await one.shown(peer, online=True)
            await until(lambda: others(two, SECOND) == [(True, True, 2)], "the second knows both")
            await until(lambda: others(two, FIRST) == [(True, True, 1)], "the first knows bob")
            while not ann.heard.empty():
                ann.heard.get_nowait()
            ann.client.set_mediators(
                (first, second)
            )  # back to the same one: a new agent would choose by chance
            await ann.view()
            await ann.shown(BOB, online=True)
            await until(lambda: others(two, SECOND) == [(True, True, 2)], "the second knows both again")
            await until(
                lambda: [one.name.split(":")[0] for one in two.status(SECOND).mediators] == [FIRST],
                "the second knows the first by name",
            )
            await direct(ann, ANN, bob, BOB, 1)

            while not ann.heard.empty():
                ann.heard.get_nowait()
            servers[FIRST].process.kill()
            await asyncio.to_thread(servers[FIRST].process.wait)
            await bob.shown(STRANGER, online=False)
            (row,) = (await asyncio.to_thread(two.status, SECOND)).mediators
            assert (row.alive, row.online >= 1) == (False, True), "nobody has said that carl went"
            assert row.silent_s >= SILENT_S
            metrics = (await asyncio.to_thread(servers[SECOND].page, "/metrics"))[1]
            now = samples(metrics)
            assert now["netctl_mediator_other_mediators_silent"] == 1
            assert now["netctl_mediator_bus_away"] == 0
            assert now["netctl_mediator_bus_seconds_count taken"] >= 1
            assert now["netctl_mediator_bus_messages_total"] >= now["netctl_mediator_bus_seconds_count taken"]
            wanted = {name for name in on_the_dashboard() if name.startswith(WITH_A_BUS)}
            assert len(wanted) > 4
            assert wanted <= named(metrics)
            await asyncio.to_thread(mediator_main, ["status", "--state", str(two.sites[SECOND].state)])
            assert f"mediator {FIRST}:" in capsys.readouterr().err
            await ann.view()  # where it has moved
            await ann.shown(BOB, online=True)
            await until(lambda: two.status(SECOND).online == 2, "ann has moved")

            if bus.startswith("nats"):
                return  # how the others take a new process does not depend on the bus
            servers[FIRST] = await asyncio.to_thread(start, two, FIRST, bus)
            await bob.shown(STRANGER, online=True)
            await carl.shown(ANN, online=True)
            await until(lambda: others(two, SECOND) == [(True, True, 1)], "it is one other mediator again")
            await direct(carl, STRANGER, ann, ANN, 2)
            for host in two.sites:
                status = await asyncio.to_thread(two.status, host)
                assert (status.bus_away, status.bus_dropped) == (None, 0)

    with both(tmp_path, postgres) as two:
        two.save(MEMBERS, *two.sites)
        servers = {host: start(two, host, bus) for host in (FIRST, SECOND)}
        asyncio.run(asyncio.wait_for(story(two, servers), 2 * BUSY_S))
