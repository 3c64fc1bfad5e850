"""Asks the relay on this machine which pairs of members it carries. It tells that to whoever connects to its
socket.

This machine knows no more of the paths between members: packets on a direct path do not pass it, and relayed packets
are encrypted.
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
"""The socket in the relay's state directory (`mediator.shell.relaystatus`)."""
TIMEOUT_S = 2.0
"""Seconds for the relay's answer."""
MAX_LINE = 1 << 18
"""Bytes of the relay's answer: it lists a bounded number of pairs."""
MAX_PICTURE = 60
"""Members in a picture. With more there is only the list."""


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
    """The pairs that the relay carries, those with most traffic first; None: no relay answers.

    `state`: the relay's state directory; `names`: of members, by relay port.
    """
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
    """Coordinates of the members on a circle and of a line for each pair, in a square of 100.

    None: there is no member, or there are more than `MAX_PICTURE`.
    """
    names = sorted({name for pair in pairs for name in pair.members})
    if not 0 < len(names) <= MAX_PICTURE:
        return None
    at = {}
    for index, name in enumerate(names):
        turn = 2 * math.pi * index / len(names) - math.pi / 2
        at[name] = round(50 + 38 * math.cos(turn), 1), round(50 + 38 * math.sin(turn), 1)
    return {"nodes": at, "lines": [(at[a], at[b]) for a, b in (pair.members for pair in pairs)]}
