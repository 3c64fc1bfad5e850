"""The data path in C gives what the one in Python gives: the same bytes, counters and drops for the same packets.

By one thread and by several: `threads` lets workers have every batch, also the small ones that one thread does faster.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.addresses import SocketAddress
from netctl.tunnel import Device, Peer
from netctl.tunnel.constants import REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME
from netctl.wg import native
from netctl.wg.loop import Shell
from netctl.wg.native.path import NativePath, pack_address, unpack_address
from netctl.wg.tun import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_HEADER, VNET_LEN
from tests.wg.test_wg_batch import cut, super_tcp, super_udp
from tests.wg.test_wg_burst import KEY, Sink, Super, Taken, made, read, taken, unsealed

pytestmark = pytest.mark.skipif(native.load()[0] is None, reason=f"the data path is {native.describe()}")


THREADS = st.sampled_from([1, 2, 4])


class End:
    """A `Shell` on the C data path whose TUN is a socket pair and whose peer is a UDP socket here."""

    def __init__(self, sink: Sink, threads: int = 1) -> None:
        self.sink = sink
        sink.name = "none"
        for opened in sink._ends:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.strangers: list[bytes] = []
        self.device = Device(bytes([1]) * 32, lambda n: bytes(n))
        self.shell = Shell(sink, self.device)
        self.shell.on_foreign = lambda datagram, _: self.strangers.append(datagram)
        assert self.shell._native is not None
        self.native = self.shell._native
        self.native.core.start_workers(threads, 0)
        self.shell.set_listen_port(0)
        self.out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.out.bind(("127.0.0.1", 0))
        self.out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.out.settimeout(0)
        peer = self.device.add_peer(bytes([2]) * 32)
        assert peer is not None
        self.peer: Peer = peer
        for prefix in ("10.0.0.0/24", "::/1"):
            self.device.allowed_ips.insert(ipaddress.ip_network(prefix), peer)

    def begin(self, local: int = 8, remote: int = 7, age: float = 0.0, is_initiator: bool = False) -> None:
        now = self.shell.now() - age
        pair = self.device.new_keypair(self.peer, local, remote, KEY, KEY, is_initiator, now, now)
        self.peer.begin_session(pair, now)
        host, port = self.out.getsockname()
        self.device.set_endpoint(self.peer, SocketAddress.of(host, port), now)

    def turn(self, timeout: float = 0.0) -> None:
        self.native.move(timeout)

    def sent(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.out.recv(70_000))
            except BlockingIOError:
                return found


@contextmanager
def end(sink: Sink | None = None, threads: int = 1) -> Iterator[End]:
    opened = End(sink or Super(), threads)
    try:
        yield opened
    finally:
        opened.out.close()
        opened.shell.close()


def through_c(raws: list[bytes], threads: int) -> tuple[list[bytes], int, int]:
    """(datagrams, bytes counted, the next counter) of reads of the TUN."""
    with end(threads=threads) as one:
        one.begin(7, 8, is_initiator=True)
        for raw in raws:
            os.write(one.sink.reader, raw)
            one.turn()
        for _ in range(3):
            one.turn()
        keypair = one.peer.current
        assert keypair is not None
        return one.sent(), one.peer.tx_bytes, keypair.send_counter


def through_python(raws: list[bytes]) -> tuple[list[bytes], int, int]:
    outbox, wire, _, peer = made()
    for raw in raws:
        outbox.packet(memoryview(raw), 1000.0)
        outbox.flush(1000.0)
    assert peer.current is not None
    return wire.datagrams, peer.tx_bytes, peer.current.send_counter


def super_read(version: int, protocol: int, size: int, gso_size: int, flags: int, harm: int) -> bytes:
    payload = bytes((i * 31 + size) & 0xFF for i in range(size))
    if protocol == 6:
        packet = bytearray(super_tcp(version, payload, 0xFFFFF000, flags, b"\1\1\x08\x0a12345678"))
        kind, offset = (GSO_TCPV4 if version == 4 else GSO_TCPV6), 16
    else:
        packet, kind, offset = bytearray(super_udp(version, payload, 53)), GSO_UDP_L4, 6
    at = 20 if version == 4 else 40
    header = [NEEDS_CSUM, kind, at + 8, gso_size, at, offset]
    if harm:  # a description that is wrong in one field
        header[harm] = (header[harm] * 7 + harm) % 256
    return VNET_HEADER.pack(*header) + bytes(packet)


single_reads = st.builds(
    read,
    st.sampled_from([4, 6]),
    st.integers(1, 65535),
    st.sampled_from([0, 1, 12, 18, 63, 1392]),
    st.booleans(),
    st.sampled_from([2, 2, 2, 3, 200]),
)
super_reads = st.builds(
    super_read,
    st.sampled_from([4, 6]),
    st.sampled_from([6, 17]),
    st.integers(2, 9000),
    st.integers(200, 1400),
    st.sampled_from([0x10, 0x18, 0x19, 0x90]),
    st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 5]),
)
odd_reads = st.one_of(
    st.binary(max_size=100),
    st.binary(max_size=80).map(lambda data: bytes(VNET_LEN) + b"\x45" + data),
    st.binary(max_size=80).map(lambda data: bytes(VNET_LEN) + b"\x60" + data),
)


@settings(max_examples=60, deadline=None)
@given(
    raws=st.lists(st.one_of(single_reads, super_reads, odd_reads), min_size=1, max_size=12), threads=THREADS
)
def test_what_is_read_from_the_tun_goes_out_as_the_same_bytes(raws: list[bytes], threads: int) -> None:
    raws = [raw for raw in raws if raw]
    found, wanted = through_c(raws, threads), through_python(raws)
    assert found == wanted
    unsealed(found[0])  # counters follow one another, and all of them are authentic


def c_taken(datagrams: list[bytes], at_once: bool, threads: int) -> Taken:
    """As `test_wg_burst.taken`, through real sockets: as one GSO send, or one by one."""
    with end(threads=threads) as one:
        one.begin()
        to = ("127.0.0.1", one.shell.listen_port)
        size = len(datagrams[0])
        even = all(len(data) == size for data in datagrams[:-1]) and len(datagrams[-1]) <= size
        if at_once and even and len(datagrams) > 1 and size * len(datagrams) <= 65_000:
            one.out.sendmsg([b"".join(datagrams)], [(17, 103, struct.pack("H", size))], 0, to)
        else:
            for data in datagrams:
                one.out.sendto(data, to)
        for _ in range(3):
            one.turn()
        assert isinstance(one.sink, Super)
        return one.sink.packets(), one.peer.rx_bytes, one.strangers


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.just(600), min_size=2, max_size=20),
    version=st.sampled_from([4, 6]),
    kind=st.sampled_from(["tcp", "udp", "vxlan", "small"]),
    sequence=st.integers(0, 2**32 - 1),
    at_once=st.booleans(),
    threads=THREADS,
    harm=st.lists(
        st.tuples(
            st.sampled_from(["repeat", "swap", "forge", "foreign", "old", "spoof", "empty", "junk", "cut"]),
            st.integers(0, 19),
        ),
        max_size=4,
    ),
)
def test_what_comes_by_udp_reaches_the_tun_as_the_same_packets(
    sizes: list[int],
    version: int,
    kind: str,
    sequence: int,
    at_once: bool,
    threads: int,
    harm: list[tuple[str, int]],
) -> None:
    if kind == "tcp":
        gso = GSO_TCPV4 if version == 4 else GSO_TCPV6
        packets = cut(super_tcp(version, bytes(sum(sizes)), sequence, 0x18, b""), gso, sizes[0])
    else:
        port, size = {"udp": (53, 600), "vxlan": (4789, 600), "small": (53, 18)}[kind]
        packets = [
            cut(super_udp(version, bytes([i]) * size, port), GSO_UDP_L4, size)[0] for i in range(len(sizes))
        ]
    datagrams = []
    for counter, packet in enumerate(packets):
        if ("spoof", counter) in harm and version == 4:
            packet = packet[:12] + bytes((172, 16, 0, 1)) + packet[16:]
        if ("spoof", counter) in harm and version == 6:
            packet = packet[:8] + bytes((0xFE, 0x80)) + packet[10:]
        if ("junk", counter) in harm:
            packet = b"\x05" + packet[1:]
        if ("cut", counter) in harm:
            packet = packet[:2] + b"\xff\xff" + packet[4:]
        padded = b"" if ("empty", counter) in harm else packet + bytes(-len(packet) % 16)
        head = struct.pack("<IIQ", 4, 8, counter)
        datagrams.append(head + ChaCha20Poly1305(KEY).encrypt(bytes(4) + head[8:], padded, None))
    for what, where in harm:
        i = where % len(datagrams)
        match what:
            case "repeat":
                datagrams.insert(i, datagrams[i])
            case "swap" if i:
                datagrams[i - 1], datagrams[i] = datagrams[i], datagrams[i - 1]
            case "forge":
                datagrams[i] = datagrams[i][:-1] + bytes((datagrams[i][-1] ^ 1,))
            case "foreign":
                datagrams[i] = b"\xf5nc1" + datagrams[i][4:]
            case "old":
                datagrams[i] = datagrams[i][:8] + (2**63).to_bytes(8, "little") + datagrams[i][16:]
    assert c_taken(datagrams, at_once, threads) == taken(datagrams, False)


def sealed(counter: int, packet: bytes, index: int = 8) -> bytes:
    head = struct.pack("<IIQ", 4, index, counter)
    return head + ChaCha20Poly1305(KEY).encrypt(bytes(4) + head[8:], packet, None)


def plain(number: int = 0) -> bytes:
    return read(4, 9, 20 + number, False)[VNET_LEN:]


@settings(max_examples=30, deadline=None)
@given(
    counters=st.lists(
        st.one_of(st.integers(0, 40), st.integers(8150, 8250), st.integers(16_300, 16_500)), max_size=40
    )
)
def test_the_replay_window_is_the_same(counters: list[int]) -> None:
    keypair = made()[3].current
    assert keypair is not None
    wanted = [counter for counter in counters if keypair.replay.accept_one(counter)]
    with end(Sink()) as one:
        one.begin()
        for counter in counters:
            packet = bytearray(plain())
            packet[-4:] = counter.to_bytes(4, "big")
            one.out.sendto(sealed(counter, bytes(packet)), ("127.0.0.1", one.shell.listen_port))
        one.turn()
        assert [int.from_bytes(packet[-4:], "big") for packet in one.sink.written()] == wanted


def test_the_last_counters_are_refused() -> None:
    with end(Sink()) as one:
        one.begin()
        to = ("127.0.0.1", one.shell.listen_port)
        for counter in (2**64 - 1, REJECT_AFTER_MESSAGES, REJECT_AFTER_MESSAGES - 1):
            one.out.sendto(sealed(counter, plain()), to)
        one.turn()
        assert len(one.sink.written()) == 1


def test_an_old_session_neither_sends_nor_receives() -> None:
    with end(Sink()) as one:
        one.begin(age=REJECT_AFTER_TIME + 1)
        one.out.sendto(sealed(0, plain()), ("127.0.0.1", one.shell.listen_port))
        raw = read(4, 9, 20, False)
        os.write(one.sink.reader, raw)
        one.turn()
        one.turn()
        assert one.sink.written() == []
        assert one.sent() == []
        assert one.peer.take_staged() == [raw], "the packet waits for a new session"


def test_the_first_packet_confirms_a_session_and_moves_the_endpoint() -> None:
    with end(Sink()) as one:
        one.begin()
        first = one.peer.next
        assert first is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
            elsewhere.bind(("127.0.0.1", 0))
            elsewhere.sendto(sealed(0, plain()), ("127.0.0.1", one.shell.listen_port))
            one.turn(5)
            assert one.peer.current is first
            assert one.peer.endpoint == SocketAddress.of(*elsewhere.getsockname())
            os.write(one.sink.reader, read(4, 9, 20, False))
            one.turn()
            elsewhere.settimeout(5)
            assert elsewhere.recv(200)[4:8] == (7).to_bytes(4, "little")


def test_datagrams_to_the_vxlan_port_are_written_one_by_one() -> None:
    """A filter sees the first frame of a super-packet alone: a forged one must not hide behind a good one."""
    for port, writes in ((4789, 5), (4790, 1)):
        with end() as one:
            one.begin()
            packets = cut(super_udp(4, bytes(500), port), GSO_UDP_L4, 100)
            data = b"".join(sealed(counter, packet) for counter, packet in enumerate(packets))
            size = struct.pack("H", len(data) // len(packets))
            one.out.sendmsg([data], [(17, 103, size)], 0, ("127.0.0.1", one.shell.listen_port))
            one.turn()
            assert len(one.sink.raw()) == writes


@pytest.mark.skipif(os.geteuid() != 0, reason="a raw socket needs root")
def test_what_comes_from_port_0_is_dropped() -> None:
    with end(Sink()) as one, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        one.begin()
        before = one.peer.endpoint
        for port, wanted in ((0, 0), (9, 1)):
            datagram = sealed(port, plain())
            head = struct.pack(">HHHH", port, one.shell.listen_port, 8 + len(datagram), 0)
            raw.sendto(head + datagram, ("127.0.0.1", 0))
            one.turn(0.1)
            assert len(one.sink.written()) == wanted
            assert (one.peer.endpoint == before) is (port == 0)


def test_keys_that_are_wiped_open_nothing() -> None:
    with end(Sink()) as one:
        one.begin()
        one.peer.wipe_sessions()
        one.out.sendto(sealed(0, plain()), ("127.0.0.1", one.shell.listen_port))
        one.turn()
        assert one.sink.written() == []


def test_a_change_of_allowed_ips_counts_from_the_next_packet_on() -> None:
    with end(Sink()) as one:
        one.begin()
        to = ("127.0.0.1", one.shell.listen_port)
        one.out.sendto(sealed(0, plain()), to)
        one.turn()
        one.device.allowed_ips.remove_peer(one.peer)
        one.out.sendto(sealed(1, plain()), to)
        one.turn()
        assert len(one.sink.written()) == 1


def test_a_peer_that_is_removed_leaves_its_number_to_the_next() -> None:
    with end(Sink()) as one:
        one.begin()
        one.device.remove_peer(one.peer.public_key)
        one.turn()
        other = one.device.add_peer(bytes([3]) * 32)
        assert other is not None
        one.peer = other
        one.begin(9, 6)
        assert one.native.lookup(bytes((10, 0, 0, 1))) == -1, "and none of its allowed IPs"


def received(one: End, datagrams: list[bytes]) -> None:
    """Fill the socket, so that one turn takes it all: some of it is being opened when the rest is received."""
    for data in datagrams:
        one.out.sendto(data, ("127.0.0.1", one.shell.listen_port))
    one.turn()


@pytest.mark.parametrize("threads", [1, 3])
def test_order_is_kept_and_nothing_is_lost_while_workers_open(threads: int) -> None:
    with end(Sink(), threads) as one:
        one.begin()
        packets = [plain()[:-4] + number.to_bytes(4, "big") for number in range(400)]
        received(one, [sealed(number, packet) for number, packet in enumerate(packets)])
        assert one.sink.written() == packets


@pytest.mark.parametrize("threads", [1, 3])
def test_a_session_that_goes_within_a_batch_takes_no_packet_after_that(threads: int) -> None:
    """What came before the datagram that ended it was received; what stood behind it was opened already, and is not."""
    with end(Sink(), threads) as one:
        one.begin()
        one.shell.on_foreign = lambda datagram, source: one.peer.wipe_sessions()
        datagrams = [sealed(number, plain()) for number in range(30)]
        datagrams.insert(20, b"\xf5nc1")
        received(one, datagrams)
        assert len(one.sink.written()) == 20


@pytest.mark.parametrize("threads", [1, 3])
def test_a_session_that_begins_within_a_batch_takes_what_follows(threads: int) -> None:
    with end(Sink(), threads) as one:
        one.begin()

        def handshake(datagram: bytes, source: SocketAddress) -> None:
            now = one.shell.now()
            pair = one.device.new_keypair(one.peer, 9, 7, KEY, KEY, False, now, now)
            one.peer.begin_session(pair, now)

        one.shell.on_foreign = handshake
        datagrams = [sealed(number, plain(), 8 if number < 15 else 9) for number in range(30)]
        datagrams.insert(15, b"\xf5nc1")
        received(one, datagrams)
        assert len(one.sink.written()) == 30


@pytest.mark.parametrize("threads", [1, 3])
def test_a_fault_of_the_protocol_while_workers_are_at_it_ends_nothing(threads: int) -> None:
    with end(Sink(), threads) as one:
        one.begin()
        failing = FailingHost.__new__(FailingHost)
        for number in range(0, 400, 100):
            batch = [sealed(number + i, plain()) for i in range(100)]
            for data in [*batch[:50], b"\xf5nc1", *batch[50:]]:
                one.out.sendto(data, ("127.0.0.1", one.shell.listen_port))
            with pytest.raises((ZeroDivisionError, AttributeError)):
                one.native.core.move(failing, 5)
            one.sink.written()
            one.turn()
        one.sink.written()
        received(one, [sealed(1000, plain())])
        assert len(one.sink.written()) == 1


KEYS_GONE = """
import os, sys, time, select
from netctl.wg import native
sys.path.insert(0, sys.argv[1])
from threads import Nobody, PEER, super_packet
module, _ = native.load()
core = module.Core(-1, select.epoll().fileno(), time.CLOCK_BOOTTIME, True, True, 0.0)
core.set_peer(PEER, None, b"", False)
core.start_workers(int(sys.argv[2]), 0)
host, raw = Nobody(), super_packet()
address = bytes([4, 127, 0, 0, 1]) + bytes(12) + (9).to_bytes(2, "big") + bytes(4)
masked = bytearray(os.urandom(32))
def look():
    print(masked.hex(), flush=True)
    sys.stdin.readline()
