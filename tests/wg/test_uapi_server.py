"""Both Unix sockets of netctl-wg, with real sockets and a loop that turns when it is told to."""

from __future__ import annotations

import errno
import select
import socket
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netctl.engine.wireguard.uapiclient import ChangesOnly, DeviceState, UapiDriver
from netctl.model.addresses import SocketAddress, host_prefix
from netctl.model.errors import EngineError, LocalError
from netctl.model.hoststate import Peer
from netctl.model.keys import WireGuardKey
from netctl.tunnel import Device
from netctl.wg.configure import answer_changed
from netctl.wg.handover import MAX_PER_TURN, HandoverServer, pack_source, unpack_destination
from netctl.wg.peerchanges import Changes
from netctl.wg.uapi import MAX_LINE_LEN
from netctl.wg.uapi_server import MAX_CLIENTS, UapiServer

V4, V6 = SocketAddress("192.0.2.7", 51820), SocketAddress("2001:db8::7", 9)
KEY = "ab" * 32
T = TypeVar("T")


class Loop:
    """A shell without packets."""

    def __init__(self) -> None:
        self.device = Device(None, lambda n: bytes(n))
        self.listen_port = 0
        self.fwmark = 0
        self.data_path = "native (of a test)"
        self.faults = 7
        self.on_foreign: Callable[[bytes, SocketAddress], None] | None = None
        self.sent: list[tuple[SocketAddress, bytes, int | None]] = []
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._time = 0.0

    def set_listen_port(self, port: int) -> None:
        if port == 1:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self.listen_port = port

    def set_fwmark(self, mark: int) -> None:
        self.fwmark = mark

    def now(self) -> float:
        self._time += 1
        return self._time

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        self._callbacks[fd] = callback

    def unregister(self, fd: int) -> None:
        del self._callbacks[fd]

    def send_raw(
        self, destination: SocketAddress, data: bytes, ttl: int | None = None, *, whole: bool = False
    ) -> None:
        self.sent.append((destination, data, ttl))

    def turn(self, most: int = 1000) -> None:
        """Until nothing is readable any more."""
        for _ in range(most):
            ready, _, _ = select.select(list(self._callbacks), [], [], 0)
            if not ready:
                return
            for fd in ready:
                self._callbacks[fd]()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def server(loop: Loop, tmp_path: Path) -> Iterator[UapiServer]:
    made = UapiServer(loop, tmp_path / "wg0.sock")
    made.start()
    yield made
    made.close()


def client(tmp_path: Path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX)
    opened.connect(str(tmp_path / "wg0.sock"))
    opened.setblocking(False)
    return opened


def read(opened: socket.socket) -> bytes:
    data = b""
    while True:
        try:
            piece = opened.recv(1 << 20)
        except BlockingIOError:
            return data
        if not piece:
            return data + b"<end>"
        data += piece


def test_our_own_question(loop: Loop, server: UapiServer, tmp_path: Path) -> None:
    with client(tmp_path) as one:
        one.send(b"get=data_path\n\nset=1\n\nget=data_path\nx\n\n")
        loop.turn()
        wanted = b"data_path=native (of a test)\nfaults=7\nerrno=0\n\nerrno=0\n\nerrno=-71\n\n<end>"
        assert read(one) == wanted


def test_the_driver_understands_the_answer(loop: Loop, server: UapiServer, tmp_path: Path) -> None:
    driver = UapiDriver("wg0", tmp_path)
    with ThreadPoolExecutor() as pool:
        asked: list[Future[Any]] = [pool.submit(driver.data_path), pool.submit(driver.faults)]
        while not all(one.done() for one in asked):
            loop.turn()
    assert [one.result() for one in asked] == ["native (of a test)", 7]


class CountingDriver(UapiDriver):
    """Notes its requests."""

    def __init__(self, directory: Path) -> None:
        super().__init__("wg0", directory)
        self.requests: list[str] = []
        self.received = 0
        """Characters of the answers."""

    def _request(self, text: str) -> str:
        self.requests.append(text.partition("\n")[0])
        reply = super()._request(text)
        self.received += len(reply)
        return reply


