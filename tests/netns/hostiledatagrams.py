"""Datagrams that no honest program sends, for every UDP socket of ours: one table, sent by real sockets.

`python hostiledatagrams.py TARGET PORT [SOURCE_PORT]` sends all of them; it needs root, for raw sockets. TARGET may
be an address of the host that runs it: then some of them come from the target's own address and port.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

SOL_UDP, UDP_SEGMENT = 17, 103
MAGIC, STUN_COOKIE = b"\xf5nc1", b"\x21\x12\xa4\x42"
LENGTHS = (1, 3, 4, 5, 8, 16, 20, 31, 32, 33, 48, 60, 64, 92, 148, 1100, 1472)
"""Around every length that a decoder of ours compares with."""
BATCH = 40


def every_type() -> Iterator[bytes]:
    """Every first byte, in each length, with what decoders look for next in its place and without."""
    for kind in range(256):
        for length in LENGTHS:
            yield (bytes([kind, 0, 0, 0]) + bytes(length))[:length]
        yield bytes([kind]) + os.urandom(147)
        yield MAGIC + bytes([kind])
        yield MAGIC + bytes([kind]) + os.urandom(120)
        yield bytes([kind % 4, kind, 0, 8]) + STUN_COOKIE + os.urandom(20)


def plain() -> Iterator[bytes]:
    """What a plain socket can send."""
    yield b""
    yield b"\0"
    yield b"\xff" * 65_507
    yield b"\4\0\0\0" + bytes(65_503)
    yield MAGIC + b"\1" + bytes(65_000)
    yield b"\0\1\xff\xfc" + STUN_COOKIE + bytes(12) + struct.pack(">HH", 0x8020, 0xFFFF)
    yield from every_type()


def merged() -> Iterator[tuple[bytes, int]]:
    """(Bytes, segment size) for UDP_SEGMENT: what the receiver's kernel shows as one, of kinds that do not belong."""
    for size in (1, 4, 16, 32, 48, 92, 148, 1372):
        data = b"\4\0\0\0" + os.urandom(size)
        for other in (bytes(size), b"\1\0\0\0" + bytes(size), MAGIC + b"\1" + bytes(size), os.urandom(size)):
            parts = [
                (data, other, bytes(size), b"\4\0\0\0" + bytes(size))[i % 4][:size] for i in range(BATCH)
            ]
            yield b"".join(parts), size
            yield b"".join(parts) + other[: size // 2], size
    yield (b"\4\0\0\0" + bytes(28)) * BATCH + b"\1", 32
    yield b"\xff" * 60, 1


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))) % 0xFFFF
    return (~total & 0xFFFF) or 0xFFFF


class Raw:
    """Whole IP packets with a source of our choice."""

    def __init__(self, source: str, target: str) -> None:
        self.source, self.target = ipaddress.ip_address(source), ipaddress.ip_address(target)
        self.is_v6 = self.source.version == 6
        family = socket.AF_INET6 if self.is_v6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._identity = 1

    def udp(self, source_port: int, port: int, payload: bytes) -> bytes:
        length = 8 + len(payload)
        segment = struct.pack(">HHHH", source_port, port, length, 0) + payload
        pseudo = self.source.packed + self.target.packed + struct.pack(">II", length, 17)
        return segment[:6] + struct.pack(">H", checksum(pseudo + segment)) + segment[8:]

    def send(self, body: bytes, *, offset: int = 0, more: bool = False, identity: int = 0) -> None:
        """One packet; a fragment where it says so (`offset` in bytes, a multiple of 8)."""
        is_fragment = bool(offset or more)
        if self.is_v6:
            head = struct.pack(">BBHI", 17, 0, offset | more, identity) if is_fragment else b""
            protocol, whole = (44 if is_fragment else 17), head + body
            packet = struct.pack(">IHBB", 6 << 28, len(whole), protocol, 64)
            packet += self.source.packed + self.target.packed + whole
        else:
            flags = offset // 8 | (0x2000 if more else 0)
            fields = (0x45, 0, 20 + len(body), identity & 0xFFFF, flags, 64, 17, 0)
            packet = struct.pack(">BBHHHBBH", *fields) + self.source.packed + self.target.packed + body
        with contextlib.suppress(OSError):  # a source that the kernel does not let out is one case less
            self._socket.sendto(packet, (str(self.target), 0))

    def fragments(self, body: bytes, size: int, *, order: Callable[[list[int]], list[int]] = list) -> None:
        """In pieces of `size` bytes."""
        self._identity += 1
        for at in order(list(range(0, len(body), size))):
            self.send(body[at : at + size], offset=at, more=at + size < len(body), identity=self._identity)

    def close(self) -> None:
        self._socket.close()


def raw(source: str, target: str, port: int) -> None:
    """What only a raw socket sends: port 0, the target's own address and port, odd fragments."""
    made = Raw(source, target)
    samples = [b"", b"\1" + bytes(147), b"\2" + bytes(91), b"\4" + bytes(99), MAGIC + b"\1" + bytes(60)]
    samples += [b"\0\1\0\0" + STUN_COOKIE + bytes(12), MAGIC + b"\x10" + os.urandom(61)]
    for payload in samples:
        for _ in range(3):
            made.send(made.udp(0, port, payload))
        made.send(made.udp(port, port, payload))
        made.send(made.udp(65_535, port, payload))
        made.fragments(made.udp(0, port, payload + bytes(200)), 16)
        made.fragments(made.udp(7777, port, payload + bytes(200)), 24, order=lambda at: at[::-1])
        made.fragments(made.udp(7777, port, payload + bytes(200)), 48, order=lambda at: at[1:])
    for _ in range(200):  # as fast as it goes, so that they come many at a time
        made.send(made.udp(0, port, samples[3]))
        made.send(made.udp(0, port, samples[1]))
    made.close()
    own = Raw(target, target)  # from the target's own address: the kernel may drop it on the way, or not
    for payload in samples:
        own.send(own.udp(port, port, payload))
        own.send(own.udp(0, port, payload))
    own.close()


def send_all(target: str, port: int, source_port: int = 0) -> int:
    """Send the whole table; how many a plain socket sent."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sender.bind(("", source_port))
    sender.connect((target, port))
    source = sender.getsockname()[0]
    sent = 0
    for turn, payload in enumerate(plain()):
        with contextlib.suppress(OSError):  # an ICMP error of the one before
            sent += sender.send(payload) == len(payload)
        if turn % 64 == 63:
            time.sleep(0.002)  # what overflows a buffer tests nothing
    for data, size in merged():
        with contextlib.suppress(OSError):
            sender.sendmsg([data], [(SOL_UDP, UDP_SEGMENT, struct.pack("H", size))])
        time.sleep(0.001)
    sender.close()
    raw(source, target, port)
    return sent


if __name__ == "__main__":
    print(send_all(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0))
