"""The relay's TLS door on real sockets: who gets in, what it may send, and what slow and hostile ones cost."""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mediator.core.admissionlimiter import MAX_UNAUTHENTICATED_PER_PREFIX
from mediator.core.relay_grants import grant
from mediator.core.relay_table import RelayTable
from mediator.shell import relay_tls
from mediator.shell.credentials import Identity
from mediator.shell.relay_tls import TlsListener
from mediator.shell.relayserver import RelayServer
from netctl.wire import relay
from netctl.wire.relayframe import HEADER, MAX_QUEUED, RELAY_ALPN, FrameReader, frame
from tests.support.freeports import free_ports
from tests.support.patience import BUSY_S, wait_for
from tests.support.relaydoor import ListeningDoor

HOST = "127.0.0.1"
SECRET = bytes(range(32))
PORTS = free_ports(3)
ANN, BOB, CAT = PORTS
PATIENCE_S = BUSY_S
BURST = 4000
"""16 MB in all: more than the kernel's buffers on both sides hold."""
QUICK = 0.2
"""A stranger's time in these tests."""


@dataclass
class Relay:
    server: RelayServer
    door: TlsListener
    port: int
    identity: Identity


@pytest.fixture
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Relay]:
    identity = Identity.create(tmp_path)
    server = RelayServer(HOST, PORTS, RelayTable(SECRET, secrets.token_bytes(32), PORTS))
    door = ListeningDoor(
        server, identity.server_context(RELAY_ALPN), patience_s=getattr(request, "param", relay_tls.TLS_S)
    )
    port = door.listen(HOST, 0)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield Relay(server, door, port, identity)
    finally:
        server.stop()
        thread.join()
        door.close()
        server.close()


class Client:
    """A member with a blocking TLS connection."""

    def __init__(self, relay_: Relay, own: int) -> None:
        self.own = own
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([RELAY_ALPN])
        raw = socket.create_connection((HOST, relay_.port), PATIENCE_S)
        self.tls = context.wrap_socket(raw)
        self.reader = FrameReader()
        self.waiting: list[tuple[int, bytes]] = []

    def send(self, port: int, data: bytes) -> None:
        self.tls.sendall(frame(port, data))

    def receive(self) -> tuple[int, bytes]:
        while not self.waiting:
            data = self.tls.recv(16384)
            if not data:
                raise ConnectionResetError
            self.waiting += self.reader.feed(data)
        return self.waiting.pop(0)

    def bind(self, peer: int, *, steal: int | None = None) -> relay.Bound:
        """BIND, COOKIE, CONFIRM, BOUND, as over UDP. `steal`: with the grant of another member."""
        allocation = relay.Allocation(steal or self.own, peer, int(time.time()) + 3600)
        granted = grant(SECRET, allocation.own_port, peer, allocation.expires_s)
        key = bytes.fromhex(granted.key)
        self.send(peer, relay.seal(relay.Bind(allocation, b"12345678"), key))
        port, data = self.receive()
        assert port == peer
        cookie = relay.open_message(data, key)
        assert isinstance(cookie, relay.Cookie)
        self.send(peer, relay.seal(relay.Confirm(allocation, b"abcdefgh", cookie.cookie), key))
        bound = relay.open_message(self.receive()[1], key)
        assert isinstance(bound, relay.Bound)
        return bound

    def closed(self) -> bool:
        """The relay has hung up, or does so now."""
        try:
            while self.tls.recv(16384):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        self.tls.close()


@contextlib.contextmanager
def member(relay_: Relay, own: int) -> Iterator[Client]:
    client = Client(relay_, own)
    try:
        yield client
    finally:
        client.close()


def data(number: int, size: int = 100) -> bytes:
    return b"\x04\0\0\0" + number.to_bytes(4, "little") + bytes(size - 8)


def test_two_members_over_tls_reach_each_other(running: Relay) -> None:
    with member(running, ANN) as ann, member(running, BOB) as bob:
        assert ann.bind(BOB).flags is relay.BoundFlag.NONE
        assert bob.bind(ANN).flags is relay.BoundFlag.PEER_BOUND
        assert ann.receive()[1][4] == relay.RelayKind.BOUND, "it is told that its peer has come"
        ann.send(BOB, data(1))
        assert bob.receive() == (ANN, data(1))
        bob.send(ANN, data(2, 1400))
        assert ann.receive() == (BOB, data(2, 1400))


def udp_bind(sock: socket.socket, own: int, peer: int) -> None:
    allocation = relay.Allocation(own, peer, int(time.time()) + 3600)
    key = bytes.fromhex(grant(SECRET, own, peer, allocation.expires_s).key)
    sock.sendto(relay.seal(relay.Bind(allocation, b"12345678"), key), (HOST, peer))
    cookie = relay.open_message(sock.recv(2048), key)
    assert isinstance(cookie, relay.Cookie)
    sock.sendto(relay.seal(relay.Confirm(allocation, b"abcdefgh", cookie.cookie), key), (HOST, peer))
    assert isinstance(relay.open_message(sock.recv(2048), key), relay.Bound)


def test_a_member_over_tls_and_one_over_udp_reach_each_other(running: Relay) -> None:
    with member(running, ANN) as ann, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bob:
        bob.settimeout(PATIENCE_S)
        bob.bind((HOST, 0))
        ann.bind(BOB)
        udp_bind(bob, BOB, ANN)
        bob.sendto(data(1), (HOST, ANN))
        while (got := ann.receive())[1][:4] != data(1)[:4]:
            pass
        assert got == (BOB, data(1))
        ann.send(BOB, data(2))
        got_data, source = bob.recvfrom(2048)
        assert (got_data, source) == (data(2), (HOST, ANN))