def test_many_endpoints_are_one_request_and_one_look(loop: Loop, server: UapiServer, tmp_path: Path) -> None:
    """A look at 5,000 peers takes a tenth of a second: one for each new endpoint would take minutes."""
    driver = CountingDriver(tmp_path)
    keys = [WireGuardKey(number.to_bytes(32)) for number in range(1, 301)]
    peers = [
        Peer(key, frozenset({host_prefix(ip_address(f"10.0.{n // 250}.{n % 250}"))}), None, 25)
        for n, key in enumerate(keys)
    ]

    def do(work: Callable[[], object]) -> None:
        with ThreadPoolExecutor() as pool:
            done = pool.submit(work)
            while not done.done():
                loop.turn()
            done.result()

    def endpoints() -> list[SocketAddress | None]:
        return [loop.device.peers[key.raw].endpoint for key in keys]

    do(lambda: driver.set_peers(peers))
    gone = WireGuardKey(b"x" * 32)
    first = {key: SocketAddress("192.0.2.1", number) for number, key in enumerate(keys, 1)}
    driver.requests.clear()
    do(lambda: driver.steer({**first, gone: V4}))
    assert driver.requests == ["get=changed", "set=1"]
    assert endpoints() == list(first.values())
    assert gone.raw not in loop.device.peers
    assert all(loop.device.peers[key.raw].keepalive_s == 25 for key in keys)
    assert all(len(loop.device.allowed_ips.prefixes(loop.device.peers[key.raw])) == 1 for key in keys)
    driver.requests.clear()
    do(lambda: driver.steer(dict.fromkeys(keys, V4)))
    do(lambda: driver.steer({}))
    assert driver.requests == ["set=1"]
    assert endpoints() == [V4] * len(keys)
    driver.requests.clear()
    before = [loop.device.peers[key.raw] for key in keys]
    do(lambda: driver.steer({keys[0]: V6}, frozenset({*keys[:2], gone})))
    assert driver.requests == ["get=changed", "set=1"]
    assert endpoints() == [V6, *[V4] * (len(keys) - 1)]
    renewed = [loop.device.peers[key.raw] is not peer for key, peer in zip(keys, before, strict=True)]
    assert renewed == [True, True, *[False] * (len(keys) - 2)], "their sessions and handshakes are forgotten"
    assert gone.raw not in loop.device.peers
    assert all(loop.device.peers[key.raw].keepalive_s == 25 for key in keys)
    assert all(len(loop.device.allowed_ips.prefixes(loop.device.peers[key.raw])) == 1 for key in keys)


def test_only_peers_that_have_changed_are_sent(loop: Loop, server: UapiServer, tmp_path: Path) -> None:
    """A look at 5,000 idle peers was 2 MB of text, ten times a minute."""
    driver = CountingDriver(tmp_path)
    keys = [WireGuardKey(number.to_bytes(32)) for number in range(1, 101)]

    def do(work: Callable[[], T]) -> T:
        with ThreadPoolExecutor() as pool:
            done = pool.submit(work)
            while not done.done():
                loop.turn()
            return done.result()

    def looked() -> tuple[DeviceState, int]:
        driver.received = 0
        return do(driver.read), driver.received

    do(
        lambda: driver.set_peers(
            Peer(key, frozenset({host_prefix(ip_address(f"10.0.0.{n}"))})) for n, key in enumerate(keys)
        )
    )
    first, whole = looked()
    assert set(first.peers) == set(keys)
    again, little = looked()
    assert again is first
    assert little < 100 < 10_000 < whole

    loop.device.peers[keys[3].raw].rx_bytes += 7
    then, few = looked()
    assert few < 500
    assert then.peers[keys[3]].rx_bytes == 7
    assert [key for key in keys if then.peers[key] is not first.peers[key]] == [keys[3]]
    assert list(then.peers) == list(first.peers)

    do(lambda: driver.steer({keys[4]: V4}))
    assert looked()[0].peers[keys[4]].endpoint == V4

    do(lambda: driver.remove_peer(keys[0]))
    do(lambda: driver.set_peers([Peer(WireGuardKey(b"n" * 32), frozenset())]))
    assert set(looked()[0].peers) == {*keys[1:], WireGuardKey(b"n" * 32)}

    do(lambda: driver.set_peers([Peer(keys[5], frozenset({host_prefix(ip_address("10.9.9.9"))}))]))
    assert looked()[0].peers[keys[5]].allowed_ips == (host_prefix(ip_address("10.9.9.9")),)

    server._changes = Changes(lambda n: b"another process"[:n])
    loop.device.peers[keys[6].raw].tx_bytes += 1
    assert looked()[0].peers[keys[6]].tx_bytes == 1
    assert driver.received > 10_000, "the cursor of another process brings all peers"
    do(lambda: driver.configure(bytes(32), 77))
    assert looked()[0].listen_port == 77


