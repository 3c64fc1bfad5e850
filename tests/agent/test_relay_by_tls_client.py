"""The agent's connection to the relay over TLS, against the real relay on loopback; straight and through a proxy."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core.relay_grants import grant
from mediator.core.relay_table import RelayTable
from mediator.shell.credentials import Identity
from mediator.shell.relayserver import RelayServer
from netctl.agent.mediators.proxy import Proxy, proxy_for
from netctl.agent.transport.relaytls import RelayTls
from netctl.model.addresses import SocketAddress
from netctl.model.document import Mediator
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey
from netctl.paths.relaylink import stand_in
from netctl.session import PROOF_S
from netctl.wire import relay
from netctl.wire.relayframe import RELAY_ALPN, frame
from tests.support.connectproxy import ConnectProxy
from tests.support.freeports import free_port, free_ports
from tests.support.patience import BUSY_S
from tests.support.relaydoor import ListeningDoor

HOST = "127.0.0.1"
SECRET = bytes(range(32))
PORTS = free_ports(2)
ANN, BOB = PORTS
PATIENCE_S = BUSY_S
PIECES = 10
"""Of a slow answer: several within the time of a proof."""


@dataclass
class Site:
    """A relay that can be stopped and started again at its port."""

    identity: Identity
    port: int = 0
    server: RelayServer | None = None
    door: ListeningDoor | None = None
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.server = RelayServer(HOST, PORTS, RelayTable(SECRET, secrets.token_bytes(32), PORTS))
        self.door = ListeningDoor(self.server, self.identity.server_context(RELAY_ALPN))
        self.port = self.door.listen(HOST, self.port)
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()

    def stop(self) -> None:
        if self.server is None:
            return
        assert self.thread is not None
        assert self.door is not None
        self.server.stop()
        self.thread.join()
        self.door.close()
        self.server.close()
        self.server = None

    @property
    def mediator(self) -> Mediator:
        return Mediator(HOST, self.port, (self.identity.public,))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(Identity.create(tmp_path), free_port())
    site.start()
    yield site
    site.stop()


@dataclass
class Member:
    """The agent's side, and what it was told."""

    states: asyncio.Queue[bool] = field(default_factory=asyncio.Queue)
    messages: asyncio.Queue[tuple[int, bytes]] = field(default_factory=asyncio.Queue)
    leads_to: str = ""
    """The relay of the last news about the connection."""

    def __post_init__(self) -> None:
        self.tls = RelayTls(self._state, lambda port, data: self.messages.put_nowait((port, data)))

    def _state(self, up: bool, relay: str) -> None:
        self.states.put_nowait(up)
        self.leads_to = relay

    async def bind(self) -> None:
        allocation = relay.Allocation(ANN, BOB, int(time.time()) + 3600)
        key = bytes.fromhex(grant(SECRET, ANN, BOB, allocation.expires_s).key)
        self.tls.send(BOB, relay.seal(relay.Bind(allocation, b"12345678"), key))
        port, data = await self.messages.get()
        cookie = relay.open_message(data, key)
        assert isinstance(cookie, relay.Cookie)
        assert port == BOB
        self.tls.send(BOB, relay.seal(relay.Confirm(allocation, b"abcdefgh", cookie.cookie), key))
        assert isinstance(relay.open_message((await self.messages.get())[1], key), relay.Bound)


@asynccontextmanager
async def member(mediator: Mediator) -> AsyncIterator[Member]:
    found = Member()
    found.tls.use((mediator,))
    found.tls.want(True)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield found
    finally:
        found.tls.close()


def udp() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(PATIENCE_S)
    opened.bind((HOST, 0))
    return opened


def bind_by_udp(sock: socket.socket) -> None:
    allocation = relay.Allocation(BOB, ANN, int(time.time()) + 3600)
    key = bytes.fromhex(grant(SECRET, BOB, ANN, allocation.expires_s).key)
    sock.sendto(relay.seal(relay.Bind(allocation, b"12345678"), key), (HOST, ANN))
    cookie = relay.open_message(sock.recv(2048), key)
    assert isinstance(cookie, relay.Cookie)
    sock.sendto(relay.seal(relay.Confirm(allocation, b"abcdefgh", cookie.cookie), key), (HOST, ANN))
    sock.recv(2048)


async def state(member: Member, wanted: str) -> None:
    while member.tls.status().state != wanted:
        await asyncio.sleep(0.01)


