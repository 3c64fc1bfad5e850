"""Splits a super-packet into packets of wire size, all of them at once, as a network card does for TSO and USO."""

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
    """The layout of a super-packet: where its headers end, and how many bytes of payload each packet gets."""

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
        """The number of packets in the super-packet."""
        return -(-(self.total - self.header_len) // self.gso_size)

    @property
    def packet_len(self) -> int:
        """Bytes of each packet but the last."""
        return self.header_len + self.gso_size

    @property
    def last_len(self) -> int:
        """Bytes of the last packet."""
        return self.total - (self.count - 1) * self.gso_size


def shape(packet: memoryview, gso_type: int, gso_size: int, csum_start: int) -> Super | None:
    """The layout of a super-packet from the fields of its vnet header; None: the fields contradict the packet."""
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
    too_short = protocol == TCP and header_len < csum_start + 20
    if csum_start < smallest or header_len >= total or too_short:
        return None
    return Super(csum_start, header_len, gso_size, total, is_ipv6, protocol)


def segment(packet: NDArray[np.uint8], what: Super, first: int, count: int, slots: Slots) -> None:
    """Write packets `first` … `first + count - 1` into the rows of `slots`, with correct headers and checksums.

    A row is at least `packet_len` bytes wide, a multiple of 4, and is padded with zeros here. All packets of a
    super-packet but the last have almost equal headers, so these are made once; the last one is corrected separately.
    """
    header_len, size, at = what.header_len, what.gso_size, what.ip_len
    ends = first + count == what.count
    whole = count - 1 if ends else count
    header = bytearray(packet[:header_len].tobytes())
    flags = header[at + 13] if what.protocol == TCP else 0
    constant = _set_header(header, what, what.packet_len)
    rows = slots[:count]
    rows[:, :header_len] = np.frombuffer(header, np.uint8)
    start = header_len + first * size
    rows[:whole, header_len : header_len + size] = packet[start : start + whole * size].reshape(whole, size)
    rows[:, header_len + size :] = 0
    if ends:
        tail = packet[start + whole * size :]
        rows[whole, header_len : header_len + len(tail)] = tail
        rows[whole, header_len + len(tail) :] = 0
    if what.protocol == TCP:
        sequence = int.from_bytes(packet[at + 4 : at + 8].tobytes(), "big") + first * size
        numbers = np.uint64(sequence) + _STEPS[:count] * np.uint64(size)
        rows[:, at + 4 : at + 8].view(">u4")[:, 0] = numbers.astype(np.uint32)
        if first == 0:  # CWR: the congestion window was reduced once (RFC 3168 §6.1.2)
            rows[0, at + 13] = flags & ~(_FIN | _PSH)
        if ends:
            rows[-1, at + 13] |= flags & (_FIN | _PSH)
    sums = rows[:, at : at + -(-(what.packet_len - at) // 4) * 4].view("<u4").sum(axis=1, dtype=np.uint64)
    sums += np.uint64(constant)
    if ends:
        last = bytearray(header)
        mended = _set_header(last, what, what.last_len)
        rows[-1, :at] = np.frombuffer(last, np.uint8)[:at]
        if what.protocol == UDP:
            rows[-1, at + 4 : at + 6] = np.frombuffer(last, np.uint8)[at + 4 : at + 6]
            mended += checksum.partial(last[at + 4 : at + 6]) - checksum.partial(header[at + 4 : at + 6])
        sums[-1] += np.uint64((mended - constant) % 0xFFFF)
    fields = checksum.finish_rows(sums)
    if what.protocol == UDP:
        fields[fields == 0] = 0xFFFF  # zero means that there is no checksum (RFC 768)
    place = at + (16 if what.protocol == TCP else 6)
    rows[:, place : place + 2].view("<u2")[:, 0] = fields


_STEPS: NDArray[np.uint64] = np.arange(64, dtype=np.uint64)


def _set_header(header: bytearray, what: Super, length: int) -> int:
    """Adapt the headers to a packet of `length` bytes, with checksum zero; returns the sum of the pseudo-header."""
    at = what.ip_len
    if what.is_ipv6:
        header[4:6] = (length - 40).to_bytes(2, "big")
    else:
        header[2:4] = length.to_bytes(2, "big")
        header[10:12] = b"\0\0"
        header[10:12] = checksum.finish(checksum.partial(header[:at]))
    if what.protocol == TCP:
        header[at + 13] &= ~(_FIN | _PSH | _CWR) & 0xFF
        header[at + 16 : at + 18] = b"\0\0"
    else:
        header[at + 4 : at + 6] = (length - at).to_bytes(2, "big")
        header[at + 6 : at + 8] = b"\0\0"
    addresses = header[8:40] if what.is_ipv6 else header[12:20]
    return checksum.pseudo(addresses, what.protocol, length - at)


def complete(packet: bytearray, csum_start: int, csum_offset: int) -> bool:
    """Complete a packet's checksum; before, the field holds the pseudo-header's sum. False: the offsets are invalid."""
    field = csum_start + csum_offset
    if csum_start < 20 or field + 2 > len(packet):
        return False
    value = checksum.finish(checksum.partial(memoryview(packet)[csum_start:]))
    is_udp = (packet[6] if packet[0] >> 4 == 6 else packet[9]) == UDP
    packet[field : field + 2] = b"\xff\xff" if is_udp and value == b"\0\0" else value
    return True
