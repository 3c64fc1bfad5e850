"""Cutting and sealing by 1, 2 and 4 threads, without TUN, sockets and kernel: what more cores are good for.

Run: python bench/threads.py [--rounds N] [--threads N]... Super-packets of 45 x 1,420 bytes are given to the data path
in C, which cuts and seals them and finds no socket to send them by. The numbers take turns round by round, so a machine
that slows down slows all of them; medians, microseconds a packet, and how many times as fast as one thread. It needs as
many idle cores as threads, which no other program wants: two such cores show two threads, and nothing of four.
"""

from __future__ import annotations

import argparse
import os
import select
import statistics
import sys
import time

from netctl.wg import native
from netctl.wg.tun import GSO_TCPV4, NEEDS_CSUM, VNET_HEADER

SEGMENTS, SEGMENT = 45, 1380
SUPERS = 200
"""Super-packets per round: about 15 ms."""
PEER = 0


class Nobody:
    """A stub of the protocol: every packet belongs to one peer."""

    def lookup(self, _: bytes) -> int:
        """The number of the peer."""
        return PEER

    def other(self, datagram: bytes, source: bytes) -> None:
        """Not used: nothing is received."""

    def stage(self, peer: int, raw: bytes) -> None:
        """Not used: there is a session."""

    def report(self, *_: object) -> None:
        """Ignore reports."""


def super_packet() -> bytes:
    """One super-packet, as read from the TUN."""
    length = 40 + SEGMENTS * SEGMENT
    ip = (
        bytes([0x45, 0])
        + length.to_bytes(2, "big")
        + bytes([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2])
    )
    tcp = bytes(12) + bytes([0x50, 0x10]) + bytes(6)
    head = VNET_HEADER.pack(NEEDS_CSUM, GSO_TCPV4, 40, SEGMENT, 20, 16)
    return head + ip + tcp + os.urandom(SEGMENTS * SEGMENT)


def one_round(threads: int, raw: bytes) -> float:
    """Microseconds per packet."""
    module, why = native.load()
    if module is None:
        raise SystemExit(f"there is no data path in C: {why}")
    with select.epoll() as epoll:
        core = module.Core(-1, epoll.fileno(), time.CLOCK_BOOTTIME, True, True, 0.0)
        core.set_peer(PEER, None, b"", False)
        core.add_session(1, 2, PEER, bytes(32), bytes(32), time.clock_gettime(time.CLOCK_BOOTTIME))
        address = bytes([4, 127, 0, 0, 1]) + bytes(12) + (9).to_bytes(2, "big") + bytes(4)
        core.set_peer(PEER, 1, address, False)
        core.start_workers(threads)
        host = Nobody()
        before = time.perf_counter()
        for _ in range(SUPERS):
            core.transmit(host, raw)
        core.flush(host)
        took = time.perf_counter() - before
        core.stop_workers()
    return took / (SUPERS * SEGMENTS) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, action="append", help="default: 1, 2 and 4")
    arguments = parser.parse_args()
    numbers = [1, *(number for number in arguments.threads or [2, 4] if number != 1)]
    raw = super_packet()
    taken: dict[int, list[float]] = {number: [] for number in numbers}
    for _ in range(arguments.rounds):
        for number in numbers:
            taken[number].append(one_round(number, raw))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    cores = len(os.sched_getaffinity(0))
    sys.stdout.write(f"medians of {arguments.rounds} rounds; cores: {cores}, load before and now: {load}\n\n")
    sys.stdout.write(
        "| threads | µs a packet | fastest round | times one thread | … fastest rounds |\n|---|---|---|---|---|\n"
    )
    for number in numbers:
        median, best = statistics.median(taken[number]), min(taken[number])
        times, fastest = statistics.median(taken[1]) / median, min(taken[1]) / best
        sys.stdout.write(f"| {number} | {median:.2f} | {best:.2f} | {times:.2f} | {fastest:.2f} |\n")


if __name__ == "__main__":
    main()
