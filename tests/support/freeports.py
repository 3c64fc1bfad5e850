"""Ports of this machine that nobody has just now, and that nobody gets by chance before a test uses them."""

from __future__ import annotations

import itertools
import random
import socket

BELOW_EPHEMERAL = range(10_240, 20_000)
"""Where no system takes ports for outgoing connections from. One of those, picked first and listened on later, may be
another's by then; and a client that tries such a port again and again, while nobody listens, ends up talking to itself.
And below the ports that documents of tests give relays.
"""
TRIES = 2000

_turns = itertools.count(random.randrange(len(BELOW_EPHEMERAL)))
"""No port is given twice before all others were: each process begins elsewhere."""


def free_ports(count: int, kind: socket.SocketKind = socket.SOCK_DGRAM) -> range:
    """Ports in a row, which are free at all IPv4 addresses."""
    for _ in range(TRIES):
        turns = list(itertools.islice(_turns, count))
        first = BELOW_EPHEMERAL[turns[0] % len(BELOW_EPHEMERAL)]
        ports = range(first, first + count)
        held = [socket.socket(socket.AF_INET, kind) for _ in ports]
        try:
            for port, sock in zip(ports, held, strict=True):
                sock.bind(("0.0.0.0", port))
        except OSError:
            continue
        else:
            return ports
        finally:
            for sock in held:
                sock.close()
    raise AssertionError("no free ports")


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """One of them."""
    return free_ports(1, kind)[0]
