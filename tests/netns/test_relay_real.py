"""The relay on real sockets (loopback): two clients meet, batches stay whole, strangers get silence."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from mediator.core.relay_table import RelayTable
from mediator.shell import native
from mediator.shell.relayserver import UDP_GRO, UDP_SEGMENT, RelayServer
from netctl.model.addresses import SocketAddress
from netctl.model.errors import LocalError
from netctl.wire import relay
from netctl.wire.datagram import KIND_PROBE, KIND_RELAYED_PROBE, MAGIC
from tests.support.patience import BUSY_S, wait_for

pytestmark = pytest.mark.netns

SECRET = bytes(range(32))
PORTS = range(46100, 46104)
P_A, P_B = PORTS[0], PORTS[1]
DATA = struct.pack("<I", 4)
SO_RCVBUFFORCE = 33


class Member:
    """A UDP client that binds at the relay and then sends as WireGuard would."""

    def __init__(
        self,
        host: str,
        own: int,
        peer: int,
        *,
        expires: int | None = None,
        secret: bytes = SECRET,
        at: str = "127.0.0.1",
    ) -> None:
        self.allocation = relay.Allocation(own, peer, expires or int(time.time()) + 60)
        self.key = self.allocation.key(secret)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.relay = (at, peer)

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self.relay)

    def receive(self, timeout: float = BUSY_S) -> tuple[bytes, tuple[str, int]] | None:
        self.socket.settimeout(timeout)
        try:
            data, source = self.socket.recvfrom(65535)
        except TimeoutError:
            return None
        return data, source

    def ask(self, message: relay.Bind | relay.Confirm, timeout: float = BUSY_S) -> relay.RelayMessage | None:
        question = relay.seal(message, self.key)
        self.send(question)
        answer = self.receive(timeout)
        if answer is None:
            return None
        assert len(answer[0]) <= len(question)
        assert answer[1] == self.relay
        return relay.open_message(answer[0], self.key)

    def bind(self) -> relay.Bound:
        cookie = self.ask(relay.Bind(self.allocation, b"t" * 8))
        assert isinstance(cookie, relay.Cookie)
        bound = self.ask(relay.Confirm(self.allocation, b"u" * 8, cookie.cookie))
        assert isinstance(bound, relay.Bound)
        assert bound.observed == SocketAddress.of(*self.socket.getsockname())
        return bound


@pytest.fixture(params=["native", "Python"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RelayServer]:
    """On either data path; the one in C is there where there is a compiler."""
    monkeypatch.setenv(native.SWITCH, "0" if request.param == "Python" else "")
    if request.param == "native" and shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("there is no C compiler")
    relays = RelayServer("127.0.0.1", PORTS, RelayTable(SECRET, b"c" * 32, PORTS))
    assert relays.data_path == request.param
    thread = threading.Thread(target=relays.serve)
    thread.start()
    yield relays
    relays.stop()
    thread.join(BUSY_S)
    relays.close()


@pytest.fixture
def pair(server: RelayServer) -> Iterator[tuple[Member, Member]]:
    a, b = Member("127.0.0.1", P_A, P_B), Member("127.0.0.2", P_B, P_A)
    assert not a.bind().flags
    assert b.bind().flags
    notice = a.receive()
    assert notice is not None
    told = relay.open_message(notice[0], a.key)
    assert isinstance(told, relay.Bound)
    assert told.flags
    yield a, b
    a.socket.close()
    b.socket.close()


def test_bound_members_exchange_wireguard_messages_and_nothing_else(pair: tuple[Member, Member]) -> None:
    a, b = pair
    for kind in (1, 2, 3, 4):
        message = struct.pack("<I", kind) + bytes(100)
        a.send(message)
        assert b.receive() == (message, ("127.0.0.1", P_A))
        b.send(message)
        assert a.receive() == (message, ("127.0.0.1", P_B))
    for foreign in (
        b"GET / HTTP/1.1",
        struct.pack("<I", 5) + bytes(40),
        b"\4",
        DATA + bytes(27),
        bytes(64),
        b"",
        MAGIC + bytes([KIND_PROBE]) + bytes(65),
    ):
        a.send(foreign)
    assert b.receive(0.2) is None


def test_bound_members_exchange_relayed_probes_of_any_size(pair: tuple[Member, Member]) -> None:
    """They show how large a packet passes, so they go as WireGuard's do: whole, and behind data too."""
    a, b = pair
    for size in (70, 1452):
        message = MAGIC + bytes([KIND_RELAYED_PROBE]) + bytes(size - 5)
        for one, other, port in ((a, b, P_A), (b, a, P_B)):
            one.send(message)
            assert other.receive() == (message, ("127.0.0.1", port))
    data = DATA + bytes(96)
    last = (MAGIC + bytes([KIND_RELAYED_PROBE])).ljust(70, b"x")
    segment = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("H", 100))]
    a.socket.sendmsg([data * 3 + last], segment, 0, a.relay)
    assert [b.receive() for _ in range(4)] == [
        (part, ("127.0.0.1", P_A)) for part in (data, data, data, last)
    ]