@pytest.mark.parametrize("whole", ["true", "false"])
@pytest.mark.parametrize("rest", ["", f"public_key={KEY}\nrx_bytes=1", f"public_key={KEY}\nrx_bytes=12\n\n"])
def test_an_answer_that_is_cut_off_is_asked_for_again(whole: str, rest: str) -> None:
    """netctl-wg drops the connection that was idle longest when too many are open."""
    changes, other = ChangesOnly(), "cd" * 32
    first = f"cursor=a.1\nwhole=true\npublic_key={KEY}\npublic_key={other}\nerrno=0\n\n"
    before = changes.parse(first)
    with pytest.raises(EngineError, match="cut off"):
        changes.parse(f"cursor=a.2\nwhole={whole}\nlisten_port=5\n{rest}")
    assert changes.cursor == "a.1"
    assert changes.parse("cursor=a.3\nwhole=false\nerrno=0\n\n") is before


def test_a_peer_that_is_replaced_while_the_reader_is_slow_is_told(loop: Loop) -> None:
    """It has the state of before, without allowed IPs: the next look at what has changed would not tell it."""
    key, changes, reader = bytes.fromhex(KEY), Changes(bytes), ChangesOnly()
    loop.device.add_peer(key)
    answer = answer_changed(loop, changes, "")
    head = [next(answer), next(answer)]
    loop.device.remove_peer(key)
    loop.device.add_peer(key)
    for pieces in ([*head, *answer], answer_changed(loop, changes, f"{bytes(8).hex()}.1")):
        device = reader.parse("".join(pieces))
        assert device is not None
        assert set(device.peers) == {WireGuardKey(key)}


@pytest.mark.parametrize("known", [False, True])
def test_a_peer_that_changes_while_the_reader_is_slow_and_back_again_is_told_as_it_is(
    loop: Loop, known: bool
) -> None:
    """Another program sets an endpoint and takes it back: the reader was left with the one between."""
    one, two, changes, reader = bytes.fromhex(KEY), b"2" * 32, Changes(bytes), ChangesOnly()
    peer, other = (loop.device.add_peer(key) for key in (one, two))
    assert peer is not None
    assert other is not None
    if known:
        reader.parse("".join(answer_changed(loop, changes, reader.cursor)))
        peer.rx_bytes = other.rx_bytes = 1
    answer = answer_changed(loop, changes, reader.cursor)
    head = [next(answer), next(answer)]
    peer.rx_bytes += 5
    loop.device.remove_peer(two)
    rest = list(answer)
    peer.rx_bytes -= 5
    back = loop.device.add_peer(two)
    assert back is not None
    back.rx_bytes = other.rx_bytes
    reader.parse("".join([*head, *rest]))
    device = reader.parse("".join(answer_changed(loop, changes, reader.cursor)))
    assert device is not None
    seen = {key.raw: state.rx_bytes for key, state in device.peers.items()}
    assert seen == {one: peer.rx_bytes, two: other.rx_bytes}
    assert "public_key" not in "".join(answer_changed(loop, changes, reader.cursor)), "and told once"


def test_a_peer_that_is_gone_while_the_reader_is_slow_is_gone_for_it_with_the_next_look(loop: Loop) -> None:
    key, changes, reader = bytes.fromhex(KEY), Changes(bytes), ChangesOnly()
    loop.device.add_peer(key)
    reader.parse("".join(answer_changed(loop, changes, "")))
    loop.device.peers[key].rx_bytes = 1
    answer = answer_changed(loop, changes, reader.cursor)
    head = [next(answer), next(answer)]
    loop.device.remove_peer(key)
    reader.parse("".join([*head, *answer]))
    device = reader.parse("".join(answer_changed(loop, changes, reader.cursor)))
    assert device is not None
    assert not device.peers


def looks(tmp_path: Path, *several: list[str]) -> list[bytes]:
    """What a driver asks an engine that gives these answers to several looks at one peer."""
    driver, asked = UapiDriver("wg0", tmp_path), []
    with (
        socket.create_server(str(tmp_path / "wg0.sock"), family=socket.AF_UNIX) as engine,
        ThreadPoolExecutor() as pool,
    ):
        for answers in several:
            read_whole = pool.submit(driver.read)
            for answer in answers:
                connection, _ = engine.accept()
                with connection:
                    asked.append(connection.recv(100).split(b"\n")[0])
                    connection.sendall(answer.encode())
            assert [one.rx_bytes for one in read_whole.result().peers.values()] == [5]
    return asked


WHOLE = f"public_key={KEY}\nrx_bytes=5\nerrno=0\n\n"


