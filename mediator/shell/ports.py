"""TCP ports that a mediator prefers."""

from __future__ import annotations

import errno
import socket

EVERYWHERE = 443
"""The TCP port that most restrictive networks allow."""


def taken(port: int) -> bool:
    """Whether another program listens on a TCP port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
