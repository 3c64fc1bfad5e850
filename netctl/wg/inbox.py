"""The receive path from UDP to the TUN: decrypts whole GRO batches at once, checks, merges and writes the packets."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from itertools import repeat

import numpy as np
from cryptography.exceptions import InvalidTag
from numpy.typing import NDArray

from netctl.model.addresses import SocketAddress
from netctl.system import mmsg
from netctl.tunnel import Device, Keypair, Peer
from netctl.wg.coalesce import is_one_flow, merge, runs
from netctl.wg.outbox import HEADER, MAX_LAYOUTS, NONCE, OVERHEAD, TRANSPORT_HEADER
from netctl.wg.tun import MAX_GSO_SEGMENTS, VNET_LEN, Tun

TRANSPORT = 4
ROOM = 65_536 + 64 * MAX_GSO_SEGMENTS
_STEPS: NDArray[np.uint64] = np.arange(MAX_GSO_SEGMENTS * 2, dtype=np.uint64)
MAX_BATCHED = 32_768
"""Bytes: a batch would hold only one datagram larger than this."""


class OpenLayout:
    """Views over a receive buffer for `count` datagrams of `size` bytes, `stride` bytes apart; made once and reused.

    A batch is at most `capacity` datagrams: one super-packet.
    """

    def __init__(
        self, size: int, stride: int, count: int, received: bytearray, plain: bytearray, nonces: bytearray
    ) -> None:
        self.size = size
        self.inner = size - OVERHEAD
        self.row = -(-self.inner // 4) * 4
        n = self.capacity = max(1, min(count, 65_536 // size))
        data, out = memoryview(received), memoryview(plain)
        self.sealed = [data[i * stride + HEADER : i * stride + size] for i in range(count)]
        self.plain = [out[i * self.row : i * self.row + self.inner] for i in range(n)]
        self.nonces = [memoryview(nonces)[i * 12 : i * 12 + 12] for i in range(n)]
        self.rows: NDArray[np.uint8] = np.frombuffer(plain, np.uint8, n * self.row).reshape(n, self.row)
        self.heads: NDArray[np.uint64] = np.ndarray((count,), "<u8", received, 0, (stride,))
        self.counters: NDArray[np.uint64] = np.ndarray((count,), "<u8", received, 8, (stride,))
        self.nonce_counters: NDArray[np.uint64] = np.ndarray((n,), "<u8", nonces, 4, (12,))


class Inbox:
    """Decrypts received datagrams. `Udp.receive` fills `buffer`, and recvmmsg(2) fills `ring`."""

    def __init__(self, device: Device, tun: Tun) -> None:
        self._device = device
        self._tun = tun
        self.buffer = bytearray(65_536)
        self._buffer_view = memoryview(self.buffer)
        self._plain = bytearray(ROOM)
        self._plain_view = memoryview(self._plain)
        self._nonces = bytearray(12 * MAX_GSO_SEGMENTS * 2)
        self.ring = mmsg.Receiver() if mmsg.AVAILABLE else None
        self._layouts: dict[tuple[int, bool], OpenLayout] = {}
        self._out = bytearray(VNET_LEN + 65_536)
        self._zero = bytes(VNET_LEN)

    def _lay_out(self, size: int, in_ring: bool) -> OpenLayout:
        layout = self._layouts.get((size, in_ring))
        if layout is None:
            if len(self._layouts) >= MAX_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            if in_ring and self.ring is not None:
                stride, count, memory = mmsg.SLOT, mmsg.COUNT, self.ring.buffer
            else:
                stride, count, memory = size, min(MAX_GSO_SEGMENTS * 2, 65_536 // size), self.buffer
            layout = OpenLayout(size, stride, count, memory, self._plain, self._nonces)
            self._layouts[size, in_ring] = layout
        return layout

    def receive_run(
        self,
        first: int,
        count: int,
        size: int,
        source: SocketAddress,
        now: float,
        other: Callable[[bytes, SocketAddress], None],
    ) -> None:
        """Handle `count` datagrams of `size` bytes, from slot `first` of the ring on, all from one source."""
        assert self.ring is not None
        start = first
        if count > 1 and OVERHEAD <= size <= MAX_BATCHED:
            layout = self._lay_out(size, True)
            end = first + count
            while start < end:
                heads = layout.heads[start : min(end, start + layout.capacity)]
                head = int(heads[0])
                same = len(heads) if bool((heads == heads[0]).all()) else 1
                keypair = (
                    self._device.keypair(head >> 32, now)
                    if same > 1 and head & 0xFFFFFFFF == TRANSPORT
                    else None
                )
                if keypair is None:
                    break
                self._batch(layout, start, same, keypair, source, now)
                start += same
        memory = memoryview(self.ring.buffer)
        for slot in range(start, first + count):
            self._one(memory[slot * mmsg.SLOT : slot * mmsg.SLOT + size], source, now, other)

    def receive_merged(
        self,
        slot: int,
        total: int,
        size: int,
        source: SocketAddress,
        now: float,
        other: Callable[[bytes, SocketAddress], None],
    ) -> None:
        """Handle the merged datagram in a slot of the ring: `total` bytes, in datagrams of `size` bytes."""
        assert self.ring is not None
        at = slot * mmsg.SLOT
        self.buffer[:total] = self.ring.buffer[at : at + total]
        self.receive(total, size, source, now, other)

    def receive(
        self,
        total: int,
        size: int,
        source: SocketAddress,
        now: float,
        other: Callable[[bytes, SocketAddress], None],
    ) -> None:
        """Handle `total` bytes in `buffer`, in datagrams of `size` bytes; `other` gets those without transport data."""
        start = 0
        if total > size and OVERHEAD <= size <= MAX_BATCHED:
            layout = self._lay_out(size, False)
            count = min(total // size, layout.capacity)
            heads = layout.heads[:count]
            head = int(heads[0])
            if head & 0xFFFFFFFF == TRANSPORT and bool((heads == heads[0]).all()):
                keypair = self._device.keypair(head >> 32, now)
                if keypair is not None:
                    self._batch(layout, 0, count, keypair, source, now)
                start = count * size
        memory = self._buffer_view
        while start < total:
            end = min(start + size, total)
            self._one(memory[start:end], source, now, other)
            start = end

    def _one(
        self,
        view: memoryview,
        source: SocketAddress,
        now: float,
        other: Callable[[bytes, SocketAddress], None],
    ) -> None:
        size = len(view)
        if size < OVERHEAD:
            other(bytes(view), source)
            return
        kind, index, counter = TRANSPORT_HEADER.unpack_from(view)
        if kind != TRANSPORT:
            other(bytes(view), source)
            return
        keypair = self._device.keypair(index, now)
        if keypair is None:
            return
        out = self._plain_view[: size - OVERHEAD]
        try:
            keypair.receive.decrypt_into(NONCE.pack(counter), view[HEADER:], None, out)
        except InvalidTag:
            return
        if not keypair.replay.accept_one(counter):
            return
        peer = keypair.peer
        peer.rx_bytes += size
        peer.data_received(keypair, source, now, is_keepalive=size == OVERHEAD)
        if size > OVERHEAD:
            self._write_one(peer, out)

    def _batch(
        self, layout: OpenLayout, at: int, count: int, keypair: Keypair, source: SocketAddress, now: float
    ) -> None:
        """Decrypt `count` datagrams from slot `at` on into the first rows, and write them."""
        counters = layout.counters[at : at + count]
        layout.nonce_counters[:count] = counters
        opener = keypair.receive.decrypt_into
        sealed = layout.sealed[at : at + count] if at else layout.sealed
        try:
            deque(map(opener, layout.nonces[:count], sealed, repeat(None), layout.plain), 0)
            good = list(range(count))
        except InvalidTag:
            good = self._singly(layout, at, count, keypair)
        first = int(counters[0])
        consecutive = len(good) == count and not np.count_nonzero(counters - counters[0] != _STEPS[:count])
        if not (consecutive and keypair.replay.accept_run(first, count)):
            good = [i for i in good if keypair.replay.accept_one(int(counters[i]))]
        if not good:
            return
        peer = keypair.peer
        peer.rx_bytes += layout.size * len(good)
        peer.data_received(keypair, source, now, is_keepalive=layout.inner == 0)
        if layout.inner:
            rows = layout.rows[:count] if len(good) == count else layout.rows[good]
            self._write(peer, rows, layout.inner)

    @staticmethod
    def _singly(layout: OpenLayout, at: int, count: int, keypair: Keypair) -> list[int]:
        good = []
        for i in range(count):
            try:
                keypair.receive.decrypt_into(layout.nonces[i], layout.sealed[at + i], None, layout.plain[i])
            except InvalidTag:
                continue
            good.append(i)
        return good

    def _write_one(self, peer: Peer, packet: memoryview) -> None:
        length = _true_length(packet)
        if length is None or self._device.lookup(_source(packet)) is not peer:
            return
        try:
            os.writev(self._tun.fd, (self._zero, packet[:length]))
        except OSError:
            return  # the kernel refuses the packet, or its queue is full: the packet is lost, as on any link

    def _write(self, peer: Peer, rows: NDArray[np.uint8], inner: int) -> None:
        """Write packets of one peer to the TUN, merged where they belong to one flow."""
        first = rows[0]
        version = int(first[0]) >> 4
        if self._tun.offload and len(rows) > 1 and is_one_flow(rows, inner, self._tun.uso):
            source = first[8:24] if version == 6 else first[12:16]
            if self._device.lookup(source.tobytes()) is peer:
                self._write_merged(peer, rows, np.full(len(rows), inner, np.int64), inner)
            return
        mergeable = self._tun.offload and len(rows) > 1 and inner >= 40 and version in (4, 6)
        if mergeable:
            at = slice(8, 24) if version == 6 else slice(12, 16)
            one_source = bool((rows[:, at] == first[at]).all() and ((rows[:, 0] >> 4) == version).all())
            mergeable = one_source and self._device.lookup(first[at].tobytes()) is peer
        if not mergeable:
            for row in rows:
                self._write_one(peer, memoryview(row)[:inner])
            return
        if version == 6:
            lengths = (rows[:, 4].astype(np.int64) << 8) + rows[:, 5] + 40
        else:
            lengths = (rows[:, 2].astype(np.int64) << 8) + rows[:, 3]
        true = (lengths <= inner) & (lengths > inner - 16) & (lengths >= 28)
        if not true.all():
            for row in rows:
                self._write_one(peer, memoryview(row)[:inner])
            return
        for start, count in runs(rows, lengths, self._tun.uso):
            if count == 1:
                self._write_one(peer, memoryview(rows[start])[:inner])
                continue
            self._write_merged(peer, rows[start : start + count], lengths[start : start + count], inner)

    def _write_merged(
        self, peer: Peer, rows: NDArray[np.uint8], lengths: NDArray[np.int64], inner: int
    ) -> None:
        size = merge(rows, lengths, self._out)
        try:
            os.write(self._tun.fd, memoryview(self._out)[:size])
        except OSError:
            for row in rows:
                self._write_one(peer, memoryview(row)[:inner])


def _source(packet: memoryview) -> bytes:
    return bytes(packet[8:24]) if packet[0] >> 4 == 6 else bytes(packet[12:16])


def _true_length(packet: memoryview) -> int | None:
    """The length in the IP header, if the packet has that many bytes; None: shorter, or no IP packet."""
    size = len(packet)
    version = packet[0] >> 4
    if version == 4 and size >= 20:
        length = int.from_bytes(packet[2:4], "big")
        return length if 20 <= length <= size else None
    if version == 6 and size >= 40:
        length = int.from_bytes(packet[4:6], "big") + 40
        return length if length <= size else None
    return None
