"""From the wire to the TUN: whole GRO batches opened at once, checked, merged, written."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from itertools import repeat

import numpy as np
from cryptography.exceptions import InvalidTag
from numpy.typing import NDArray

from netctl.model.addresses import SocketAddress
from netctl.tunnel import Device, Keypair, Peer
from netctl.wg.coalesce import is_one_flow, merge, runs
from netctl.wg.outbox import HEADER, MAX_LAYOUTS, OVERHEAD
from netctl.wg.tun import MAX_GSO_SEGMENTS, VNET_LEN, Tun

TRANSPORT = 4
ROOM = 65_536 + 64 * MAX_GSO_SEGMENTS
MIN_HANDSHAKE = 64
"""The shortest WireGuard message that is not transport data: a cookie reply."""


class OpenLayout:
    """Views over the receive buffer for one segment size, made once."""

    def __init__(self, size: int, received: bytearray, plain: bytearray, nonces: bytearray) -> None:
        self.size = size
        self.inner = size - OVERHEAD
        self.row = -(-self.inner // 4) * 4
        n = self.capacity = max(1, min(MAX_GSO_SEGMENTS * 2, 65_536 // size))
        data, out = memoryview(received), memoryview(plain)
        self.sealed = [data[i * size + HEADER : (i + 1) * size] for i in range(n)]
        self.plain = [out[i * self.row : i * self.row + self.inner] for i in range(n)]
        self.nonces = [memoryview(nonces)[i * 12 : i * 12 + 12] for i in range(n)]
        self.rows: NDArray[np.uint8] = np.frombuffer(plain, np.uint8, n * self.row).reshape(n, self.row)
        self.heads: NDArray[np.uint64] = np.ndarray((n,), "<u8", received, 0, (size,))
        self.counters: NDArray[np.uint64] = np.ndarray((n,), "<u8", received, 8, (size,))
        self.nonce_counters: NDArray[np.uint64] = np.ndarray((n,), "<u8", nonces, 4, (12,))


class Inbox:
    """Opens what arrives. `buffer` is what `Udp.receive` fills."""

    def __init__(self, device: Device, tun: Tun) -> None:
        self._device = device
        self._tun = tun
        self.buffer = bytearray(65_536)
        self._plain = bytearray(ROOM)
        self._nonces = bytearray(12 * MAX_GSO_SEGMENTS * 2)
        self._layouts: dict[int, OpenLayout] = {}
        self._out = bytearray(VNET_LEN + 65_536)
        self._zero = bytes(VNET_LEN)

    def _lay_out(self, size: int) -> OpenLayout:
        layout = self._layouts.get(size)
        if layout is None:
            if len(self._layouts) >= MAX_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            layout = self._layouts[size] = OpenLayout(size, self.buffer, self._plain, self._nonces)
        return layout

    def receive(
        self,
        total: int,
        size: int,
        source: SocketAddress,
        now: float,
        other: Callable[[bytes, SocketAddress], None],
    ) -> None:
        """`total` bytes in the buffer, in datagrams of `size`; what is no transport data goes to `other`."""
        start = 0
        if size >= OVERHEAD and total > size and size <= 32_768:
            layout = self._lay_out(size)
            count = min(total // size, layout.capacity)
            heads = layout.heads[:count]
            head = int(heads[0])
            if head & 0xFFFFFFFF == TRANSPORT and bool((heads == heads[0]).all()):
                keypair = self._device.keypair(head >> 32, now)
                if keypair is not None:
                    self._batch(layout, count, keypair, source, now)
                start = count * size
        while start < total:
            end = min(start + size, total)
            self._one(start, end, source, now, other)
            start = end

    def _one(
        self,
        start: int,
        end: int,
        source: SocketAddress,
        now: float,
        other: Callable[[bytes, SocketAddress], None],
    ) -> None:
        view = memoryview(self.buffer)[start:end]
        if end - start < OVERHEAD or view[0] != TRANSPORT or view[1] or view[2] or view[3]:
            other(bytes(view), source)
            return
        keypair = self._device.keypair(int.from_bytes(view[4:8], "little"), now)
        if keypair is None:
            return
        inner = end - start - OVERHEAD
        out = memoryview(self._plain)[:inner]
        nonce = bytes(4) + bytes(view[8:16])
        try:
            keypair.receive.decrypt_into(nonce, view[HEADER:], None, out)
        except InvalidTag:
            return
        if not keypair.replay.accept_one(int.from_bytes(view[8:16], "little")):
            return
        peer = keypair.peer
        peer.rx_bytes += end - start
        peer.data_received(keypair, source, now, is_keepalive=inner == 0)
        if inner:
            self._write_one(peer, out)

    def _batch(
        self, layout: OpenLayout, count: int, keypair: Keypair, source: SocketAddress, now: float
    ) -> None:
        counters = layout.counters[:count]
        layout.nonce_counters[:count] = counters
        opener = keypair.receive.decrypt_into
        try:
            deque(map(opener, layout.nonces[:count], layout.sealed, repeat(None), layout.plain), 0)
            good = list(range(count))
        except InvalidTag:
            good = self._singly(layout, count, keypair)
        first = int(counters[0])
        consecutive = len(good) == count and bool((np.diff(counters) == 1).all())
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
    def _singly(layout: OpenLayout, count: int, keypair: Keypair) -> list[int]:
        good = []
        for i in range(count):
            try:
                keypair.receive.decrypt_into(layout.nonces[i], layout.sealed[i], None, layout.plain[i])
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
            return  # the kernel refuses the packet, or its queue is full: lost, as on any link

    def _write(self, peer: Peer, rows: NDArray[np.uint8], inner: int) -> None:
        """Write packets of one peer, merged where they are one flow."""
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
    """The length that the inner header says, if the packet has that many bytes; None for what is no IP."""
    size = len(packet)
    version = packet[0] >> 4
    if version == 4 and size >= 20:
        length = int.from_bytes(packet[2:4], "big")
        return length if 20 <= length <= size else None
    if version == 6 and size >= 40:
        length = int.from_bytes(packet[4:6], "big") + 40
        return length if length <= size else None
    return None