def test_an_engine_that_knows_datagrams_alone_reaches_its_peer(site: Site) -> None:
    address = stand_in(relay.Allocation(ANN, BOB, 0))
    assert address == SocketAddress(f"127.{ANN >> 8}.{ANN & 255}.1", BOB)

    async def main() -> None:
        async with member(site.mediator) as ann:
            assert await ann.states.get()
            with udp() as engine, udp() as bob, udp() as other:
                ann.tls.engine(engine.getsockname()[1])
                ann.tls.stand_in(address, True)
                await ann.bind()
                await asyncio.to_thread(bind_by_udp, bob)
                message = b"\x04\0\0\0" + bytes(28)
                other.sendto(b"\x04\0\0\0" + b"x" * 28, (address.host, address.port))
                engine.sendto(message, (address.host, address.port))
                got, source = await asyncio.to_thread(bob.recvfrom, 2048)
                assert (got, source) == (message, (HOST, ANN)), "and nothing of another program's"
                answer = b"\x04\0\0\0" + bytes(1400)
                bob.sendto(answer, (HOST, ANN))
                got, source = await asyncio.to_thread(engine.recvfrom, 2048)
                assert (got, source) == (answer, (address.host, address.port))

    asyncio.run(main())


def test_a_relay_apart_is_taken_where_the_mediators_is_not_there(site: Site, tmp_path: Path) -> None:
    """And first of all while the control connection is lost, perhaps with the mediator's whole machine."""
    apart = Mediator(HOST, 1, site.mediator.identity, tls=(site.port,), relay_only=True)

    async def main() -> None:
        nobody = replace(site.mediator, identity=(Identity.create(tmp_path / "other").public,))
        async with member(nobody) as ann:
            ann.tls.also((apart,))
            assert await ann.states.get()
            assert ann.leads_to == str(apart.identity[0])
            await ann.bind()
            ann.tls.also(())
            assert not await ann.states.get(), "the document names it no more"
        async with member(site.mediator) as ann:
            assert await ann.states.get()
            assert ann.leads_to == "", "the mediator's comes first"
            ann.tls.also((apart,))
            beside = (site.mediator, site.port)
            assert ann.tls._places() == [beside, (apart, site.port)]
            ann.tls.mediator_gone()
            assert ann.tls._places() == [(apart, site.port), beside]
            assert ann.tls._next_place == 0, "the next one is the first of these"
            assert ann.states.empty(), "a connection that stands goes on"
            ann.tls.use((site.mediator,))
            assert ann.tls._places() == [beside, (apart, site.port)]

    asyncio.run(main())


def test_no_other_program_can_take_a_stand_in(site: Site) -> None:
    """With SO_REUSEADDR any user could receive in its place."""
    address = stand_in(relay.Allocation(ANN, BOB, 0))

    async def main() -> None:
        ann = Member()
        ann.tls.engine(7)
        ann.tls.stand_in(address, True)
        assert ann.tls._peers, "it is open"
        with udp() as thief, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            assert thief
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind((address.host, address.port))
        ann.tls.close()

    asyncio.run(main())


def test_a_slow_answer_after_a_change_of_routes_is_waited_for_while_bytes_arrive(site: Site) -> None:
    """Then silence ends the connection."""
    slow, silent = threading.Event(), threading.Event()
    with socket.create_server((HOST, 0)) as listening:
        mediator = replace(site.mediator, port=listening.getsockname()[1])

        def serve() -> None:
            raw, _ = listening.accept()
            with site.identity.server_context(RELAY_ALPN).wrap_socket(raw, server_side=True) as served:
                served.recv(2048)
                for _ in range(PIECES):
                    served.send(frame(BOB, b"\x04\0\0\0" + bytes(28)))
                    silent.wait(2 * PROOF_S / PIECES)
                slow.set()
                silent.wait(PATIENCE_S)

        thread = threading.Thread(target=serve)
        thread.start()

        async def main() -> None:
            async with member(mediator) as ann:
                assert await ann.states.get()
                ann.tls.prove()
                allocation = relay.Allocation(ANN, BOB, int(time.time()) + 3600)
                ann.tls.send(BOB, relay.seal(relay.Bind(allocation, b"12345678"), bytes(32)))
                await asyncio.to_thread(slow.wait, PATIENCE_S)
                assert ann.states.empty(), "two proofs long, something came"
                assert not await ann.states.get()
                assert "does not answer since" in str(ann.tls.status().error)

        asyncio.run(main())
        silent.set()
        thread.join()


