"""The batch path against a packet-by-packet model: segmentation, checksums, merging."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.wg import checksum
from netctl.wg.coalesce import is_one_flow, merge, runs
from netctl.wg.segment import complete, segment, shape
from netctl.wg.tun import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_HEADER

TCP, UDP = 6, 17


def naive_checksum(data: bytes) -> int:
    """RFC 1071, word by word, big-endian."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def transport_sum(packet: bytes) -> int:
    """The checksum over pseudo-header and transport part as it stands: 0 for a valid packet."""
    if packet[0] >> 4 == 6:
        body, protocol, addresses = packet[40:], packet[6], packet[8:40]
        pseudo = addresses + struct.pack(">IxxxB", len(body), protocol)
    else:
        body, protocol, addresses = packet[20:], packet[9], packet[12:20]
        pseudo = addresses + struct.pack(">xBH", protocol, len(body))
    return naive_checksum(pseudo + body)


def is_valid(packet: bytes) -> bool:
    """Lengths and checksums are right."""
    if packet[0] >> 4 == 6:
        sound = int.from_bytes(packet[4:6], "big") == len(packet) - 40
    else:
        sound = int.from_bytes(packet[2:4], "big") == len(packet) and naive_checksum(packet[:20]) == 0
    return sound and transport_sum(packet) == 0


def ip_header(version: int, protocol: int, payload: int) -> bytes:
    if version == 4:
        return struct.pack(
            ">BBHHHBBH4s4s", 0x45, 3, 20 + payload, 7, 0x4000, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"
        )
    return struct.pack(">IHBB16s16s", 0x60300000, payload, protocol, 64, bytes(15) + b"\1", bytes(15) + b"\2")


