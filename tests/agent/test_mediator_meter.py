"""Round trips to several mediators, by real datagrams on loopback: who answers, who does not, and who lies."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import cast

from netctl.agent.log import warn
from netctl.agent.mediators.mediatormeter import MediatorMeter
from netctl.model.addresses import SocketAddress
from netctl.model.document import Mediator
from netctl.model.keys import IdentityKey
from netctl.session.mediatorchoice import name_of
from netctl.system.guard import Guard
from netctl.wire import stun
from tests.support.patience import BUSY_S

HOST = "127.0.0.1"
Answer = Callable[[bytes, SocketAddress], list[bytes]]


class _Server(asyncio.DatagramProtocol):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        for answer in self._answer(data, SocketAddress.of(*addr[:2])):
            self._transport.sendto(answer, addr)


def honest(data: bytes, source: SocketAddress) -> list[bytes]:
    answer = stun.respond(data, source)
    return [answer] if answer is not None else []


def garbage(data: bytes, source: SocketAddress) -> list[bytes]:
    return [b"", b"\x01" * 20, data, honest(data, source)[0][:-4] + b"\0\0\0\0", *([b"\xff" * 1400] * 3)]


@asynccontextmanager
async def answering(name: str, answer: Answer) -> AsyncIterator[tuple[Mediator, _Server]]:
    server = _Server(answer)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=(HOST, 0)
    )
    try:
        yield (
            Mediator(
                HOST,
                ord(name),
                (IdentityKey(name.encode() * 32),),
                stun=(transport.get_extra_info("sockname")[1],),
            ),
            server,
        )
    finally:
        transport.close()


class Heard:
    def __init__(self) -> None:
        self.told: dict[str, int] = {}
        self.spread: set[str] = set()
        self.news = asyncio.Event()
        self.guard = Guard(warn)
        self.meter = MediatorMeter(self.hear, self.guard)

    def hear(self, rtt_ms: Mapping[str, int], spread: Collection[str]) -> None:
        self.told, self.spread = dict(rtt_ms), set(spread)
        self.news.set()

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(BUSY_S):
            while not wanted():
                self.news.clear()
                await self.news.wait()


def test_each_mediator_that_answers_is_measured_and_one_that_is_silent_or_lies_is_not() -> None:
    async def main() -> None:
        heard = Heard()
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        silent.bind((HOST, 0))
        dead = Mediator(HOST, 1, (IdentityKey(b"x" * 32),), stun=(silent.getsockname()[1],))
        nowhere = Mediator("no-such-host.invalid", 2, (IdentityKey(b"y" * 32),))
        with contextlib.closing(silent):
            async with answering("a", honest) as (one, server), answering("b", garbage) as (liar, liars):
                heard.meter.use((one, dead, liar, nowhere))
                await heard.until(lambda: name_of(one) in heard.told)
                async with asyncio.timeout(BUSY_S):
                    while server.asked < 3 or liars.asked < 3:
                        await asyncio.sleep(0)
                assert heard.told.keys() == {name_of(one)}
                assert heard.guard.dropped == 0
                heard.meter.close()

    asyncio.run(main())


def test_the_first_connection_waits_only_until_all_have_answered_and_never_for_long() -> None:
    async def main() -> None:
        heard = Heard()
        await heard.meter.first()  # there is nothing to measure
        async with answering("a", honest) as (one, _), answering("b", honest) as (two, _):
            heard.meter.use((one, two))
            await heard.meter.first()
            began = time.monotonic()
            await heard.meter.first()
            assert time.monotonic() - began < BUSY_S
            heard.meter.use(())
            assert heard.told == {}

    asyncio.run(main())


def test_another_list_and_a_change_of_the_network_measure_again_and_forget_who_does_not_answer() -> None:
    async def main() -> None:
        heard = Heard()
        async with answering("b", honest) as (two, _):
            async with answering("a", honest) as (one, _):
                heard.meter.use((one,))
                await heard.until(lambda: name_of(one) in heard.told)
                heard.meter.use((one, two))
                await heard.until(lambda: heard.told.keys() == {name_of(one), name_of(two)})
            heard.meter.network_changed()
            await heard.until(lambda: heard.told.keys() == {name_of(two)})
        heard.meter.close()

    asyncio.run(main())
