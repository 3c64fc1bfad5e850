"""Which pairs of members the relay on this machine carries: it says so to whoever connects to its socket.

That is all that this machine knows of how members reach each other. A direct path passes none of its ports, and what
passes is encrypted.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from netctl.ui.brokerwire import Carried, CarriedPair

SOCKET_NAME = "relay-status.sock"
"""In the relay's state directory (`mediator.shell.relaystatus`)."""
TIMEOUT_S = 2.0
MAX_LINE = 1 << 18
MAX_PICTURE = 60
"""Members of a picture with lines: more are a list alone."""


class _Pair(msgspec.Struct):
    ports: tuple[int, int]
    passed: int


class _Side(msgspec.Struct):
    member: int
    at: str | None
    sent: int


class _PairWithApp(msgspec.Struct):
    sides: tuple[_Side, _Side]


class _Told(msgspec.Struct):
    carried: list[_Pair]
    carried_in_all: int
    pairs: list[_PairWithApp]


def ask_relay(state: Path, names: Mapping[str, str]) -> Carried | None:
    """The pairs, those with most traffic first; `names`: of members, by relay port. None: no relay answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(state / SOCKET_NAME))
            with connection.makefile("rb") as lines:
                told = msgspec.json.decode(lines.readline(MAX_LINE), type=_Told)
        except (OSError, msgspec.MsgspecError):
            return None

    def name(port: int) -> str:
        return names.get(str(port), f"port {port}")

    found = [CarriedPair((name(one.ports[0]), name(one.ports[1])), one.passed) for one in told.carried]
    heard = [one.sides for one in told.pairs if all(side.at is not None for side in one.sides)]
    found += [CarriedPair((name(a.member), name(b.member)), a.sent + b.sent) for a, b in heard]
    found.sort(key=lambda pair: -pair.passed)
    return Carried(found, told.carried_in_all + len(heard))


def picture(pairs: list[CarriedPair]) -> dict[str, Any] | None:
    """Members on a circle and a line for each pair, in a square of 100; None where that is nothing, or too much."""
    names = sorted({name for pair in pairs for name in pair.members})
    if not 0 < len(names) <= MAX_PICTURE:
        return None
    at = {}
    for index, name in enumerate(names):
        turn = 2 * math.pi * index / len(names) - math.pi / 2
        at[name] = round(50 + 38 * math.cos(turn), 1), round(50 + 38 * math.sin(turn), 1)
    return {"nodes": at, "lines": [(at[a], at[b]) for a, b in (pair.members for pair in pairs)]}
