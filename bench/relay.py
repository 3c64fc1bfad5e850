"""Relay throughput over loopback, one pair, 1,400-byte packets, against the same sender with no relay between.

Run: python bench/relay.py [seconds]. Prints Gbit/s and the ratio to the direct run of the same kind, for a
sender that batches (UDP_SEGMENT, as kernel WireGuard and netctl-wg do) and one that sends packet by packet.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import struct
import sys
import time
from multiprocessing.synchronize import Event

from mediator.core.relay_table import RelayTable
from mediator.shell.relay import UDP_GRO, UDP_SEGMENT, RelayServer
from netctl.wire import relay

SECRET = bytes(range(32))
PORTS = range(46200, 46202)
PACKET = struct.pack("<I", 4) + bytes(1396)
BATCH = 40
BUFFER = 8 << 20
UNLIMITED = 1e12


def serve(ready: Event) -> None:
    """The relay, in a process of its own."""
    server = RelayServer("127.0.0.1", PORTS, RelayTable(SECRET, os.urandom(32), PORTS, rate=UNLIMITED))
    ready.set()
    server.serve()


def member(host: str) -> socket.socket:
    """A client's socket."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    sock.settimeout(1)
    return sock


def bind(sock: socket.socket, own: int, peer: int) -> None:
    """The four messages."""
    right = relay.Allocation(own, peer, int(time.time()) + 600)
    key = right.key(SECRET)
    sock.sendto(relay.seal(relay.Bind(right, b"t" * 8), key), ("127.0.0.1", peer))
    cookie = relay.open_message(sock.recv(2000), key)
    assert isinstance(cookie, relay.Cookie)
    sock.sendto(relay.seal(relay.Confirm(right, b"u" * 8, cookie.cookie), key), ("127.0.0.1", peer))
    assert isinstance(relay.open_message(sock.recv(2000), key), relay.Bound)


def send(sock: socket.socket, destination: tuple[str, int], batches: bool, seconds: float) -> None:
    """Until the time is over."""
    end = time.monotonic() + seconds
    option = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("H", len(PACKET)))]
    data = PACKET * BATCH
    while time.monotonic() < end:
        for _ in range(16):
            if batches:
                sock.sendmsg([data], option, 0, destination)
            else:
                sock.sendto(PACKET, destination)


def measure(
    sender: socket.socket, receiver: socket.socket, to: tuple[str, int], batches: bool, seconds: float
) -> float:
    """Gbit/s that arrived."""
    receiver.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    process = multiprocessing.Process(target=send, args=(sender, to, batches, seconds))
    buffer = bytearray(65536)
    process.start()
    total = receiver.recv_into(buffer)
    start = last = time.monotonic()
    try:
        while last - start < seconds:
            total += receiver.recv_into(buffer)
            last = time.monotonic()
    except TimeoutError:
        pass
    process.join()
    receiver.settimeout(0.2)
    try:
        while True:
            receiver.recv_into(buffer)
    except TimeoutError:
        receiver.settimeout(1)
    return total * 8 / (last - start) / 1e9


def main() -> None:
    """Measure and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    ready = multiprocessing.Event()
    server = multiprocessing.Process(target=serve, args=(ready,))
    server.start()
    try:
        ready.wait(5)
        a, b = member("127.0.0.1"), member("127.0.0.2")
        bind(a, PORTS[0], PORTS[1])
        bind(b, PORTS[1], PORTS[0])
        a.recv(2000)  # the relay says that the peer is there
        for batches in (True, False):
            relayed = measure(a, b, ("127.0.0.1", PORTS[1]), batches, seconds)
            direct = measure(a, b, b.getsockname(), batches, seconds)
            kind = "batches of 40" if batches else "one by one"
            print(
                f"{kind:>14}: relayed {relayed:5.2f} Gbit/s, direct {direct:5.2f}, ratio {relayed / direct:.2f}"
            )
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
