"""A TLS connection that OpenSSL reads and writes itself: slow readers, ends of all kinds, both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mediator.shell.credentials import ALPN, Identity
from mediator.shell.tlsstream import State, TlsStream, shake_hands
from tests.mediator.loopbackkit import Run, client_context


class Heard(asyncio.Protocol):
    """What a protocol is told."""

    def __init__(self) -> None:
        self.data = b""
        self.paused = 0
        self.resumed = asyncio.Event()
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def data_received(self, data: bytes) -> None:
        self.data += data

    def pause_writing(self) -> None:
        self.paused += 1
        self.resumed.clear()

    def resume_writing(self) -> None:
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


class Way:
    """Both ends of one connection; the client's blocks, and works in threads."""

    def __init__(
        self, stream: TlsStream, heard: Heard, client: ssl.SSLSocket, ending: set[TlsStream]
    ) -> None:
        self.stream, self.heard, self.client, self.ending = stream, heard, client, ending

    async def until(self, true: Callable[[], object]) -> None:
        while not true():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[Way]:
    context = Identity.create(directory).server_context(ALPN)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    made: list[ssl.SSLSocket] = []
    client = threading.Thread(target=lambda: made.append(client_context().wrap_socket(theirs)))
    client.start()
    tls = await shake_hands(ours, context)
    await asyncio.to_thread(client.join)
    heard, ending = Heard(), set[TlsStream]()
    stream = TlsStream(tls, heard, ending)
    stream.begin()
    try:
        yield Way(stream, heard, made[0], ending)
    finally:
        stream.abort()
        await heard.ended
        made[0].close()
        assert not ending


def read(client: ssl.SSLSocket, count: int) -> bytes:
    """So many bytes, or all until the end."""
    found = b""
    while len(found) < count and (more := client.recv(65536)):
        found += more
    return found


def test_a_slow_reader_gets_everything_in_order(run: Run, tmp_path: Path) -> None:
    wanted = random.Random(1).randbytes(3_000_000)

    async def main() -> None:
        async with connected(tmp_path / "s") as way:
            reading = asyncio.create_task(asyncio.to_thread(read, way.client, len(wanted)))
            for start in range(0, len(wanted), 16_384):
                if way.heard.paused and not way.heard.resumed.is_set():
                    await way.heard.resumed.wait()
                way.stream.write(wanted[start : start + 16_384])
            assert await reading == wanted
            assert way.heard.paused, "the kernel takes no three megabytes at once"
            assert way.stream.alpn == ALPN

    run(main())


def test_what_waits_for_a_slow_reader_is_sent_before_the_end(run: Run, tmp_path: Path) -> None:
    wanted = random.Random(2).randbytes(2_000_000)

    async def main() -> None:
        async with connected(tmp_path / "s") as way:
            way.stream.write(wanted)
            way.stream.write(b"last")
            assert way.heard.paused == 1
            way.stream.close()
            assert way.stream.state is State.FLUSHING
            way.stream.write(b"too late")
            assert await asyncio.to_thread(read, way.client, 10**9) == wanted + b"last"
            assert not way.heard.resumed.is_set(), "nothing may be written any more"
            way.client.close()
            assert await way.heard.ended is None

    run(main())


def test_the_last_words_reach_whoever_goes_on_sending(run: Run, tmp_path: Path) -> None:
    """A socket that is closed with unread bytes would reset the connection."""

    async def main() -> None:
        async with connected(tmp_path / "s") as way:
            way.stream.write(b"goodbye")
            await asyncio.to_thread(way.client.sendall, b"x" * 100_000)
            way.stream.close()
            assert way.stream.state is State.ENDING
            assert way.ending == {way.stream}
            await asyncio.to_thread(way.client.sendall, b"y" * 100_000)
            assert await asyncio.to_thread(read, way.client, 10**9) == b"goodbye"
            way.client.close()
            await way.heard.ended
            assert b"y" not in way.heard.data

    run(main())


def test_records_of_all_sizes_arrive(run: Run, tmp_path: Path) -> None:
    sent = [bytes([number]) * size for number, size in enumerate((1, 16_384, 5, 70_000, 200_000))]

    async def main() -> None:
        async with connected(tmp_path / "s") as way:
            for data in sent:
                await asyncio.to_thread(way.client.sendall, data)
            await way.until(lambda: len(way.heard.data) == sum(map(len, sent)))
            assert way.heard.data == b"".join(sent)

    run(main())


@pytest.mark.parametrize("how", ["in order", "cut", "garbage"])
def test_the_other_side_ends(run: Run, tmp_path: Path, how: str) -> None:
    async def main() -> None:
        async with connected(tmp_path / "s") as way:
            bare = socket.socket(fileno=way.client.detach() if how != "in order" else None)
            with bare:
                if how == "in order":
                    with contextlib.suppress(OSError):
                        await asyncio.to_thread(way.client.shutdown, socket.SHUT_RDWR)
                    way.client.close()
                elif how == "garbage":
                    bare.sendall(b"no record of TLS at all")
                    error = await way.heard.ended
                    assert isinstance(error, ssl.SSLError)
            await way.heard.ended
            way.stream.write(b"nobody")
            way.stream.close()
            assert way.stream.state is State.CLOSED

    run(main())


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["at once", "in a record"])
def test_a_client_that_closes_during_the_handshake_is_told_from_one_that_breaks_tls(
    run: Run, tmp_path: Path, begun: bytes
) -> None:
    """OpenSSL and Python have had three errors for it."""

    async def main() -> None:
        context = Identity.create(tmp_path / "s").server_context(ALPN)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.sendall(begun)
        theirs.close()
        with pytest.raises(EOFError):
            await shake_hands(ours, context)

    run(main())


def test_garbage_in_the_place_of_a_handshake_closes_the_socket(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        context = Identity.create(tmp_path / "s").server_context(ALPN)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ssl.SSLError):
                await shake_hands(ours, context)
            theirs.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                while theirs.recv(100):
                    pass
            hang, other = socket.socketpair()
            hang.setblocking(False)
            with other, pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await shake_hands(hang, context)

    run(main())