@pytest.mark.parametrize("refusal", ["", "errno=-71\n\n"])
def test_an_engine_that_does_not_tell_changes_is_asked_for_all(tmp_path: Path, refusal: str) -> None:
    """wireguard-go ends the connection; a netctl-wg of before refuses. It is not asked again."""
    assert looks(tmp_path, [refusal, WHOLE], [WHOLE]) == [b"get=changed", b"get=1", b"get=1"]


def test_an_engine_that_has_told_changes_is_asked_for_them_again_after_a_lost_answer(tmp_path: Path) -> None:
    """netctl-wg drops the connection that was idle longest when too many are open."""
    told = f"cursor=a.1\nwhole=true\n{WHOLE}"
    asked = looks(tmp_path, [told], ["", WHOLE], [told])
    assert asked == [b"get=changed", b"get=changed", b"get=1", b"get=changed"]


@pytest.mark.parametrize(
    "answer", ["errno=0\n\n", "faults=-1\n\n", "faults=\n\n", f"faults={'9' * 5000}\n\n"]
)
def test_an_engine_of_before_and_a_false_one_have_no_faults(tmp_path: Path, answer: str) -> None:
    with (
        socket.create_server(str(tmp_path / "wg0.sock"), family=socket.AF_UNIX) as old,
        ThreadPoolExecutor() as pool,
    ):
        asked = pool.submit(UapiDriver("wg0", tmp_path).faults)
        connection, _ = old.accept()
        with connection:
            connection.recv(100)
            connection.sendall(answer.encode())
        assert asked.result() == 0


def test_several_requests_on_one_connection(loop: Loop, server: UapiServer, tmp_path: Path) -> None:
    with client(tmp_path) as one:
        one.send(f"set=1\nlisten_port=7\npublic_key={KEY}\n\nget=1\n\nset=1\nfwmark=x\n\nset=1\nfwm".encode())
        loop.turn()
        one.send(b"ark=5\n\n")
        loop.turn()
        answers = read(one).decode().split("\n\n")
        assert [answer.splitlines()[-1:] for answer in answers] == [
            ["errno=0"],
            ["errno=0"],
            ["errno=-22"],
            ["errno=0"],
            [],
        ]
        assert f"public_key={KEY}" in answers[1]
        assert (loop.listen_port, loop.fwmark) == (7, 5)
        one.send(b"set=1\nlisten_port=1\n\n")
        loop.turn()
        assert read(one) == b"errno=-98\n\n"


def test_byte_by_byte_from_two_clients_at_once(loop: Loop, server: UapiServer, tmp_path: Path) -> None:
    with client(tmp_path) as one, client(tmp_path) as other:
        for byte in b"set=1\nfwmark=9\n\n":
            for opened in (one, other):
                opened.send(bytes([byte]))
                loop.turn()
        assert read(one) == read(other) == b"errno=0\n\n"


def test_a_slow_reader_holds_up_nobody(loop: Loop, server: UapiServer, tmp_path: Path) -> None:
    request = "set=1\n" + "".join(f"public_key={number:064x}\n" for number in range(1, 5001)) + "\n"
    with client(tmp_path) as slow, client(tmp_path) as quick:
        slow.setblocking(True)
        data = request.encode()
        while data:
            data = data[slow.send(data[: 1 << 16]) :]
            loop.turn()
        assert slow.recv(100) == b"errno=0\n\n"
        slow.send(b"get=1\n\n")
        loop.turn()  # ends, though the answer is larger than the socket's buffer
        quick.send(b"set=1\nfwmark=4\npublic_key=" + b"0" * 63 + b"1\nremove=true\n\n")
        loop.turn()
        assert read(quick) == b"errno=0\n\n"
        slow.setblocking(False)
        answer = b""
        while not answer.endswith(b"errno=0\n\n"):
            loop.turn()
            answer += read(slow)
        assert 4990 < answer.count(b"public_key=") <= 5000


def test_a_request_that_is_cut_off_counts_for_nothing(loop: Loop, server: UapiServer, tmp_path: Path) -> None:
    with client(tmp_path) as one:
        one.send(b"set=1\nfwmark=5\n")
        one.shutdown(socket.SHUT_WR)
        loop.turn()
        assert read(one) == b"errno=-71\n\n<end>"
    assert loop.fwmark == 0
    assert server.clients == 0


