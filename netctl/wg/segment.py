"""One super-packet to packets of wire size, all of them at once (what a card does for TSO and USO)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netctl.wg import checksum
from netctl.wg.tun import GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4

TCP, UDP = 6, 17
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80
Slots = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Super:
    """The shape of a super-packet: where its headers end, and how much payload each packet gets."""

    ip_len: int
    """Bytes of the IP header."""
    header_len: int
    """Bytes of IP and transport header together."""
    gso_size: int
    total: int
    is_ipv6: bool
    protocol: int

    @property
    def count(self) -> int:
        """Packets that it becomes."""
        return -(-(self.total - self.header_len) // self.gso_size)

    @property
    def packet_len(self) -> int:
        """Bytes of every packet but the last."""
        return self.header_len + self.gso_size

    @property
    def last_len(self) -> int:
        """Bytes of the last packet."""
        return self.total - (self.count - 1) * self.gso_size


def shape(packet: memoryview, gso_type: int, gso_size: int, csum_start: int) -> Super | None:
    """The shape of a super-packet as the kernel describes it; None when its description makes no sense."""
    kind = gso_type & ~GSO_ECN
    total = len(packet)
    if total < 20 or gso_size == 0:
        return None
    is_ipv6 = packet[0] >> 4 == 6
    if kind == GSO_UDP_L4:
        protocol, header_len = UDP, csum_start + 8
    elif kind == (GSO_TCPV6 if is_ipv6 else GSO_TCPV4) and csum_start + 13 < total:
        protocol, header_len = TCP, csum_start + (packet[csum_start + 12] >> 4) * 4
    else:
        return None
    smallest = 40 if is_ipv6 else 20
    if csum_start < smallest or header_len >= total:
        return None
    return Super(csum_start, header_len, gso_size, total, is_ipv6, protocol)


def segment(packet: NDArray[np.uint8], what: Super, first: int, count: int, slots: Slots) -> None:
    """Write packets `first` … `first + count - 1` into the rows of `slots`, headers and checksums made right.

    A row is at least `packet_len` bytes, a multiple of 4 wide, and padded with zeros here.
    """
    header_len, size, ip_len = what.header_len, what.gso_size, what.ip_len
    whole = count if first + count < what.count else count - 1
    rows = slots[:count]
    rows[:, :header_len] = packet[:header_len]
    start = header_len + first * size
    body = packet[start : start + whole * size]
    rows[:whole, header_len : header_len + size] = body.reshape(whole, size)
    rows[:, header_len + size :] = 0
    length = what.packet_len
    if whole < count:
        tail = packet[start + whole * size :]
        rows[whole, header_len : header_len + len(tail)] = tail
        rows[whole, header_len + len(tail) :] = 0
    lengths = np.full(count, length, np.int64)
    if whole < count:
        lengths[-1] = what.last_len
    _ip_headers(rows, what, lengths)
    if what.protocol == TCP:
        _tcp_headers(packet, rows, what, first, first + count == what.count)
    else:
        udp_lengths = (lengths - ip_len).astype(">u2")
        rows[:, ip_len + 4 : ip_len + 6] = udp_lengths.view(np.uint8).reshape(count, 2)
    _checksums(rows, what, lengths)


def _ip_headers(rows: Slots, what: Super, lengths: NDArray[np.int64]) -> None:
    count = len(rows)
    if what.is_ipv6:
        rows[:, 4:6] = (lengths - 40).astype(">u2").view(np.uint8).reshape(count, 2)
        return
    rows[:, 2:4] = lengths.astype(">u2").view(np.uint8).reshape(count, 2)
    rows[:, 10:12] = 0
    sums = np.ascontiguousarray(rows[:, : what.ip_len]).view("<u2").sum(axis=1, dtype=np.uint64)
    rows[:, 10:12] = checksum.finish_rows(sums).view(np.uint8).reshape(count, 2)


def _tcp_headers(packet: NDArray[np.uint8], rows: Slots, what: Super, first: int, ends: bool) -> None:
    count = len(rows)
    at = what.ip_len
    sequence = int.from_bytes(packet[at + 4 : at + 8].tobytes(), "big")
    numbers = np.uint64(sequence) + np.arange(first, first + count, dtype=np.uint64) * np.uint64(
        what.gso_size
    )
    rows[:, at + 4 : at + 8] = numbers.astype(np.uint32).astype(">u4").view(np.uint8).reshape(count, 4)
    flags = int(packet[at + 13])
    middle = flags & ~(_FIN | _PSH)
    rows[:, at + 13] = middle & ~_CWR  # the congestion window was reduced once: RFC 3168 §6.1.2
    if first == 0:
        rows[0, at + 13] = middle
    if ends:
        rows[-1, at + 13] |= flags & (_FIN | _PSH)


def _checksums(rows: Slots, what: Super, lengths: NDArray[np.int64]) -> None:
    count = len(rows)
    at = what.ip_len
    field = at + (16 if what.protocol == TCP else 6)
    rows[:, field : field + 2] = 0
    addresses = rows[0, 8:40] if what.is_ipv6 else rows[0, 12:20]
    constant = checksum.pseudo(addresses.tobytes(), what.protocol, 0)
    end = -(-(what.packet_len - at) // 4) * 4 + at
    if end <= rows.shape[1] and at % 4 == 0 and rows.strides[0] % 4 == 0:
        sums = rows[:, at:end].view("<u4").sum(axis=1, dtype=np.uint64)
    else:
        sums = np.array(
            [checksum.partial(row[at : int(n)].tobytes()) for row, n in zip(rows, lengths, strict=True)],
            np.uint64,
        )
    swapped = ((lengths - at).astype(">u2")).view("<u2").astype(np.uint64)
    fields = checksum.finish_rows(sums + swapped + np.uint64(constant))
    if what.protocol == UDP:
        fields[fields == 0] = 0xFFFF  # zero means: no checksum (RFC 768)
    rows[:, field : field + 2] = fields.view(np.uint8).reshape(count, 2)


def complete(packet: bytearray, csum_start: int, csum_offset: int) -> bool:
    """Finish a single packet's checksum: the field holds the pseudo-header's sum. False: no sense."""
    field = csum_start + csum_offset
    if csum_start < 20 or field + 2 > len(packet):
        return False
    value = checksum.finish(checksum.partial(memoryview(packet)[csum_start:]))
    is_udp = (packet[6] if packet[0] >> 4 == 6 else packet[9]) == UDP
    packet[field : field + 2] = b"\xff\xff" if is_udp and value == b"\0\0" else value
    return True
