"""The relay's status: one line of JSON to each client of its socket in the state directory.

The mediator's `status` reads it. The relay never waits for a reader: an answer that does not fit into the socket at
once is dropped, and so is a client of another user.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mediator.shell.passing import bind_unix
from mediator.shell.relayserver import RelayServer
from netctl.model.errors import LocalError
from netctl.model.portspans import spans
from netctl.wire.registration import MAX_UNHELD

SOCKET_NAME = "relay-status.sock"
MAX_ROWS = 100
"""Members and pairs in the status, most traffic first: about 30 KB, which fits into a socket at once."""
SEND_BUFFER = 1 << 18
TIMEOUT_S = 2.0
"""Even under full load a relay reads this socket many times a second."""


def describe(relay: RelayServer, now: float, links: Sized = ()) -> dict[str, Any]:
    """The status: traffic of members by relay port, pairs with stock apps, limits; `links`: TLS connections."""
    relay.settle()
    ledger = relay.table.ledger
    accounts = ledger.accounts()
    pairs = sorted(relay.pairs.status(now), key=_traffic, reverse=True)
    carried = sorted(relay.table.carried(now), key=lambda pair: -pair[2])
    return {
        "data_path": relay.data_path,
        "counters": asdict(relay.counters),
        "faults": relay.guard.dropped,
        "ports": len(relay.ports),
        "unheld": spans(relay.unheld, MAX_UNHELD),
        "unheld_in_all": len(relay.unheld),
        "bindings": len(relay.table),
        "connections": len(links),
        "expired": relay.table.expired,
        "overdue": relay.table.overdue,
        "ahead": relay.table.ahead,
        "clock_behind_s": round(max(relay.table.clock_behind_s, 0.0), 1),
        "passed": {kind.value: total.passed for kind, total in ledger.totals.items()},
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
        "carried": [{"ports": [own, peer], "passed": passed} for own, peer, passed in carried[:MAX_ROWS]],
        "carried_in_all": len(carried),
        "pairs": pairs[:MAX_ROWS],
        "pairs_in_all": len(pairs),
    }


def _traffic(pair: dict[str, Any]) -> int:
    return sum(int(side["sent"]) for side in pair["sides"])


@contextmanager
def tell_status(relay: RelayServer, state: Path, links: Sized = ()) -> Iterator[None]:
    """Answer at the socket while the block runs. Raises LocalError."""
    path = state / SOCKET_NAME
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)
        bind_unix(listening, path)
        listening.listen()
    except OSError as error:
        listening.close()
        raise LocalError(f"the relay cannot listen at {path}: {error.strerror or error}") from error
    relay.listen(listening.fileno(), lambda: _answer(relay, listening, links))
    try:
        yield
    finally:
        listening.close()
        path.unlink(missing_ok=True)


def _answer(relay: RelayServer, listening: socket.socket, links: Sized) -> None:
    with contextlib.suppress(OSError):
        connection, _ = listening.accept()
        with connection:
            connection.setblocking(False)
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", raw)[1] not in (0, os.getuid()):
                return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            connection.send(json.dumps(describe(relay, time.monotonic(), links)).encode() + b"\n")


def ask_relay(state: Path) -> dict[str, Any] | None:
    """The status of this state's relay. None: no relay runs, or it does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(state / SOCKET_NAME))
            with connection.makefile("rb") as lines:
                found = json.loads(lines.readline())
        except (OSError, ValueError):
            return None
    return found if isinstance(found, dict) else None
