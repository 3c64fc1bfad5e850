"""What the relay's process says of itself: one line of JSON to whoever connects to its socket in the state directory.

The mediator's `status` reads it. The relay never waits for a reader: what does not fit into the socket at once, or
comes from another user, is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mediator.shell.passing import bind_unix
from mediator.shell.relayserver import RelayServer
from netctl.model.errors import LocalError

SOCKET_NAME = "relay-status.sock"
MAX_ROWS = 100
"""Members and pairs that are told, those with most traffic first: some 30 KB, which a socket takes at once."""
SEND_BUFFER = 1 << 18
TIMEOUT_S = 2.0
"""A relay under full load looks at this socket many times a second."""


def describe(relay: RelayServer, now: float) -> dict[str, Any]:
    """Traffic of members by relay port, pairs with stock apps, limits."""
    relay.settle()
    ledger = relay.table.ledger
    accounts = ledger.accounts()
    pairs = sorted(relay.pairs.status(now), key=_traffic, reverse=True)
    return {
        "data_path": relay.data_path,
        "counters": asdict(relay.counters),
        "faults": relay.guard.dropped,
        "bindings": len(relay.table),
        "limits": asdict(ledger.limits),
        "members": len(accounts),
        "accounts": [
            {
                "port": account.member,
                "sent": account.sent,
                "received": account.received,
                "today": account.day if now < account.day_until else 0,
                "refused": account.refused,
                "over_quota": account.over_quota,
            }
            for account in accounts[:MAX_ROWS]
        ],
        "pairs": pairs[:MAX_ROWS],
        "pairs_in_all": len(pairs),
    }


def _traffic(pair: dict[str, Any]) -> int:
    return sum(int(side["sent"]) for side in pair["sides"])


@contextmanager
def tell_status(relay: RelayServer, state: Path) -> Iterator[None]:
    """Answer at the socket for as long as the block runs. Raises LocalError."""
    path = state / SOCKET_NAME
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)
        bind_unix(listening, path)
        listening.listen()
    except OSError as error:
        listening.close()
        raise LocalError(f"the relay cannot listen at {path}: {error.strerror or error}") from error
    relay.listen(listening.fileno(), lambda: _answer(relay, listening))
    try:
        yield
    finally:
        listening.close()
        path.unlink(missing_ok=True)


def _answer(relay: RelayServer, listening: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection, _ = listening.accept()
        with connection:
            connection.setblocking(False)
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", raw)[1] not in (0, os.getuid()):
                return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            connection.send(json.dumps(describe(relay, time.monotonic())).encode() + b"\n")


def ask_relay(state: Path) -> dict[str, Any] | None:
    """What the relay on this state says. None: none runs, or it does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(state / SOCKET_NAME))
            with connection.makefile("rb") as lines:
                found = json.loads(lines.readline())
        except (OSError, ValueError):
            return None
    return found if isinstance(found, dict) else None
