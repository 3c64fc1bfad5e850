"""Merges in-order packets of one flow into one super-packet, as a kernel's GRO does, with one decision for all rows.

Only packets that a kernel would merge are merged: the headers are equal but for length, identification, checksum,
sequence number and, on the last, PSH and FIN; there are no IP options, no fragments and no other TCP flags. UDP to the
VXLAN port is never merged: a packet filter sees only the first frame of a super-packet.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from netctl.wg import checksum
from netctl.wg.segment import TCP, UDP, Slots
from netctl.wg.tun import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_HEADER

VXLAN_PORT = 4789
MAX_SUPER = 65_535
_ACK, _PSH_FIN = 0x10, 0x09
_DF = 0x40


def _header_len(row: NDArray[np.uint8], is_ipv6: bool, uso: bool) -> tuple[int, int, int] | None:
    """(IP header, both headers, protocol) of a packet that may begin a run; None for any other."""
    if is_ipv6:
        ip_len, protocol = 40, int(row[6])
    else:
        if row[0] != 0x45 or row[6] & 0xBF or row[7]:  # options, or a fragment
            return None
        ip_len, protocol = 20, int(row[9])
    if protocol == TCP:
        flags = int(row[ip_len + 13])
        data = int(row[ip_len + 12] >> 4) * 4
        # PSH and FIN end a run, so a packet with one of them begins none.
        return (ip_len, ip_len + data, TCP) if flags == _ACK and data >= 20 else None
    if protocol == UDP and uso:
        port = int(row[ip_len + 2]) << 8 | int(row[ip_len + 3])
        summed = row[ip_len + 6] or row[ip_len + 7]
        return (ip_len, ip_len + 8, UDP) if port != VXLAN_PORT and summed else None
    return None


def is_one_flow(rows: Slots, length: int, uso: bool) -> bool:
    """Whether all rows are one run of packets of `length` bytes each, checked with as few operations as possible.

    False: `runs` must find out. Bulk transfers give True, batch after batch.
    """
    first = rows[0]
    is_ipv6 = int(first[0]) >> 4 == 6
    headers = _header_len(first, is_ipv6, uso) if rows.shape[1] >= 60 else None
    if headers is None:
        return False
    ip_len, header_len, protocol = headers
    size = length - header_len
    said = (
        int.from_bytes(first[4:6].tobytes(), "big") + 40
        if is_ipv6
        else int.from_bytes(first[2:4].tobytes(), "big")
    )
    if size <= 0 or said != length or header_len + size * len(rows) > MAX_SUPER:
        return False
    words = np.ascontiguousarray(rows[:, :header_len]).view(np.uint32)
    differ = words ^ words[0]
    differ &= _uniform_mask(ip_len, header_len, protocol)
    if np.count_nonzero(differ) or not (is_ipv6 or checksum.partial(first[:20].tobytes()) == 0):
        return False
    if protocol == UDP:
        return True
    flags = rows[:, ip_len + 13]  # PSH and FIN may end the run, as they end a sender's super-packet
    if np.count_nonzero(flags[:-1] != _ACK) or int(flags[-1]) & ~_PSH_FIN != _ACK:
        return False
    numbers = words[:, ip_len // 4 + 1].byteswap()
    return not np.count_nonzero((numbers - numbers[0]) != _STEPS32[: len(rows)] * np.uint32(size))


_STEPS32: NDArray[np.uint32] = np.arange(256, dtype=np.uint32)


@functools.cache
def _uniform_mask(ip_len: int, header_len: int, protocol: int) -> NDArray[np.uint32]:
    """Ones except at the fields that differ within one super-packet: sequence number, flags, checksum."""
    mask = np.full(header_len, 0xFF, np.uint8)
    if protocol == TCP:
        mask[ip_len + 4 : ip_len + 8] = 0
        mask[ip_len + 13] = 0
        mask[ip_len + 16 : ip_len + 18] = 0
    else:
        mask[ip_len + 6 : ip_len + 8] = 0
    return mask.view(np.uint32)


def runs(rows: Slots, lengths: NDArray[np.int64], uso: bool) -> Iterator[tuple[int, int]]:
    """(first, count) of consecutive rows that may be merged into one packet; a row that may not has count 1.

    `lengths`: the lengths in bytes from the IP headers, already checked.
    """
    total = len(rows)
    start = 0
    while start < total:
        count = _run(rows[start:], lengths[start:], uso) if total - start > 1 else 1
        yield start, count
        start += count


def _run(rows: Slots, lengths: NDArray[np.int64], uso: bool) -> int:
    first = rows[0]
    is_ipv6 = int(first[0]) >> 4 == 6
    headers = _header_len(first, is_ipv6, uso) if rows.shape[1] >= 60 else None
    if headers is None:
        return 1
    ip_len, header_len, protocol = headers
    length = int(lengths[0])
    size = length - header_len
    if size <= 0:
        return 1
    limit = min(len(rows), (MAX_SUPER - header_len) // size)
    rows, lengths = rows[:limit], lengths[:limit]
    words = rows[:, :header_len].view(np.uint32)
    differ = words ^ words[0]
    if not is_ipv6 and differ[:, :3].any():
        # A wrong header checksum must stay wrong: merging would correct it, so such a packet is not merged.
        sums = rows[:, :20].view(np.uint16).sum(axis=1, dtype=np.uint64)
        good = sums % np.uint64(0xFFFF) == 0
    else:
        good = np.full(len(rows), is_ipv6 or checksum.partial(first[:20].tobytes()) == 0)
    differ &= _mask(is_ipv6, ip_len, header_len, protocol)
    good &= ~differ.any(axis=1)
    good &= (lengths <= length) & (lengths > header_len)
    good[1:] &= lengths[:-1] == length  # a shorter packet is the last of its run
    if protocol == TCP:
        at = ip_len + 4
        numbers = rows[:, at : at + 4].view(">u4")[:, 0].astype(np.uint64)
        wanted = numbers[0] + _STEPS[: len(rows)] * np.uint64(size)
        good &= numbers == (wanted & np.uint64(0xFFFFFFFF))
        flags = rows[:, ip_len + 13]
        if (flags != _ACK).any():
            good &= (flags & ~np.uint8(_PSH_FIN)) == _ACK
            good[1:] &= flags[:-1] == _ACK
    if good.all():
        return len(rows)
    return max(1, int(good.argmin()))


_STEPS: NDArray[np.uint64] = np.arange(256, dtype=np.uint64)


@functools.cache
def _mask(is_ipv6: bool, ip_len: int, header_len: int, protocol: int) -> NDArray[np.uint32]:
    """Ones where the headers of a run must be equal. There are a dozen header lengths at most."""
    mask = np.full(header_len, 0xFF, np.uint8)
    if is_ipv6:
        mask[4:6] = 0
    else:
        mask[2:6] = 0  # length, identification
        mask[10:12] = 0
    if protocol == TCP:
        mask[ip_len + 4 : ip_len + 8] = 0
        mask[ip_len + 13] = 0
        mask[ip_len + 16 : ip_len + 18] = 0
    else:
        mask[ip_len + 4 : ip_len + 8] = 0
    return mask.view(np.uint32)


def merge(rows: Slots, lengths: NDArray[np.int64], out: bytearray) -> int:
    """Write a run (two rows or more) into `out` as a vnet header and one super-packet; returns the bytes written."""
    first = rows[0]
    is_ipv6 = int(first[0]) >> 4 == 6
    ip_len = 40 if is_ipv6 else 20
    protocol = int(first[6] if is_ipv6 else first[9])
    header_len = ip_len + (int(first[ip_len + 12] >> 4) * 4 if protocol == TCP else 8)
    size = int(lengths[0]) - header_len
    count = len(rows)
    last = int(lengths[-1]) - header_len
    total = header_len + (count - 1) * size + last
    base = VNET_HEADER.size
    target = np.frombuffer(out, np.uint8)
    target[base : base + header_len] = first[:header_len]
    body = base + header_len
    whole = target[body : body + (count - 1) * size].reshape(count - 1, size)
    whole[:] = rows[:-1, header_len : header_len + size]
    target[base + total - last : base + total] = rows[-1, header_len : header_len + last]
    header = memoryview(out)[base : base + header_len]
    field = 16 if protocol == TCP else 6
    if protocol == TCP:
        header[ip_len + 13] |= int(rows[-1, ip_len + 13]) & _PSH_FIN
        kind = GSO_TCPV6 if is_ipv6 else GSO_TCPV4
    else:
        header[ip_len + 4 : ip_len + 6] = (total - ip_len).to_bytes(2, "big")
        kind = GSO_UDP_L4
    if is_ipv6:
        header[4:6] = (total - 40).to_bytes(2, "big")
        addresses = bytes(header[8:40])
    else:
        header[2:4] = total.to_bytes(2, "big")
        header[10:12] = b"\0\0"
        header[10:12] = checksum.finish(checksum.partial(header[:20]))
        addresses = bytes(header[12:20])
    pseudo = checksum.pseudo(addresses, protocol, total - ip_len)
    header[ip_len + field : ip_len + field + 2] = pseudo.to_bytes(2, "little")
    VNET_HEADER.pack_into(out, 0, NEEDS_CSUM, kind, header_len, size, ip_len, field)
    return base + total
