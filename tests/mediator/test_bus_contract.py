"""The contract of a bus, for all that there are: in one process, PostgreSQL, NATS."""

from __future__ import annotations

import asyncio
import base64
import gc
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
import uvloop

from mediator.core import busmessages as b
from mediator.core import peers as p
from mediator.core.effects import Publish
from mediator.shell.bus.busplace import open_bus
from mediator.shell.bus.localbus import LocalBus, Medium
from mediator.shell.bus.messagebus import MAX_QUEUE, Bus, channel_of
from mediator.shell.bus.natsbus import SUBJECTS, subject_of
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.system.guard import Guard
from tests.mediator.loopbackkit import Run, running_on
from tests.mediator.natskit import Nats, nats
from tests.mediator.postgreskit import Postgres, running
from tests.support.patience import BUSY_S

CHANNEL = channel_of("a store")
ONE, TWO = b"1" * b.RUN_LEN, b"2" * b.RUN_LEN
KEY = WireGuardKey(b"k" * 32)


class Server(Protocol):
    """What carries the messages."""

    def bus(self) -> Bus: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...
    def signal(self, number: signal.Signals) -> None: ...
    def inject(self, channel: str, payload: bytes) -> None: ...


class InProcess:
    def __init__(self) -> None:
        self.medium = Medium()

    def bus(self) -> Bus:
        return LocalBus(self.medium)

    def kill(self) -> None:
        self.medium.stop()

    def restart(self) -> None:
        self.medium.up = True

    def signal(self, number: signal.Signals) -> None:
        raise NotImplementedError

    def inject(self, channel: str, payload: bytes) -> None:
        self.medium.inject(channel, payload)


class OverPostgres:
    def __init__(self, server: Postgres) -> None:
        self.server, self.dsn = server, server.database()

    def bus(self) -> Bus:
        return open_bus(self.dsn, None)

    def kill(self) -> None:
        self.server.kill()

    def restart(self) -> None:
        self.server.start()

    def signal(self, number: signal.Signals) -> None:
        self.server.signal(number)

    def inject(self, channel: str, payload: bytes) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as one:
            one.execute("SELECT pg_notify(%s, %s)", (channel, base64.b64encode(payload).decode()[:7_999]))
            if payload == b"":
                one.execute("SELECT pg_notify(%s, %s)", (channel, "no base64 at all: ä"))


