"""A steady stream of small UDP packets, and what became of them: `stream.py receive PORT`, `stream.py send …`.

The receiver prints one line of JSON when it has heard the end: lost, reordered, duplicates, and the longest gap
between two arrivals with the sequence number after it.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

_PACKET = struct.Struct(">II")
SIZE = 200
ENDS = 10
"""How often the end is said: it may be lost like any packet."""
BEHIND_S = 0.05
"""A sender that is later than this goes on from where it is."""
SO_RCVBUFFORCE = 33
QUIET_S = 20.0
"""Without any packet for this long the receiver gives up."""


def receive(port: int) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)  # a stopped receiver loses nothing
    sock.bind(("", port))
    print("ready", flush=True)
    seen: set[int] = set()
    duplicates = reordered = 0
    highest, last, longest, after = -1, None, 0.0, 0
    while select.select([sock], [], [], QUIET_S)[0]:
        number, total = _PACKET.unpack_from(sock.recv(2000))
        now = time.monotonic()
        if total:
            answer = {
                "sent": total,
                "lost": total - len(seen),
                "duplicates": duplicates,
                "reordered": reordered,
            }
            print(
                json.dumps(answer | {"longest_gap_ms": round(longest * 1000, 1), "after": after}), flush=True
            )
            return
        if last is not None and now - last > longest:
            longest, after = now - last, number
        last = now
        duplicates += number in seen
        reordered += number < highest
        seen.add(number)
        highest = max(highest, number)
    print(json.dumps({"sent": None, "lost": None, "highest": highest}), flush=True)


def send(host: str, port: int, rate: int, seconds: float) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    begin = time.monotonic()
    number = 0
    while number < rate * seconds:
        due = (time.monotonic() - begin) * rate - number
        if (
            due > BEHIND_S * rate
        ):  # what this sender was stopped for is no burst that a queue would have to hold
            begin += due / rate - BEHIND_S
        for _ in range(min(int(due), int(BEHIND_S * rate))):
            sock.sendto(_PACKET.pack(number, 0).ljust(SIZE, b"\0"), (host, port))
            number += 1
        time.sleep(1 / rate / 2)
    time.sleep(1.0)  # what is still on its way comes before the end does
    for _ in range(ENDS):
        sock.sendto(_PACKET.pack(0, number).ljust(SIZE, b"\0"), (host, port))
        time.sleep(0.05)


def sender(host: str, port: int, rate: int, seconds: float) -> list[str]:
    """The command line of a sender."""
    return [sys.executable, __file__, "send", host, str(port), str(rate), str(seconds)]


def receiver(port: int) -> list[str]:
    """The command line of a receiver."""
    return [sys.executable, __file__, "receive", str(port)]


def ready(process: subprocess.Popen[str]) -> None:
    """Wait until a receiver listens."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def reports(processes: Sequence[subprocess.Popen[str]], timeout: float) -> list[Any]:
    """What the receivers say in the end."""
    return [json.loads(process.communicate(timeout=timeout)[0].splitlines()[-1]) for process in processes]


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(int(sys.argv[2]))
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