def key():
    return bytes(byte ^ 0x5A for byte in masked)
look()
core.add_session(1, 2, PEER, key(), key(), time.clock_gettime(time.CLOCK_BOOTTIME))
core.set_peer(PEER, 1, address, False)
for _ in range(20):
    core.transmit(host, raw)
look()
core.transmit(host, raw)
core.transmit(host, raw)
core.drop_session(1)
look()
"""


def copies(pid: int, key: bytes) -> int:
    """In memory that a process can write."""
    found = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            place, rights, *rest = line.split()
            if not rights.startswith("rw") or rest[-1] in ("[vvar]", "[vsyscall]"):
                continue
            start, last = (int(text, 16) for text in place.split("-"))
            memory.seek(start)
            found += memory.read(last - start).count(key)
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_keys_are_gone_from_memory_when_their_session_is(threads: int) -> None:
    """Also those that workers have made contexts of, and seal with at that very moment."""
    bench = Path(__file__).parents[2] / "bench"
    command = [sys.executable, "-c", KEYS_GONE, str(bench), str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        counts = []
        for _ in range(3):
            key = bytes(byte ^ 0x5A for byte in bytes.fromhex(process.stdout.readline()))
            counts.append(copies(process.pid, key[:16]))  # OpenSSL keeps it as words, in this order
            process.stdin.write("\n")
            process.stdin.flush()
    before, alive, after = counts
    assert before == 0
    assert alive >= (3 if threads > 1 else 2), "else this test looks in the wrong place"
    assert after <= 2, "the two bytes objects that Python was given, which it frees and does not overwrite"
    assert alive - after >= 4


class FailingHost(NativePath):
    """A protocol with a fault in it."""

    def other(self, datagram: bytes, source: bytes) -> None:
        raise ZeroDivisionError


def test_a_fault_of_the_protocol_is_raised_and_ends_nothing() -> None:
    with end(Sink()) as one:
        one.begin()
        one.out.sendto(b"\xf5nc1", ("127.0.0.1", one.shell.listen_port))
        failing = FailingHost.__new__(FailingHost)
        with pytest.raises(ZeroDivisionError):
            one.native.core.move(failing, 5)
        one.out.sendto(sealed(0, plain()), ("127.0.0.1", one.shell.listen_port))
        one.turn(5)
        assert len(one.sink.written()) == 1


def test_the_core_refuses_what_makes_no_sense() -> None:
    with end(Sink()) as one:
        core = one.native.core
        for arguments in (
            (1, 2, 999, KEY, KEY, 0.0),
            (1, 2, 0, KEY[:-1], KEY, 0.0),
            (2**32, 2, 0, KEY, KEY, 0.0),
        ):
            with pytest.raises(ValueError):
                core.add_session(*arguments)
        with pytest.raises(ValueError):
            core.set_peer(0, None, b"\x05" + bytes(22), False)
        core.drop_session(12345)
        core.drop_peer(12345)
        assert core.transmit(one.native, b"short"), "dropped, as from the TUN"
        assert not core.keepalive(12345)


@pytest.mark.parametrize("text", ["192.0.2.1:5", "[2001:db8::1]:65535", "[fe80::1%1]:9"])
def test_addresses_there_and_back(text: str) -> None:
    address = SocketAddress.parse(text)
    assert unpack_address(pack_address(address)) == address


def test_the_path_in_python_keeps_no_peer_that_was_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "0")

    class Link(Sink):
        mtu = 1420

        def current_name(self) -> str:
            return "none"

    sink = Link()
    sink.name = "none"
    device = Device(bytes([1]) * 32, lambda n: bytes(n))
    shell = Shell(sink, device)
    try:
        for number in range(2, 9):
            device.add_peer(bytes([number]) * 32)
            device.remove_peer(bytes([number]) * 32)
        assert device.changed
        shell._look()
        assert not device.changed
    finally:
        shell.close()