def test_a_batch_is_relayed_whole(pair: tuple[Member, Member], server: RelayServer) -> None:
    a, b = pair
    b.socket.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    batch = b"".join(DATA + bytes([number]) * 1196 for number in range(20)) + DATA + b"tail" * 10
    a.socket.sendmsg([batch], [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("H", 1200))], 0, a.relay)
    got = b""
    while len(got) < len(batch):
        part = b.receive()
        assert part is not None
        got += part[0]
    assert got == batch
    wait_for("it counts after it has sent", lambda: server.counters.forwarded_bytes == len(batch))


def test_a_refresh_merged_behind_data_is_still_a_refresh(pair: tuple[Member, Member]) -> None:
    a, b = pair
    cookie = a.ask(relay.Bind(a.allocation, b"t" * 8))
    assert isinstance(cookie, relay.Cookie)
    refresh = relay.seal(relay.Confirm(a.allocation, b"v" * 8, cookie.cookie), a.key)
    data = DATA + bytes(96)
    batch = data * 3 + refresh
    a.socket.sendmsg([batch], [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("H", 100))], 0, a.relay)
    assert [b.receive() for _ in range(3)] == [(data, ("127.0.0.1", P_A))] * 3
    answer = a.receive()
    assert answer is not None
    bound = relay.open_message(answer[0], a.key)
    assert isinstance(bound, relay.Bound)
    assert bound.transaction == b"v" * 8


def test_strangers_and_bad_allocations_get_silence(pair: tuple[Member, Member], server: RelayServer) -> None:
    _, b = pair
    eve = Member("127.0.0.3", P_A, P_B, secret=b"f" * 32)
    late = Member("127.0.0.3", P_A, P_B, expires=int(time.time()) - 1)
    for member in (eve, late):
        assert member.ask(relay.Bind(member.allocation, b"t" * 8), 0.3) is None
        member.send(DATA + bytes(100))
        assert member.receive(0.1) is None
        member.socket.close()
    assert b.receive(0.1) is None
    wait_for("both are counted", lambda: server.counters.dropped_stranger == 2)


def test_a_taken_port_is_one_clear_line(server: RelayServer) -> None:
    with pytest.raises(LocalError, match="port 46100-"):
        RelayServer("127.0.0.1", PORTS, RelayTable(SECRET, b"c" * 32, PORTS))


@pytest.mark.parametrize("switch", ["0", ""])
def test_what_comes_datagram_by_datagram_goes_on_whole_and_in_order(
    switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue of single datagrams: sizes change, a refresh and rubbish lie between, and none is lost or merged."""
    monkeypatch.setenv(native.SWITCH, switch)
    relays = RelayServer("0.0.0.0", PORTS, RelayTable(SECRET, b"c" * 32, PORTS))
    thread = threading.Thread(target=relays.serve)
    thread.start()
    a, b = Member("127.0.0.1", P_A, P_B, at="127.0.0.5"), Member("127.0.0.2", P_B, P_A, at="127.0.0.6")
    try:
        a.bind()
        b.bind()
        assert a.receive()  # the relay says that the peer is there
        relays.stop()
        thread.join(BUSY_S)
        sizes = [100] * 50 + [1400] * 60 + [64, 100, 64] + [1432] * 30
        sent = [DATA + struct.pack("<I", number) + bytes(size - 8) for number, size in enumerate(sizes)]
        for number, data in enumerate(sent):
            a.send(data)
            if number == 20:
                a.send(b"\x80 no WireGuard at all, and as long as a message")
            if number == 70:
                a.send(relay.seal(relay.Bind(a.allocation, b"v" * 8), a.key))
        b.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        for _ in range(3):
            relays._drain(P_B, time.monotonic(), time.time)
        got = [b.receive(2.0) for _ in sent]
        assert [answer[0] for answer in got if answer] == sent
        assert {answer[1] for answer in got if answer} == {("127.0.0.6", P_A)}
        answer = a.receive()
        assert answer is not None
        assert answer[1] == a.relay
        assert isinstance(relay.open_message(answer[0], a.key), relay.Cookie)
        assert relays.counters.dropped_type == 1
    finally:
        a.socket.close()
        b.socket.close()
        relays.stop()
        thread.join(BUSY_S)
        relays.close()