@pytest.mark.parametrize(
    "data",
    [b"hello\n", b"x" * (MAX_LINE_LEN + 1), b"get=1\nmore\n", b"set=1\n\xff\n", b"get=changed\nmore\n"],
)
def test_what_is_no_request_ends_the_connection(
    loop: Loop, server: UapiServer, tmp_path: Path, data: bytes
) -> None:
    with client(tmp_path) as one:
        one.send(data)
        loop.turn()
        assert read(one) == b"errno=-71\n\n<end>"
    assert server.clients == 0


@given(
    st.lists(
        st.binary(max_size=80)
        | st.sampled_from([b"get=1\n\n", b"set=1\n", b"get=changed\nsince=a.1\n", b"\n"]),
        max_size=6,
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes_leave_a_server_that_answers(
    loop: Loop, server: UapiServer, tmp_path: Path, pieces: list[bytes]
) -> None:
    with client(tmp_path) as one:
        for piece in pieces:
            try:
                one.send(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            loop.turn()
    loop.turn()
    assert server.clients == 0
    with client(tmp_path) as sane:
        sane.send(b"get=1\n\n")
        loop.turn()
        assert read(sane).endswith(b"errno=0\n\n")
    loop.turn()


def test_the_client_silent_for_longest_makes_room(loop: Loop, server: UapiServer, tmp_path: Path) -> None:
    opened = [client(tmp_path)]
    for _ in range(MAX_CLIENTS):
        loop.turn()
        opened.append(client(tmp_path))
    loop.turn()
    assert server.clients == MAX_CLIENTS
    assert read(opened[0]) == b"<end>"
    opened[-1].send(b"get=1\n\n")
    loop.turn()
    assert read(opened[-1]) == b"errno=0\n\n"
    for one in opened:
        one.close()


def test_the_socket_file(loop: Loop, server: UapiServer, tmp_path: Path) -> None:
    path = tmp_path / "wg0.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(LocalError, match="served by another process"):
        UapiServer(Loop(), path).start()
    loop.turn()
    server.close()
    server.close()
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    again = UapiServer(loop, path)  # a dead process's socket is replaced
    again.start()
    again.close()


@pytest.mark.parametrize("kind", [UapiServer, HandoverServer])
def test_the_file_is_gone_before_the_socket_so_another_process_can_have_the_name(
    kind: type[UapiServer] | type[HandoverServer], tmp_path: Path
) -> None:
    path = tmp_path / "wg0.sock"

    class Closing(Loop):
        def unregister(self, fd: int) -> None:
            super().unregister(fd)
            if not others:
                others.append(kind(Loop(), path))
                others[0].start()  # while the first one is closing

    others: list[UapiServer | HandoverServer] = []
    first = kind(Closing(), path)
    first.start()
    first.close()
    assert path.is_socket(), "the second server's socket was removed"
    others[0].close()
    assert not path.exists()


def test_handover_both_ways(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "wg0.handover.sock"
    server = HandoverServer(loop, path)
    server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert loop.on_foreign is not None
    loop.on_foreign(b"nobody listens", V4)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
        mine.bind(str(tmp_path / "client.sock"))
        mine.settimeout(2)
        mine.sendto(b"\x00", str(path))
        loop.turn()
        for source in (V4, V6):
            loop.on_foreign(b"payload", source)
            data = mine.recv(100)
            assert (unpack_destination(data[:19]), data[19:]) == (source, b"payload")
        mine.sendto(b"\x01" + pack_source(V6) + b"out", str(path))
        mine.sendto(b"\x02" + pack_source(V4) + b"\x03low", str(path))
        for bad in (b"", b"\x01", b"\x09" + pack_source(V4), b"\x02" + pack_source(V4), b"\x01" + bytes(30)):
            mine.sendto(bad, str(path))
        loop.turn()
        assert loop.sent == [(V6, b"out", None), (V4, b"low", 3)]
        for _ in range(5000):  # more than a socket holds: dropped, not waited for
            loop.on_foreign(bytes(1000), V4)
        assert server.dropped > 0
        assert server.has_subscriber
    loop.on_foreign(b"gone", V4)
    assert not server.has_subscriber
    server.close()
    assert loop.on_foreign is None
    assert not path.exists()


@given(st.lists(st.binary(max_size=60), max_size=MAX_PER_TURN))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_handover_takes_any_datagram(loop: Loop, tmp_path: Path, messages: list[bytes]) -> None:
    server = HandoverServer(loop, tmp_path / "any.sock")
    for message in messages:
        server._take(message, None)
    assert not server.has_subscriber
    assert all(0 < destination.port < 65536 for destination, _, _ in loop.sent)
