"""Ports in a row for a relay on loopback, that nobody on this machine has just now."""

from __future__ import annotations

import random
import socket

BELOW_EPHEMERAL = (20_000, 32_000)
"""Where no system takes ports for outgoing connections from."""
TRIES = 50


def free_ports(count: int) -> range:
    """UDP ports of 127.0.0.1."""
    for _ in range(TRIES):
        ports = range(first := random.randrange(*BELOW_EPHEMERAL), first + count)
        held = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in ports]
        try:
            for port, sock in zip(ports, held, strict=True):
                sock.bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return ports
        finally:
            for sock in held:
                sock.close()
    raise AssertionError("no free ports on loopback")