def test_a_relay_that_restarts_is_found_again(site: Site) -> None:
    async def main() -> None:
        async with member(site.mediator) as ann:
            assert await ann.states.get()
            await asyncio.to_thread(site.stop)
            assert not await ann.states.get()
            await state(ann, "waiting")
            assert ann.tls.status().error is not None
            site.start()
            assert await ann.states.get()
            await ann.bind()
            ann.tls.close()
            assert not await ann.states.get()
            assert ann.tls.status().state == "unwanted"

    asyncio.run(main())


def test_a_connection_that_ends_while_it_is_full_leaves_nothing_behind(site: Site) -> None:
    """A number that the loop still waits for would be the next connection's, and that one would hang."""
    with socket.create_server((HOST, 0)) as listening:
        deaf = replace(site.mediator, port=listening.getsockname()[1])
        full = threading.Event()

        def serve() -> None:
            raw, _ = listening.accept()
            with site.identity.server_context(RELAY_ALPN).wrap_socket(raw, server_side=True):
                full.wait(PATIENCE_S)

        thread = threading.Thread(target=serve)
        thread.start()

        async def main() -> None:
            unseen: list[dict[str, object]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
            async with member(deaf) as ann:
                assert await ann.states.get()
                for _ in range(300):  # far more than the kernel takes for one who does not read
                    for _ in range(16):
                        ann.tls.send(BOB, bytes(16_000))
                    await asyncio.sleep(0)
                assert ann.tls.status().dropped > 1000
                full.set()
                assert not await ann.states.get()
                ann.tls.use((site.mediator,))
                assert await ann.states.get()
                await ann.bind()
            assert unseen == []

        asyncio.run(main())
        thread.join()


def test_another_identity_is_not_talked_to(site: Site) -> None:
    stranger = IdentityKey(Ed25519PrivateKey.generate().public_key().public_bytes_raw())

    async def main() -> None:
        async with member(replace(site.mediator, identity=(stranger,))) as ann:
            await state(ann, "waiting")
            assert "is not the relay of the mediator that the document pins" in str(ann.tls.status().error)
            assert ann.states.empty()

    asyncio.run(main())


def test_through_a_proxy_with_a_password(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        proxy = ConnectProxy("ann:s3c:ret")
        port = await proxy.start(HOST, 0)
        monkeypatch.setenv("https_proxy", f"http://ann:s3c%3Aret@{HOST}:{port}")
        async with member(site.mediator) as ann:
            assert await ann.states.get()
            assert ann.tls.status().proxy == f"{HOST}:{port}"
            await ann.bind()
        assert proxy.asked == [f"{HOST}:{site.port}"]
        await proxy.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "407 Proxy Authentication Required: put USER:PASSWORD@ into HTTPS_PROXY"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not connect to 127.0.0.1"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "is no HTTP proxy"),
        (b"HTTP/1.1 200 " + b"x" * 9000, "its answer has no end"),
        (b"HTTP/1.1 200", "hangs up"),
    ],
)
def test_a_proxy_that_says_no_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, said: str
) -> None:
    async def main() -> None:
        proxy = ConnectProxy("ann:secret", answer)
        port = await proxy.start(HOST, 0)
        monkeypatch.setenv("https_proxy", f"http://{HOST}:{port}")
        async with member(site.mediator) as ann:
            await state(ann, "waiting")
            assert said in str(ann.tls.status().error)
        await proxy.close()

    asyncio.run(main())


def test_which_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_for("mediator.example.net") is None
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example.net")
    assert proxy_for("mediator.example.net") == Proxy("proxy.example.net", 3128)
    monkeypatch.setenv("NO_PROXY", "example.net")
    assert proxy_for("mediator.example.net") is None
    assert proxy_for("10.0.0.1") is not None
    for text, said in (
        ("socks5://a:1", "of the kind 'socks5'"),
        ("http://a:port", "is no number"),
        ("http://", "no host"),
    ):
        monkeypatch.setenv("HTTPS_PROXY", text)
        with pytest.raises(LocalError, match=said):
            proxy_for("10.0.0.1")
    assert b"CONNECT [2001:db8::1]:8443 HTTP/1.1" in Proxy("p", 1).request("2001:db8::1", 8443)