class OverNats:
    def __init__(self, server: Nats) -> None:
        self.server = server

    def bus(self) -> Bus:
        return open_bus(f"nats://127.0.0.1:{self.server.port}", None)

    def kill(self) -> None:
        self.server.kill()

    def restart(self) -> None:
        self.server.start()

    def signal(self, number: signal.Signals) -> None:
        self.server.signal(number)

    def inject(self, channel: str, payload: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as one:
            one.sendall(
                b"CONNECT {}\r\nPUB %s %d\r\n%s\r\nPING\r\n"
                % (subject_of(channel).encode(), len(payload), payload)
            )
            answer = b""
            while b"PONG" not in answer:
                answer += one.recv(4096)


@pytest.fixture
def run() -> Iterator[Run]:
    """On the loop that a mediator has; one is enough here."""
    with running_on(uvloop.new_event_loop) as until_done:
        yield until_done


REAL = pytest.mark.parametrize("server", ["postgres", "nats"], indirect=True)


@pytest.fixture(params=["process", "postgres", "nats"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    match request.param:
        case "process":
            yield InProcess()
        case "postgres":
            with running() as one:
                yield OverPostgres(one)
        case _:
            with nats(tmp_path / "log") as other:
                yield OverNats(other)


class End:
    """A bus, and what came by it."""

    def __init__(self, bus: Bus, guard: Guard) -> None:
        self.bus, self.guard = bus, guard
        self.heard: list[b.Message] = []


async def until(what: str, found: Callable[[], bool]) -> None:
    end = time.monotonic() + BUSY_S
    while not found():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


@asynccontextmanager
async def ends(server: Server, number: int, channel: str = CHANNEL) -> AsyncIterator[list[End]]:
    said: list[str] = []
    made = [End(server.bus(), Guard(said.append)) for _ in range(number)]
    for end in made:
        end.bus.start(channel, end.heard.append, end.guard)
    try:
        for end in made:
            await until("the bus works", lambda end=end: end.bus.away is None)  # type: ignore[misc]
        yield made
    finally:
        for end in made:
            await end.bus.close()
        assert [line for line in said if "deliberate" not in line] == []


def changed(number: int, run: bytes = ONE) -> b.Changed:
    return b.Changed(run, number, number)


def test_a_message_comes_to_all_others_in_order_and_not_to_its_sender(server: Server, run: Run) -> None:
    async def main() -> None:
        async with ends(server, 3) as (one, two, three), ends(server, 1, channel_of("another")) as (other,):
            sent = [changed(number) for number in range(300)]
            for message in sent:
                one.bus.publish(message)
            await until("all came", lambda: len(two.heard) == len(three.heard) == 300)
            two.bus.publish(changed(1, TWO))
            await until("an answer", lambda: bool(one.heard))
            assert two.heard == three.heard[:300] == sent
            assert one.heard == [changed(1, TWO)]
            assert other.heard == [], "another store's mediators meet elsewhere"

    run(main())


def test_the_longest_message_and_every_kind_come_as_they_were_sent(server: Server, run: Run) -> None:
    rows = b.pack((KEY, b.MAX_NUMBER, True) for _ in range(b.MAX_ROWS))
    sent: list[b.Message] = [
        b.Beat(ONE, 1, b.MAX_NUMBER, "ü" * b.MAX_NAME, 5),
        b.Presence(ONE, b.MAX_NUMBER, rows),
        b.Ask(ONE, 1, TWO),
        b.Everybody(ONE, 1, 0, 1, rows),
        b.LoginAsked(ONE, 1, TWO, 1, KEY.raw, b"p" * 32, "192.0.2.1:5"),
        b.Held(ONE, 1, TWO, 1, True, "192.0.2.1:5"),
        b.Carry(ONE, 1, TWO, KEY.raw, KEY.raw, bytes(b.MAX_MESSAGE - 300)),
    ]

    async def main() -> None:
        async with ends(server, 2) as (one, two):
            for message in sent:
                one.bus.publish(message)
            await until("all came", lambda: len(two.heard) == len(sent))
            assert two.heard == sent

    run(main())


def test_how_long_the_server_took_is_told_for_each_batch(server: Server, run: Run) -> None:
    async def main() -> None:
        async with ends(server, 2) as (one, two):
            told: list[tuple[float, int, bool]] = []
            one.bus.took = lambda *answer: told.append(answer)
            for number in range(300):
                one.bus.publish(changed(number))
            await until("all came", lambda: len(two.heard) == 300)
            await until("all are told", lambda: sum(count for _, count, _ in told) == 300)
            assert all(seconds >= 0 and taken for seconds, _, taken in told)

    run(main())


def test_garbage_is_counted_and_dropped_and_what_follows_comes(server: Server, run: Run) -> None:
    rubbish = [b"", b"\0", b"hello", b.VERSION + b"\xff" * 50, b"\x63" + b.encode(changed(1))[1:]]
    rubbish += [b"x" * 5_990, b.encode(changed(1))[:-1], b.encode(changed(1)) + b"more"]

    async def main() -> None:
        async with ends(server, 2) as (one, two):
            for payload in rubbish:
                await asyncio.to_thread(server.inject, CHANNEL, payload) if not isinstance(
                    server, InProcess
                ) else server.inject(CHANNEL, payload)
            one.bus.publish(changed(9))
            await until("the good one came", lambda: changed(9) in two.heard)
            await until("all were counted", lambda: two.bus.dropped >= len(rubbish))
            assert two.heard == [changed(9)]
            assert two.guard.dropped == 0

    run(main())


def test_what_a_listener_raises_ends_nothing(server: Server, run: Run) -> None:
    async def main() -> None:
        async with ends(server, 2) as (one, two):

            def raises(message: b.Message) -> None:
                two.heard.append(message)
                raise RuntimeError("deliberate")

            two.bus._heard = raises
            one.bus.publish(changed(1))
            one.bus.publish(changed(2))
            await until("both came", lambda: len(two.heard) == 2)
            assert two.guard.dropped == 2

    run(main())


def test_a_server_that_is_killed_is_found_again_and_the_gap_is_seen(server: Server, run: Run) -> None:
    """And nothing that was said meanwhile comes later: who has missed something asks for it."""

    async def main() -> None:
        async with ends(server, 2) as (one, two):
            first, second = p.Peers(), p.Peers()
            first.begin(ONE, "m1", 0.0)
            second.begin(TWO, "m2", 0.0)

            def turn(now: float) -> None:
                for peers, end in ((first, one), (second, two)):
                    events = [event for message in end.heard for event in peers.received(message, now)]
                    end.heard.clear()
                    for event in [*events, *peers.handle_timer(now)]:
                        if isinstance(event, Publish):
                            end.bus.publish(event.message)

            async def turns(what: str, now: float, found: Callable[[], bool]) -> float:
                end = time.monotonic() + BUSY_S
                while not found():
                    assert time.monotonic() < end, what
                    now += 0.25
                    turn(now)
                    await asyncio.sleep(0.02)
                return now

            now = await turns("they know each other", 0.0, lambda: bool(second.rows(0) and first.rows(0)))
            await asyncio.to_thread(server.kill) if not isinstance(server, InProcess) else server.kill()
            await until("it is missed", lambda: one.bus.away is not None and two.bus.away is not None)
            assert one.bus.name in str(one.bus.away)
            first.came(KEY, first.next_epoch(0))
            turn(now + 0.1)
            turn(now + 0.2)
            assert one.bus.lost > 0
            await asyncio.to_thread(server.restart) if not isinstance(server, InProcess) else server.restart()
            await until("it is back", lambda: one.bus.away is None and two.bus.away is None)
            await turns("the gap is filled", now, lambda: second.here == {KEY: ONE})

    run(main())


def test_a_server_that_takes_nothing_costs_a_bounded_queue(server: Server, run: Run) -> None:
    async def main() -> None:
        async with ends(server, 2) as (one, two):
            for number in range(MAX_QUEUE + 500):  # the loop has no turn in between
                one.bus.publish(changed(number))
            assert one.bus.lost == 500
            await until("the rest came", lambda: len(two.heard) == MAX_QUEUE)

    run(main())


@REAL
@pytest.mark.parametrize("loaded", [False, True])
def test_a_server_that_stands_still_is_missed_and_found_again(server: Server, run: Run, loaded: bool) -> None:
    """As one whose machine is gone without a word: whoever waits for it never goes to another server."""
    longest = b.Carry(ONE, 1, TWO, KEY.raw, KEY.raw, bytes(b.MAX_FRAME))

    async def main() -> None:
        async with ends(server, 2) as (one, two):
            server.signal(signal.SIGSTOP)
            try:
                for _ in range(MAX_QUEUE if loaded else 1):
                    one.bus.publish(longest)
                await until("it is missed", lambda: one.bus.away is not None)
            finally:
                server.signal(signal.SIGCONT)
            await until("it is found again", lambda: one.bus.away is None and two.bus.away is None)

            def came() -> bool:
                one.bus.publish(changed(7))
                return changed(7) in two.heard

            await until("messages pass again", came)
            gc.collect()  # a task that nobody holds and that is not over is a fault of the loop's
            await asyncio.sleep(0)

    run(main())


class Slow(Bus):
    """Takes its time for each message, and raises what its library should not."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.sent: list[bytes] = []
        self.away_at_start: list[str | None] = []
        self.broken = False

    async def _serve(self) -> None:
        self.away_at_start.append(self.away)
        self._works()
        while True:
            for payload in await self._batch():
                if self.broken:
                    self.broken = False
                    raise RuntimeError("deliberate")
                await asyncio.sleep(0.05)
                self.sent.append(payload)


def test_the_last_message_goes_out_before_the_end(run: Run) -> None:
    async def main() -> None:
        bus = Slow()
        bus.start(CHANNEL, lambda message: None, Guard(print))
        await until("it works", lambda: bus.away is None)
        bus.publish(changed(1))
        await bus.close()
        assert bus.sent == [b.encode(changed(1))]

    run(main())


def test_whatever_the_library_raises_the_bus_is_away_and_tried_again(run: Run) -> None:
    async def main() -> None:
        said: list[str] = []
        bus = Slow()
        bus.broken = True
        bus.start(CHANNEL, lambda message: None, Guard(said.append))
        await until("it works", lambda: bus.away is None)
        bus.publish(changed(1))
        await until("it is tried again", lambda: len(bus.away_at_start) == 2)
        await bus.close()
        assert "RuntimeError" in str(bus.away_at_start[1])
        assert any("deliberate" in line for line in said)

    run(main())


def test_a_server_that_is_not_there_is_said_and_waited_for(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        with nats(tmp_path / "log") as server:
            server.kill()
            bus = open_bus(f"nats://127.0.0.1:{server.port}", None)
            bus.start(CHANNEL, lambda message: None, Guard(print))
            try:
                await until("a try", lambda: "refused" in str(bus.away) or "connect" in str(bus.away).lower())
                bus.publish(changed(1))
                assert bus.lost == 1
                await asyncio.to_thread(server.start)
                await until("it works", lambda: bus.away is None)
            finally:
                await bus.close()

    run(main())


def test_a_password_opens_nats_and_is_said_nowhere(tmp_path: Path, run: Run) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("other\n")

    async def main() -> None:
        with nats(tmp_path / "log", "--user", "amy", "--pass", "s3cret") as server:
            address = f"nats://amy@127.0.0.1:{server.port}"
            for file, works in ((secret, True), (wrong, False)):
                bus = open_bus(address, file)
                assert "amy" not in bus.name
                bus.start(CHANNEL, lambda message: None, Guard(print))
                try:
                    await until("a word", lambda: bus.away is None or "uthoriz" in bus.away)  # noqa: B023
                    assert (bus.away is None) is works
                    assert "s3cret" not in repr(vars(bus)) if works else "other" not in str(bus.away)
                finally:
                    await bus.close()

    run(main())


def test_a_user_of_nats_needs_no_more_than_the_documentation_says(tmp_path: Path, run: Run) -> None:
    """With more, it could read and write what other programs of the same server say."""
    page = Path(__file__).parents[2] / "docs/scaling.md"
    assert f"publish and subscribe on `{SUBJECTS}`" in page.read_text()
    (tmp_path / "nats.conf").write_text(
        "authorization: {users: [{user: netctl, password: one, permissions: "
        f'{{publish: "{SUBJECTS}", subscribe: "{SUBJECTS}"}}}}]}}\n'
    )
    (tmp_path / "password").write_text("one\n")

    async def main() -> None:
        with nats(tmp_path / "log", "--config", str(tmp_path / "nats.conf")) as server:
            both = [
                End(open_bus(f"nats://netctl@127.0.0.1:{server.port}", tmp_path / "password"), Guard(print))
                for _ in range(2)
            ]
            for end in both:
                end.bus.start(CHANNEL, end.heard.append, end.guard)
            try:
                for end in both:
                    await until("the bus works", lambda end=end: end.bus.away is None)  # type: ignore[misc]
                both[0].bus.publish(changed(1))
                await until("it came", lambda: both[1].heard == [changed(1)])
                assert [end.bus.away for end in both] == [None, None]
            finally:
                for end in both:
                    await end.bus.close()

    run(main())


def test_where_tls_is_wanted_a_server_without_it_hears_no_password(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    heard: list[bytes] = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.9","max_payload":1048576,"auth_required":true}\r\n')
        await writer.drain()
        heard.append(await reader.read())
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        bus = open_bus(f"nats://amy@127.0.0.1:{port}?tls=on", secret)
        bus.start(CHANNEL, lambda message: None, Guard(print))
        try:
            await until("it is said", lambda: "no TLS" in str(bus.away))
            await until("the server has heard the end", lambda: bool(heard))
        finally:
            await bus.close()
            server.close()
        assert b"".join(heard) == b""

    run(main())


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1", "say nats://"),
        ("nats://", "not understood"),
        ("nats://amy:pw@127.0.0.1", "--bus-password-file"),
        ("nats://127.0.0.1:99999", "not understood"),
        ("nats://127.0.0.1/path", "not understood"),
        ("nats://127.0.0.1?what=1", "not understood"),
        ("nats://127.0.0.1?tls=maybe", "on or off"),
        ("nats://127.0.0.1?tlsca=/nonexistent", "cannot read the bus's authority"),
        ("postgresql://amy:pw@/db", "--bus-password-file"),
        ("postgresql://amy@127.0.0.1", "the bus's address names no database"),
    ],
)
def test_a_bad_address_is_said(address: str, words: str) -> None:
    with pytest.raises(LocalError, match=words) as caught:
        open_bus(address, None)
    assert "pw" not in str(caught.value).replace("password", "")


def test_over_a_network_nats_is_asked_for_tls_unless_told_otherwise() -> None:
    for address, tls in (
        ("nats://198.51.100.1", True),
        ("nats://198.51.100.1?tls=off", False),
        ("nats://127.0.0.1,198.51.100.1", True),
        ("nats://[::1]:4333,127.0.0.1", False),
    ):
        bus = open_bus(address, None)
        assert (bus._place.tls is not None) is tls  # type: ignore[attr-defined]