def super_tcp(version: int, payload: bytes, sequence: int, flags: int, options: bytes) -> bytes:
    offset = (5 + len(options) // 4) << 4
    tcp = struct.pack(">HHIIBBHHH", 1234, 80, sequence, 99, offset, flags, 500, 0, 0) + options
    return ip_header(version, TCP, len(tcp) + len(payload)) + tcp + payload


def super_udp(version: int, payload: bytes, port: int) -> bytes:
    udp = struct.pack(">HHHH", 4000, port, 8 + len(payload), 0)
    return ip_header(version, UDP, 8 + len(payload)) + udp + payload


payloads = st.integers(2, 6000).map(lambda n: bytes((i * 37 + n) & 0xFF for i in range(n)))


def cut(packet: bytes, kind: int, size: int) -> list[bytes]:
    """Segment with the code under test; every packet at its own length."""
    ip_len = 40 if packet[0] >> 4 == 6 else 20
    what = shape(memoryview(packet), kind, size, ip_len)
    assert what is not None
    row = -(-what.packet_len // 4) * 4 + 4
    slots = np.full((64, row), 0xAA, np.uint8)
    found = []
    done = 0
    while done < what.count:
        count = min(what.count - done, 20)
        segment(np.frombuffer(packet, np.uint8), what, done, count, slots)
        for i in range(count):
            length = what.last_len if done + i == what.count - 1 else what.packet_len
            assert not slots[i, length:].any(), "padding is zero"
            found.append(slots[i, :length].tobytes())
        done += count
    return found


@settings(max_examples=60, deadline=None)
@given(
    version=st.sampled_from([4, 6]),
    payload=payloads,
    size=st.integers(1, 1400),
    sequence=st.integers(0, 2**32 - 1),
    flags=st.sampled_from([0x10, 0x18, 0x19, 0x90]),
    options=st.sampled_from([b"", b"\1\1\x08\x0a12345678"]),
)
def test_tcp_segments_are_what_a_stack_would_send(
    version: int, payload: bytes, size: int, sequence: int, flags: int, options: bytes
) -> None:
    size = max(size, len(payload) // 100 + 1)
    packets = cut(
        super_tcp(version, payload, sequence, flags, options), GSO_TCPV4 if version == 4 else GSO_TCPV6, size
    )
    ip_len = 20 if version == 4 else 40
    header = ip_len + 20 + len(options)
    assert b"".join(packet[header:] for packet in packets) == payload
    for number, packet in enumerate(packets):
        last = number == len(packets) - 1
        assert is_valid(packet)
        assert int.from_bytes(packet[ip_len + 4 : ip_len + 8], "big") == (sequence + number * size) % 2**32
        assert packet[ip_len + 13] & 0x09 == (flags & 0x09 if last else 0), "PSH and FIN on the last alone"
        assert packet[ip_len + 13] & 0x80 == (flags & 0x80 if number == 0 else 0), "CWR on the first alone"
        assert packet[1] == super_tcp(version, b"", 0, 0, b"")[1], "ECN and traffic class are kept"


@settings(max_examples=40, deadline=None)
@given(version=st.sampled_from([4, 6]), payload=payloads, size=st.integers(1, 1400))
def test_udp_segments_are_datagrams_of_their_own(version: int, payload: bytes, size: int) -> None:
    size = max(size, len(payload) // 100 + 1)
    packets = cut(super_udp(version, payload, 53), GSO_UDP_L4, size)
    ip_len = 20 if version == 4 else 40
    assert b"".join(packet[ip_len + 8 :] for packet in packets) == payload
    for packet in packets:
        assert is_valid(packet)
        assert int.from_bytes(packet[ip_len + 4 : ip_len + 6], "big") == len(packet) - ip_len


def rows_of(packets: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    width = -(-max(max(map(len, packets)), 60) // 4) * 4
    rows = np.zeros((len(packets), width), np.uint8)
    for i, packet in enumerate(packets):
        rows[i, : len(packet)] = np.frombuffer(packet, np.uint8)
    return rows, np.array([len(packet) for packet in packets], np.int64)


def through(packets: list[bytes]) -> list[bytes]:
    """Merge as the receiver does, then cut again as the kernel would: what a host's stack sees."""
    rows, lengths = rows_of(packets)
    quick = is_one_flow(rows, int(lengths[0]), True)
    if quick:
        assert list(runs(rows, lengths, True)) == [(0, len(rows))], "the quick answer is the thorough one"
    seen = []
    for start, count in runs(rows, lengths, True):
        if count == 1:
            seen.append(packets[start])
            continue
        out = bytearray(10 + 65536)
        end = merge(rows[start : start + count], lengths[start : start + count], out)
        flags, kind, _, size, csum_start, offset = VNET_HEADER.unpack_from(out)
        assert flags == NEEDS_CSUM
        packet = bytes(out[10:end])
        whole = bytearray(packet)
        assert complete(whole, csum_start, offset)
        assert is_valid(bytes(whole)), "as one packet it is a valid one, too"
        seen += cut(packet, kind, size)
    return seen


@settings(max_examples=60, deadline=None)
@given(
    version=st.sampled_from([4, 6]),
    payload=payloads,
    size=st.integers(8, 1400),
    sequence=st.integers(0, 2**32 - 1),
    flags=st.sampled_from([0x10, 0x18, 0x11]),
    seed=st.integers(0, 2**16),
)
def test_merging_and_cutting_again_gives_the_same_packets(
    version: int, payload: bytes, size: int, sequence: int, flags: int, seed: int
) -> None:
    size = max(size, len(payload) // 60 + 1)
    kind = GSO_TCPV4 if version == 4 else GSO_TCPV6
    packets = cut(super_tcp(version, payload, sequence, flags, b""), kind, size)
    rng = np.random.default_rng(seed)
    if seed % 3 == 0 and len(packets) > 2:
        packets = [packets[i] for i in rng.permutation(len(packets))]
    if seed % 5 == 0:
        packets[rng.integers(len(packets))] = super_udp(version, b"between", 99)
    assert through(packets) == packets


def test_a_whole_flow_becomes_one() -> None:
    packets = cut(super_tcp(4, bytes(20 * 1000), 5, 0x18, b""), GSO_TCPV4, 1000)
    rows, lengths = rows_of(packets)
    assert list(runs(rows, lengths, True)) == [(0, 20)]
    assert is_one_flow(rows[:19], int(lengths[0]), True)
    assert is_one_flow(rows, int(lengths[0]), True), "PSH on the last"
    assert not is_one_flow(rows[[0, 19, 1]], int(lengths[0]), True), "PSH in the middle"


def test_datagrams_to_the_vxlan_port_are_never_merged() -> None:
    for port, wanted in ((4789, 5), (4790, 1)):
        packets = cut(super_udp(4, bytes(500), port), GSO_UDP_L4, 100)
        rows, lengths = rows_of(packets)
        assert len(list(runs(rows, lengths, True))) == wanted


def test_what_looks_odd_is_not_merged() -> None:
    good = cut(super_tcp(4, bytes(3000), 5, 0x10, b""), GSO_TCPV4, 1000)
    cases: dict[str, Callable[[bytes], bytes]] = {
        "a wrong header checksum": lambda p: p[:10] + b"\xde\xad" + p[12:],
        "a fragment": lambda p: p[:6] + b"\x20\x00" + p[8:],
        "URG": lambda p: p[:33] + b"\x30" + p[34:],
        "SYN": lambda p: p[:33] + b"\x12" + p[34:],
        "another TTL": lambda p: p[:8] + b"\x3f" + p[9:],
        "another acknowledgement": lambda p: p[:28] + b"\0\0\0\1" + p[32:],
    }
    for what, change in cases.items():
        packets = [good[0], change(good[1]), good[2]]
        rows, lengths = rows_of(packets)
        assert (0, 2) not in list(runs(rows, lengths, True)), what
        assert (0, 3) not in list(runs(rows, lengths, True)), what


@given(st.binary(min_size=0, max_size=200))
def test_partial_is_the_ones_complement_sum(data: bytes) -> None:
    assert (
        int.from_bytes(checksum.finish(checksum.partial(data)), "big") % 0xFFFF
        == naive_checksum(data) % 0xFFFF
    )


@settings(max_examples=200)
@given(st.binary(max_size=100), st.integers(0, 255), st.integers(0, 65535), st.integers(0, 65535))
def test_senseless_descriptions_are_refused_without_harm(
    data: bytes, kind: int, size: int, start: int
) -> None:
    what = shape(memoryview(data), kind, size, start)
    if what is not None:
        assert what.header_len < what.total == len(data)
        assert what.count >= 1
    packet = bytearray(data)
    complete(packet, start, size) if data else None
    assert len(packet) == len(data)
