"""The mediator's TCP port serves two protocols: who asks for the relay is passed on to the relay's process."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from mediator.core.relay_table import RelayTable
from mediator.shell.passing import SOCKET_NAME, Taker
from mediator.shell.relay_tls import TlsListener, take_connections
from mediator.shell.relayserver import RelayServer
from netctl.model.errors import LocalError
from netctl.wire import relay
from netctl.wire.relayframe import RELAY_ALPN
from tests.mediator.loopbackkit import Site
from tests.mediator.test_relay_tls import ANN, BOB, HOST, PORTS, SECRET, Client, Relay
from tests.support.freeports import free_port


class Beside:
    """A relay that runs beside a mediator."""

    def __init__(self, site: Site) -> None:
        self.server = RelayServer(HOST, PORTS, RelayTable(SECRET, secrets.token_bytes(32), PORTS))
        context = site.identity.server_context(RELAY_ALPN)
        self.door = TlsListener(self.server, context, Taker(site.state))
        self.relay = Relay(self.server, self.door, site.port, site.identity)
        self._thread = threading.Thread(target=self.server.serve)
        self._thread.start()

    def close(self) -> None:
        self.server.stop()
        self._thread.join()
        self.door.close()
        self.server.close()


def test_a_member_stays_on_the_relay_when_the_mediator_stops(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def main() -> None:
        beside = Beside(site)
        clients: list[Client] = []
        try:
            async with site.serving():
                for own, peer in ((ANN, BOB), (BOB, ANN)):
                    client = await asyncio.to_thread(Client, beside.relay, own)
                    clients.append(client)
                    await asyncio.to_thread(client.bind, peer)
                await asyncio.to_thread(clients[0].receive)
                assert len(beside.door) == 2
            message = b"\x04\0\0\0" + bytes(28)
            clients[0].send(BOB, message)
            assert await asyncio.to_thread(clients[1].receive) == (ANN, message)
            assert clients[0].bind(BOB).flags is relay.BoundFlag.PEER_BOUND
        finally:
            for client in clients:
                client.close()
            beside.close()
        assert not (site.state / SOCKET_NAME).exists()

    asyncio.run(main())


def shake_hands(port: int, alpn: str, *, in_pieces: bool = False) -> str | None:
    """The protocol that is agreed on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    with socket.create_connection((HOST, port), 5) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
                raw.sendall(outgoing.read())
                return tls.selected_alpn_protocol()
            except ssl.SSLWantReadError:
                hello = outgoing.read()
                for at in range(0, len(hello), 40 if in_pieces else max(len(hello), 1)):
                    raw.sendall(hello[at : at + (40 if in_pieces else len(hello))])
                    if in_pieces:
                        time.sleep(0.005)
                if not (data := raw.recv(65536)):
                    raise ConnectionResetError from None
                incoming.write(data)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_each_protocol_comes_to_its_process(tmp_path: Path, in_pieces: bool) -> None:
    site = Site(tmp_path)

    async def main() -> None:
        beside = Beside(site)
        try:
            async with site.serving() as (server, _):
                for alpn in ("netctl/1", RELAY_ALPN):
                    agreed = await asyncio.to_thread(shake_hands, site.port, alpn, in_pieces=in_pieces)
                    assert agreed == alpn
                assert await asyncio.to_thread(shake_hands, site.port, "http/1.1") is None
                assert server.status()["bans"] == 0
        finally:
            beside.close()

    asyncio.run(main())


def test_without_a_relay_who_asks_for_it_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def main() -> None:
        async with site.serving():
            with pytest.raises(OSError):
                await asyncio.to_thread(shake_hands, site.port, RELAY_ALPN)
            assert await asyncio.to_thread(shake_hands, site.port, "netctl/1") == "netctl/1"

    asyncio.run(main())


def test_a_second_tls_port_that_is_taken_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        second = taken.getsockname()[1]
        third = free_port()
        text = site.document.read_text().replace('"stun"', f'"tls": [{second}, {third}], "stun"')
        site.document.write_text(text)

        async def main() -> None:
            async with site.serving():
                for port in (site.port, third):
                    assert await asyncio.to_thread(shake_hands, port, "netctl/1") == "netctl/1"

        asyncio.run(main())
    said = caplog.text
    assert f"TCP port {second} cannot be had (Address already in use)" in said


def test_a_relay_that_cannot_listen_over_tls_still_relays_udp(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with pytest.raises(LocalError, match="cannot listen at"):
        Taker(deep)
    server = RelayServer(HOST, PORTS, RelayTable(SECRET, secrets.token_bytes(32), PORTS))
    try:
        with take_connections(server, site.identity.server_context(RELAY_ALPN), deep) as door:
            assert len(door) == 0
        assert "members whose UDP is blocked are not relayed" in caplog.text
    finally:
        server.close()
