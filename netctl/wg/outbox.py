"""The send path from the TUN to UDP: collects packets in slots, encrypts them and sends them with one GSO call."""

from __future__ import annotations

import struct
from collections import deque
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from netctl.tunnel import Device, Keypair, Peer
from netctl.wg import checksum
from netctl.wg.segment import UDP, Super, complete, segment, shape
from netctl.wg.tun import MAX_GSO_BYTES, MAX_GSO_SEGMENTS, NEEDS_CSUM, VNET_HEADER, VNET_LEN
from netctl.wg.udp import Udp

HEADER, TAG = 16, 16
OVERHEAD = HEADER + TAG
MAX_LAYOUTS = 128
"""Slot layouts kept: a flow uses one or two; the oldest is dropped first."""
MAX_PACKET = 65_535
MIN_ALIKE = 4
"""Packets of one length from which on arrays are cheaper than packet by packet."""
TRANSPORT_HEADER = struct.Struct("<IIQ")
"""Type with its reserved bytes, receiver index, counter (WireGuard paper §5.4.6)."""
NONCE = struct.Struct("<4xQ")
_ZEROS = bytes(16)


class Layout:
    """Slots for packets of one padded size: views over shared buffers, made once and used for every batch."""

    def __init__(self, padded: int, plain: bytearray, sealed: bytearray, nonces: bytearray) -> None:
        self.padded = padded
        self.stride = padded + OVERHEAD
        self.capacity = max(1, min(MAX_GSO_SEGMENTS, MAX_GSO_BYTES // self.stride))
        self.row = -(-padded // 4) * 4  # rows are summed as 32-bit words
        n, size = self.capacity, self.stride
        whole = memoryview(plain)
        out = memoryview(sealed)
        self.plain = [whole[i * self.row : i * self.row + padded] for i in range(n)]
        self.sealed = [out[i * size + HEADER : (i + 1) * size] for i in range(n)]
        self.nonces = [memoryview(nonces)[i * 12 : i * 12 + 12] for i in range(n)]
        self.rows: NDArray[np.uint8] = np.frombuffer(plain, np.uint8, n * self.row).reshape(n, self.row)
        self.heads: NDArray[np.uint32] = np.ndarray((n, 2), "<u4", sealed, 0, (size, 4))
        self.counters: NDArray[np.uint64] = np.ndarray((n,), "<u8", sealed, 8, (size,))
        self.nonce_counters: NDArray[np.uint64] = np.ndarray((n,), "<u8", nonces, 4, (12,))


_STEPS: NDArray[np.uint64] = np.arange(MAX_GSO_SEGMENTS, dtype=np.uint64)


class Burst:
    """Buffers for the packets of one turn, read one after the other into slots."""

    SLOT = 2048
    """Bytes from one slot to the next: a packet of an Ethernet MTU and its vnet header fit."""
    COUNT = 64
    """Reads in one turn: enough to fill a GSO send, few enough to keep latency even."""

    def __init__(self) -> None:
        memory = bytearray((self.COUNT - 1) * self.SLOT + VNET_LEN + MAX_PACKET + 1)
        self.rows: NDArray[np.uint8] = np.frombuffer(memory, np.uint8, self.COUNT * self.SLOT)
        self.rows = self.rows.reshape(self.COUNT, self.SLOT)
        whole = memoryview(memory)
        starts = range(0, self.COUNT * self.SLOT, self.SLOT)
        self.views = [whole[at : at + VNET_LEN + MAX_PACKET + 1] for at in starts]
        """A view from the start of each slot over the following ones: a super-packet is larger than one slot."""
        self.buffers = [[view] for view in self.views]
        self.lengths: list[int] = []
        """Lengths in bytes of the packets in the first slots, with their vnet headers."""


class Outbox:
    """Encrypts and sends packets. A batch collects packets of one peer and one size; `flush` sends the batch."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.udp: Udp | None = None
        self.mtu = 1420
        size = MAX_GSO_SEGMENTS * (MAX_PACKET + OVERHEAD + 4)
        room = min(size, 2 * MAX_PACKET + MAX_GSO_SEGMENTS * 64)
        self._plain, self._sealed = bytearray(room), bytearray(room)
        self._sealed_view = memoryview(self._sealed)
        self._nonces = bytearray(12 * MAX_GSO_SEGMENTS)
        self._layouts: dict[int, Layout] = {}
        self._peer: Peer | None = None
        self._layout: Layout | None = None
        self._count = 0
        self._last = 0
        self._bytes = 0

    def _lay_out(self, length: int) -> Layout:
        padded = max(length, min(-(-length // 16) * 16, self.mtu))
        layout = self._layouts.get(padded)
        if layout is None:
            if len(self._layouts) >= MAX_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            layout = self._layouts[padded] = Layout(padded, self._plain, self._sealed, self._nonces)
        return layout

    def forget_layouts(self) -> None:
        """Forget all layouts, after the MTU and with it the padding have changed."""
        self._layouts.clear()

    def packet(self, raw: memoryview, now: float) -> None:
        """Take one read of the TUN: a vnet header and a packet or super-packet. Malformed ones are dropped."""
        packet = raw[VNET_LEN:]
        length = len(packet)
        if length < 20:
            return
        flags, gso_type, _, gso_size, csum_start, csum_offset = VNET_HEADER.unpack_from(raw)
        version = packet[0] >> 4
        if version == 4:
            destination = bytes(packet[16:20])
        elif version == 6 and length >= 40:
            destination = bytes(packet[24:40])
        else:
            return
        peer = self._device.lookup(destination)
        if peer is None:
            return
        if peer.sendable_keypair(now) is None:
            self._device.stage(peer, [bytes(raw)], now)
            return
        if gso_type:
            what = shape(packet, gso_type, gso_size, csum_start)
            if what is not None:
                self._super(peer, packet, what, now)
        elif flags & NEEDS_CSUM:
            whole = bytearray(packet)
            if complete(whole, csum_start, csum_offset):
                self._single(peer, whole, now)
        else:
            self._single(peer, packet, now)

    def lone(self, view: memoryview, count: int, now: float) -> None:
        """Send the first packet after a rest: `count` bytes at the start of `view`, encrypted without a copy.

        Does the same as `packet` and `flush` with as few Python operations as possible: the caches are cold, and
        every function call costs more than the cipher.
        """
        flags, gso_type = view[0], view[1]
        length = count - VNET_LEN
        if gso_type or flags & NEEDS_CSUM or length < 20 or self._count:
            self.packet(view[:count], now)
            self.flush(now)
            return
        destination = bytes(view[VNET_LEN + 16 : VNET_LEN + 20])
        if view[VNET_LEN] >> 4 != 4:
            destination = bytes(view[VNET_LEN + 24 : VNET_LEN + 40])
            if view[VNET_LEN] >> 4 != 6 or length < 40:
                return
        peer = self._device.lookup(destination)
        if peer is None:
            return
        keypair = peer.current
        first = keypair.reserve(1, now) if keypair is not None else None
        if keypair is None or first is None:
            self._device.stage(peer, [bytes(view[:count])], now)
            return
        padded = max(length, min(-(-length // 16) * 16, self.mtu))
        if padded > length:
            view[count : VNET_LEN + padded] = _ZEROS[: padded - length]
        sealed = self._sealed_view[: padded + OVERHEAD]
        TRANSPORT_HEADER.pack_into(sealed, 0, 4, keypair.remote_index, first)
        keypair.send.encrypt_into(
            NONCE.pack(first), view[VNET_LEN : VNET_LEN + padded], None, sealed[HEADER:]
        )
        if peer.endpoint is not None and self.udp is not None:
            self.udp.send_one(peer.endpoint, sealed)
        peer.tx_bytes += length + OVERHEAD
        peer.data_sent(now, keypair)

    def burst(self, burst: Burst, now: float) -> None:
        """Take the packets in the first slots, of `burst.lengths` bytes each, and clear `burst.lengths`."""
        lengths = burst.lengths
        total = len(lengths)
        start = 0
        while start < total:
            length = lengths[start]
            end = start + 1
            while end < total and lengths[end] == length:
                end += 1
            alike = end - start >= MIN_ALIKE
            if not (alike and self._alike(burst.rows[start:end, :length], now)):
                for slot in range(start, end):
                    self.packet(burst.views[slot][:length], now)
            start = end
        lengths.clear()

    def _alike(self, reads: NDArray[np.uint8], now: float) -> bool:
        """Send packets of one length to one destination at once. False: the packets differ, and nothing was done."""
        head = reads[0, : VNET_LEN + 40].tobytes()
        flags, gso_type, _, _, csum_start, csum_offset = VNET_HEADER.unpack_from(head)
        length = reads.shape[1] - VNET_LEN
        version = head[VNET_LEN] >> 4
        if gso_type or length < 40 or version not in (4, 6):
            return False
        at = VNET_LEN + (24 if version == 6 else 16)
        to = VNET_LEN + (40 if version == 6 else 20)
        if (
            np.count_nonzero(reads[:, : VNET_LEN + 1] != reads[0, : VNET_LEN + 1])
            or np.count_nonzero(reads[:, at:to] != reads[0, at:to])
            or (peer := self._device.lookup(head[at:to])) is None
            or peer.sendable_keypair(now) is None
        ):
            return False
        field = csum_start + csum_offset
        summed = bool(flags & NEEDS_CSUM)
        if summed and (csum_start % 2 or csum_start < 20 or csum_offset % 2 or field + 2 > length):
            return False
        self.flush(now)
        layout = self._lay_out(length)
        is_udp = head[VNET_LEN + (6 if version == 6 else 9)] == UDP
        for start in range(0, len(reads), layout.capacity):
            some = reads[start : start + layout.capacity, VNET_LEN:]
            count = len(some)
            rows = layout.rows[:count]
            rows[:, :length] = some
            rows[:, length:] = 0
            if summed:
                fields = checksum.finish_rows(checksum.row_sums(rows[:, csum_start:]))
                if is_udp:
                    fields[fields == 0] = 0xFFFF
                rows[:, field : field + 2].view("<u2")[:, 0] = fields
            self._peer, self._layout, self._count = peer, layout, count
            self._last, self._bytes = layout.padded, count * length
            self.flush(now)
        return True

    def _single(self, peer: Peer, packet: memoryview | bytearray, now: float) -> None:
        length = len(packet)
        layout = self._lay_out(length)
        if peer is not self._peer or layout is not self._layout or self._count == layout.capacity:
            self.flush(now)
            self._peer, self._layout = peer, layout
        slot = layout.plain[self._count]
        slot[:length] = packet
        if length < layout.padded:
            slot[length:] = bytes(layout.padded - length)
        self._count += 1
        self._last = layout.padded
        self._bytes += length

    def _super(self, peer: Peer, packet: memoryview, what: Super, now: float) -> None:
        self.flush(now)
        layout = self._lay_out(what.packet_len)
        source = np.frombuffer(packet, np.uint8)
        done = 0
        while done < what.count:
            count = min(what.count - done, layout.capacity)
            segment(source, what, done, count, layout.rows)
            done += count
            self._peer, self._layout, self._count = peer, layout, count
            self._last = layout.padded
            self._bytes += count * what.packet_len
            if done == what.count:
                length = what.last_len
                self._bytes += length - what.packet_len
                self._last = max(length, min(-(-length // 16) * 16, self.mtu))
            self.flush(now)

    def flush(self, now: float) -> None:
        """Encrypt and send the collected batch."""
        peer, layout, count = self._peer, self._layout, self._count
        if not count or peer is None or layout is None:
            return
        self._peer, self._layout, self._count = None, None, 0
        size, self._bytes = self._bytes, 0
        keypair = peer.sendable_keypair(now)
        first = keypair.reserve(count, now) if keypair is not None else None
        if keypair is None or first is None:
            return
        total = (
            self._seal_one(layout, keypair, first)
            if count == 1
            else self._seal(layout, count, keypair, first)
        )
        if peer.endpoint is not None and self.udp is not None:
            self.udp.send_segments(peer.endpoint, self._sealed_view[:total], layout.stride)
        peer.tx_bytes += size + OVERHEAD * count
        peer.data_sent(now, keypair)

    def _seal(self, layout: Layout, count: int, keypair: Keypair, first: int) -> int:
        """Encrypt `count` packets into their slots; returns the count of bytes to send."""
        numbers = _STEPS[:count] + np.uint64(first)
        layout.heads[:count, 0] = 4
        layout.heads[:count, 1] = keypair.remote_index
        layout.counters[:count] = numbers
        layout.nonce_counters[:count] = numbers
        seal = keypair.send.encrypt_into
        full = count if self._last == layout.padded else count - 1
        arguments = (layout.nonces[:full], layout.plain, repeat(None), layout.sealed)
        deque(map(seal, *arguments), 0)  # the loop runs in C
        if full < count:
            plain, out = layout.plain[full][: self._last], layout.sealed[full][: self._last + TAG]
            seal(layout.nonces[full], plain, None, out)
        return full * layout.stride + (self._last + OVERHEAD if full < count else 0)

    def _seal_one(self, layout: Layout, keypair: Keypair, first: int) -> int:
        """The same for one packet, without arrays: takes a third of the time, which counts for a ping."""
        TRANSPORT_HEADER.pack_into(self._sealed, 0, 4, keypair.remote_index, first)
        length = self._last
        nonce = NONCE.pack(first)
        keypair.send.encrypt_into(nonce, layout.plain[0][:length], None, layout.sealed[0][: length + TAG])
        return length + OVERHEAD

    def keepalive(self, peer: Peer, now: float) -> None:
        """Encrypt and send an empty packet."""
        keypair = peer.sendable_keypair(now)
        first = keypair.reserve(1, now) if keypair is not None else None
        if keypair is None or first is None:
            return
        nonce = bytes(4) + first.to_bytes(8, "little")
        head = (4).to_bytes(4, "little") + keypair.remote_index.to_bytes(4, "little") + nonce[4:]
        if peer.endpoint is not None and self.udp is not None:
            self.udp.send(peer.endpoint, head + keypair.send.encrypt(nonce, b"", None))
        peer.tx_bytes += OVERHEAD
        peer.data_sent(now, keypair, is_keepalive=True)