def test_an_unauthenticated_connection_gets_nothing_through_and_is_ended(running: Relay) -> None:
    with member(running, BOB) as bob:
        bob.bind(ANN)
        with member(running, ANN) as stranger:
            stranger.send(BOB, data(1, 60))
            assert stranger.closed()
        with member(running, ANN) as stranger:
            stranger.tls.sendall(HEADER.pack(65, BOB))
            assert stranger.closed(), "a length beyond a stranger's is refused before its bytes come"
        with member(running, ANN) as stranger:
            allocation = relay.Allocation(ANN, BOB, int(time.time()) + 3600)
            stranger.send(BOB, relay.seal(relay.Bind(allocation, b"12345678"), bytes(32)))
            stranger.tls.settimeout(0.3)
            assert not stranger.closed(), "a wrong key is answered with silence, until its time is up"
        bob.tls.settimeout(0.2)
        with pytest.raises(TimeoutError):
            bob.receive()


def test_a_member_cannot_speak_for_another(running: Relay) -> None:
    with member(running, ANN) as ann, member(running, BOB) as bob, member(running, CAT) as cat:
        ann.bind(BOB)
        bob.bind(ANN)
        cat.bind(BOB)
        cat.send(ANN, data(9))
        cat.tls.settimeout(0.2)
        ann.receive()
        ann.tls.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ann.receive()
        cat.tls.settimeout(PATIENCE_S)
        with pytest.raises(OSError):
            cat.bind(BOB, steal=ANN)
        assert cat.closed(), "two members on one connection"


def test_a_replayed_question_does_not_push_a_member_out(running: Relay) -> None:
    allocation = relay.Allocation(ANN, BOB, int(time.time()) + 3600)
    key = bytes.fromhex(grant(SECRET, ANN, BOB, allocation.expires_s).key)
    seen = relay.seal(relay.Bind(allocation, b"12345678"), key)
    with member(running, ANN) as ann, member(running, ANN) as thief:
        ann.bind(BOB)
        thief.send(BOB, seen)
        cookie = thief.receive()[1]
        assert cookie[4] == relay.RelayKind.COOKIE
        thief.send(BOB, data(1, 60))
        assert thief.closed(), "a cookie alone makes no member"
        assert ann.bind(CAT).flags is relay.BoundFlag.NONE


def test_the_newer_connection_of_a_member_replaces_the_older(running: Relay) -> None:
    with member(running, ANN) as old, member(running, BOB) as bob:
        old.bind(BOB)
        bob.bind(ANN)
        with member(running, ANN) as new:
            new.bind(BOB)
            assert old.closed()
            bob.send(ANN, data(3))
            while (got := new.receive())[1][:4] != data(3)[:4]:
                pass
            assert got == (BOB, data(3))
        wait_for("only bob's is left", lambda: len(running.door) == 1)


def test_a_slow_reader_costs_a_bounded_queue_and_gets_what_is_new(running: Relay) -> None:
    with member(running, ANN) as ann, member(running, BOB) as bob:
        ann.bind(BOB)
        bob.bind(ANN)
        ann.receive()
        for number in range(BURST):
            bob.send(ANN, data(number, 4000))
            if number % 100 == 0:
                assert running.door.queued <= MAX_QUEUED
        ann.tls.settimeout(0.02)
        number = BURST
        got: list[Any] = []
        deadline = time.monotonic() + PATIENCE_S
        while not got or got[-1] < BURST:
            assert time.monotonic() < deadline, "nothing new came after the burst"
            number += 1
            bob.send(ANN, data(number))
            assert running.door.queued <= MAX_QUEUED
            with contextlib.suppress(TimeoutError):
                while True:
                    got.append(int.from_bytes(ann.receive()[1][4:8], "little"))
        assert got == sorted(got)
        assert len(got) < BURST, "what no buffer held was dropped"
    wait_for("both have gone", lambda: len(running.door) == 0)
    assert running.door.queued == 0


@pytest.mark.parametrize("running", [QUICK], indirect=True)
def test_silence_before_the_login_ends(running: Relay) -> None:
    began = time.monotonic()
    with socket.create_connection((HOST, running.port), PATIENCE_S) as silent:
        assert silent.recv(1) == b""
        assert QUICK < time.monotonic() - began < relay_tls.TLS_S, "its own time, and not that of others"
    wait_for("it is forgotten", lambda: running.door.limiter.unauthenticated == 0)
    assert running.door.limiter.unauthenticated == 0


def test_a_member_waits_for_a_place_and_is_then_let_in(running: Relay) -> None:
    """All places of its neighbourhood are taken by connections that say nothing."""
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((HOST, running.port), PATIENCE_S))
            for _ in range(MAX_UNAUTHENTICATED_PER_PREFIX)
        ]
        wait_for("the places are taken", lambda: running.door.limiter.unauthenticated == len(silent))
        gone = stack.enter_context(socket.create_connection((HOST, running.port), PATIENCE_S))
        wait_for("one waits", lambda: running.door.limiter.waiting == 1)
        gone.close()
        threading.Timer(0.1, silent[0].close).start()
        with member(running, ANN) as ann:
            ann.bind(BOB)
        wait_for("nobody waits", lambda: running.door.limiter.waiting == 0)


def test_garbage_again_and_again_is_banned(running: Relay, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(10):
        with contextlib.suppress(OSError), member(running, ANN) as stranger:
            stranger.tls.sendall(HEADER.pack(65000, BOB))
            stranger.closed()
    with pytest.raises(OSError):
        Client(running, ANN)
    assert "banned from the relay" in caplog.text
