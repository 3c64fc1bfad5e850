"""What a turn of the loop takes at once is what it would have taken packet by packet; and many datagrams a call."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.addresses import SocketAddress
from netctl.system import mmsg
from netctl.tunnel import Device, Keypair, Peer
from netctl.wg.inbox import Inbox
from netctl.wg.outbox import Burst, Outbox
from netctl.wg.tun import GSO_TCPV4, NEEDS_CSUM, VNET_HEADER, VNET_LEN, Tun
from netctl.wg.udp import Udp
from tests.wg.test_wg_batch import cut, ip_header, is_valid, super_tcp

NOW = 1000.0
KEY = bytes(range(32))
PEER = SocketAddress.of("192.0.2.9", 51820)


class Wire(Udp):
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []

    def send_one(self, destination: SocketAddress, data: memoryview) -> None:
        assert destination == PEER
        self.datagrams.append(bytes(data))

    def send_segments(self, destination: SocketAddress, data: memoryview, segment: int) -> None:
        for start in range(0, len(data), segment):
            self.send_one(destination, data[start : start + segment])


def made() -> tuple[Outbox, Wire, Device, Peer]:
    device = Device(bytes([1]) * 32, lambda n: bytes(n))
    peer = device.add_peer(bytes([2]) * 32)
    assert peer is not None
    for prefix in ("10.0.0.0/24", "::/1"):
        device.allowed_ips.insert(ipaddress.ip_network(prefix), peer)
    peer.begin_session(Keypair(peer, 7, 8, KEY, KEY, True, NOW, NOW), NOW)
    peer.endpoint = PEER
    outbox, wire = Outbox(device), Wire()
    outbox.udp = wire
    return outbox, wire, device, peer


def unsealed(datagrams: list[bytes]) -> list[bytes]:
    """The plain packets with their padding; the counters must follow one another."""
    found: list[Any] = []
    for number, datagram in enumerate(datagrams):
        kind, index, counter = struct.unpack_from("<IIQ", datagram)
        assert (kind, index, counter) == (4, 8, number)
        found.append(ChaCha20Poly1305(KEY).decrypt(bytes(4) + datagram[8:16], datagram[16:], None))
    return found


def read(version: int, port: int, size: int, needs_checksum: bool, destination: int = 2) -> bytes:
    """A UDP packet as a read of the TUN gives it, its checksum still to be made or none wanted."""
    payload = bytes((port * 7 + i) & 0xFF for i in range(size))
    header = bytearray(ip_header(version, 17, 8 + size))
    header[-1] = destination
    at = len(header)
    if version == 4:
        header[10:12] = b"\0\0"
        total = sum(struct.unpack(">10H", header))
        header[10:12] = struct.pack(">H", 0xFFFF - total % 0xFFFF)
    addresses = header[8:40] if version == 6 else header[12:20]
    pseudo = sum(struct.unpack(f">{len(addresses) // 2}H", addresses)) + 17 + 8 + size
    udp = struct.pack(">HHHH", port, 53, 8 + size, pseudo % 0xFFFF if needs_checksum else 0)
    vnet = VNET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, at, 6) if needs_checksum else bytes(VNET_LEN)
    return vnet + bytes(header) + udp + payload


reads = st.lists(
    st.tuples(
        st.sampled_from([4, 6]),
        st.integers(1, 65535),
        st.sampled_from([12, 18, 18, 18, 64, 1392]),
        st.booleans(),
        st.sampled_from([2, 2, 2, 2, 3, 200]),
        st.integers(1, 70),
    ),
    min_size=1,
    max_size=4,
).map(
    lambda groups: [
        read(version, port + i & 0xFFFF, size, summed, to)
        for version, port, size, summed, to, n in groups
        for i in range(n)
    ][: Burst.COUNT]
)


@settings(max_examples=40, deadline=None)
@given(raws=reads)
def test_a_burst_is_its_packets_one_by_one(raws: list[bytes]) -> None:
    outbox, wire, _, peer = made()
    burst = Burst()
    for slot, raw in enumerate(raws):
        burst.views[slot][: len(raw)] = raw
        burst.lengths.append(len(raw))
    outbox.burst(burst, NOW)
    outbox.flush(NOW)
    single, single_wire, _, single_peer = made()
    for read_raw in raws:
        single.packet(memoryview(read_raw), NOW)
        single.flush(NOW)
    packets = unsealed(wire.datagrams)
    assert packets == unsealed(single_wire.datagrams)
    assert peer.tx_bytes == single_peer.tx_bytes
    assert burst.lengths == []
    for raw, packet in zip(raws, packets, strict=True):
        length = len(raw) - VNET_LEN
        assert not any(packet[length:]), "padding is zero"
        if raw[0] == NEEDS_CSUM:
            assert is_valid(packet[:length])


def test_a_checksum_inside_a_tunnel_begins_anywhere() -> None:
    """VXLAN over IPv4 carries TCP whose checksum starts at byte 70: two off the words of four."""
    outbox, wire, _, _ = made()
    burst = Burst()
    raws = []
    for number in range(8):
        raw = bytearray(read(4, 4789, 400, False))
        raw[VNET_LEN + 100 + number] = number
        VNET_HEADER.pack_into(raw, 0, NEEDS_CSUM, 0, 0, 0, 70, 16)
        raws.append(bytes(raw))
        burst.views[number][: len(raw)] = raw
        burst.lengths.append(len(raw))
    assert outbox._alike(burst.rows[:8, : len(raws[0])], NOW)
    single, single_wire, _, _ = made()
    for read_raw in raws:
        single.packet(memoryview(read_raw), NOW)
        single.flush(NOW)
    assert wire.datagrams == single_wire.datagrams


@settings(max_examples=40, deadline=None)
@given(raw=reads.map(lambda raws: raws[0]))
def test_a_lone_packet_takes_the_short_way_to_the_same_datagram(raw: bytes) -> None:
    outbox, wire, _, peer = made()
    burst = Burst()
    burst.views[0][:2000] = bytes([0xAA]) * 2000  # what a packet before has left
    burst.views[0][: len(raw)] = raw
    outbox.lone(burst.views[0], len(raw), NOW)
    single, single_wire, _, single_peer = made()
    single.packet(memoryview(raw), NOW)
    single.flush(NOW)
    assert wire.datagrams == single_wire.datagrams
    assert peer.tx_bytes == single_peer.tx_bytes


def test_a_lone_packet_without_a_session_waits_for_one() -> None:
    outbox, wire, _, peer = made()
    peer.wipe_sessions()
    raw = read(4, 9, 20, False)
    view = memoryview(bytearray(raw) + bytearray(100))
    outbox.lone(view, len(raw), NOW)
    assert wire.datagrams == []
    assert peer.take_staged() == [raw]


@pytest.mark.parametrize(
    "raw", [b"", bytes(VNET_LEN), bytes(VNET_LEN) + b"\x45" * 19, bytes(VNET_LEN) + b"\x60" * 39]
)
def test_a_lone_fragment_of_a_packet_goes_nowhere(raw: bytes) -> None:
    outbox, wire, _, peer = made()
    outbox.lone(memoryview(bytearray(raw) + bytearray(100)), len(raw), NOW)
    assert wire.datagrams == []
    assert peer.take_staged() == []


class Sink(Tun):
    """A TUN that keeps what is written, write by write."""

    def __init__(self) -> None:
        self._ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.reader, self.fd = (end.fileno() for end in self._ends)
        self.offload = self.uso = False

    def written(self) -> list[bytes]:
        return [data[VNET_LEN:] for data in self.raw()]

    def raw(self) -> list[bytes]:
        """With their vnet headers."""
        found: list[Any] = []
        while True:
            try:
                found.append(os.read(self.reader, 70_000))
            except BlockingIOError:
                return found

    def close(self) -> None:
        for end in self._ends:
            end.close()


@pytest.mark.skipif(not mmsg.AVAILABLE, reason="recvmmsg(2) is not in this C library")
def test_many_datagrams_a_call_arrive_as_they_would_singly() -> None:
    """Sent with sendmmsg, taken with recvmmsg: in order, strangers and forgeries among them."""
    outbox, wire, _, _ = made()
    wanted = []
    for port, size in [(1, 64)] * 20 + [(2, 1000)] * 9 + [(3, 20)]:
        raw = read(4, port, size, False)
        outbox.packet(memoryview(raw), NOW)
        outbox.flush(NOW)
        wanted.append(raw[VNET_LEN:])
    datagrams = list(wire.datagrams)
    forged = bytearray(datagrams[5])
    forged[40] ^= 1
    datagrams[5] = bytes(forged)
    del wanted[5]
    datagrams.insert(12, b"\x80 is no WireGuard")
    inbox_device = made()[2]
    peer = next(iter(inbox_device.peers.values()))
    pair = Keypair(peer, 8, 7, KEY, KEY, False, NOW, NOW)
    peer.begin_session(pair, NOW)
    sink = Sink()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as into,
    ):
        into.bind(("127.0.0.1", 0))
        out.bind(("127.0.0.1", 0))
        for datagram in datagrams:
            out.sendto(datagram, into.getsockname())
        inbox = Inbox(inbox_device, sink)
        assert inbox.ring is not None
        strangers = []
        got = inbox.ring.receive(into.fileno())
        assert got == len(datagrams)
        for first, count, total, size in inbox.ring.runs(got):
            assert total == size
            host, port, scope = inbox.ring.source(first)
            assert ((host, port), scope) == (out.getsockname(), 0)
            source = SocketAddress.of(host, port)
            inbox.receive_run(first, count, size, source, NOW, lambda data, _: strangers.append(data))
        assert inbox.ring.receive(into.fileno()) == 0, "nothing waits: it does not block"
    assert [packet.rstrip(b"\0") for packet in sink.written()] == [packet.rstrip(b"\0") for packet in wanted]
    assert strangers == [b"\x80 is no WireGuard"]
    sink.close()


@pytest.mark.skipif(not mmsg.AVAILABLE, reason="sendmmsg(2) is not in this C library")
@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
@pytest.mark.parametrize("total", [5, 10, 640, 633])
def test_segments_go_as_datagrams_of_their_own(host: str, family: int, total: int) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as into, socket.socket(family, socket.SOCK_DGRAM) as out:
        into.bind((host, 0))
        data = bytearray(os.urandom(total))
        assert (
            mmsg.Sender().send(out.fileno(), (host, into.getsockname()[1], 0), memoryview(data), 10) == total
        )
        into.settimeout(5)
        assert b"".join(into.recv(100) for _ in range(-(-total // 10))) == data


@pytest.mark.skipif(not mmsg.AVAILABLE, reason="sendmmsg(2) is not in this C library")
def test_a_refused_call_says_why() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out, pytest.raises(OSError, match="denied"):
        mmsg.Sender().send(out.fileno(), ("127.255.255.255", 9, 0), memoryview(bytearray(20)), 10)


class Super(Sink):
    """The same with offloads: super-packets are cut again as the kernel would."""

    def __init__(self) -> None:
        super().__init__()
        self.offload = self.uso = True

    def packets(self) -> list[bytes]:
        found: list[Any] = []
        while True:
            try:
                data = os.read(self.reader, 70_000)
            except BlockingIOError:
                return found
            _, kind, _, size, _, _ = VNET_HEADER.unpack_from(data)
            found += cut(data[VNET_LEN:], kind, size) if kind else [data[VNET_LEN:]]


def tcp_packets(sizes: list[int], sequence: int) -> list[bytes]:
    """A TCP stream of valid packets."""
    found: list[Any] = []
    for size in sizes:
        whole = super_tcp(4, bytes(size), sequence, 0x10, b"")
        found += cut(whole, GSO_TCPV4, size)
        sequence = (sequence + size) % 2**32
    return found


Taken = tuple[list[bytes], int, list[bytes]]


def taken(datagrams: list[bytes], at_once: bool) -> Taken:
    """(packets on the TUN, bytes counted, what went to others) of datagrams of one size but for the last."""
    device = made()[2]
    (peer,) = device.peers.values()
    peer.begin_session(Keypair(peer, 8, 7, KEY, KEY, False, NOW, NOW), NOW)
    sink, strangers = Super(), []
    inbox = Inbox(device, sink)
    try:
        for group in [datagrams] if at_once else [[one] for one in datagrams]:
            data = b"".join(group)
            inbox.buffer[: len(data)] = data
            inbox.receive(len(data), len(group[0]), PEER, NOW, lambda other, _: strangers.append(other))
        return sink.packets(), peer.rx_bytes, strangers
    finally:
        sink.close()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.just(600), min_size=2, max_size=20),
    sequence=st.integers(0, 2**32 - 1),
    harm=st.lists(
        st.tuples(
            st.sampled_from(["repeat", "swap", "forge", "foreign", "old", "spoof"]), st.integers(0, 19)
        ),
        max_size=4,
    ),
)
def test_a_merged_receipt_is_its_datagrams_one_by_one(
    sizes: list[int], sequence: int, harm: list[tuple[str, int]]
) -> None:
    packets = tcp_packets(sizes, sequence)
    datagrams = []
    for counter, packet in enumerate(packets):
        if ("spoof", counter) in harm:  # an inner source that is not this peer's
            packet = packet[:12] + bytes((172, 16, 0, 1)) + packet[16:]
        padded = packet + bytes(-len(packet) % 16)
        head = struct.pack("<IIQ", 4, 8, counter)
        datagrams.append(head + ChaCha20Poly1305(KEY).encrypt(bytes(4) + head[8:], padded, None))
    for kind, where in harm:
        i = where % len(datagrams)
        match kind:
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
    assert taken(datagrams, True) == taken(datagrams, False)
