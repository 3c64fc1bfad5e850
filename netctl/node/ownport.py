"""WireGuard's UDP port where the document names none: the usual port, or another if the usual one is unfit.

The other ports are derived from the key: two hosts behind one router choose different ones, and an agent that
restarts recognises the port that it chose before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from netctl.model.document import Document, Member
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.paths.portjudge import Verdict

FIRST, COUNT = 16_384, 16_384
"""Below the ports that Linux gives to sockets without one (32768-60999), above those of well-known services."""
MAX_TURNS = 16
"""Other ports that one key tries before the usual one has its turn again."""
WORDS: dict[str, str] = {
    "shared": "another host behind the same router uses it too",
    "dead": "nothing that it sends is answered, and what other ports send is",
}


@dataclass(frozen=True, slots=True)
class PortState:
    """The shared port as the path manager sees it."""

    port: int = 0
    """0: no port is open."""
    verdict: Verdict = "fit"
    rests_s: float = 0.0
    """Seconds for which nothing is sent outside from this port; 0: it sends."""


def is_fixed(member: Member) -> bool:
    """Whether others rely on this member's port, so that it may not change."""
    return member.listen_port is not None or bool(member.endpoints)


def port_of(key: WireGuardKey, turn: int) -> int:
    """The port of a turn; turns begin at 1."""
    digest = hashlib.blake2s(b"netctl port" + key.raw + turn.to_bytes(1, "big")).digest()
    return FIRST + int.from_bytes(digest[:4], "big") % COUNT


def turn_of(key: WireGuardKey, port: int) -> int:
    """Which turn has this port; 0: none."""
    return next((turn for turn in range(1, MAX_TURNS + 1) if port_of(key, turn) == port), 0)


def next_turn(turn: int) -> int:
    """The turn after this one."""
    return (turn + 1) % (MAX_TURNS + 1)


def with_port(state: HostState, document: Document, name: str, turn: int) -> HostState:
    """The desired state with the port of a turn, where the document does not fix it."""
    link, member = state.wireguard, document.members.get(name)
    if not turn or link is None or (member is not None and is_fixed(member)):
        return state
    port, table = port_of(link.key, turn), state.filter
    if table is not None and table.guards.listen_port:
        table = replace(table, guards=replace(table.guards, listen_port=port))
    return replace(state, wireguard=replace(link, listen_port=port), filter=table)


def troubled_port(state: PortState, *, fixed: bool) -> tuple[str, str] | None:
    """The `status` and `doctor` text about an unfit port, and what to do; None: the port is fit."""
    if state.verdict == "fit":
        return None
    text = f"UDP port {state.port} of this host is not fit: {WORDS[state.verdict]}"
    if state.verdict == "shared":
        advice = "name another `listenPort` for one of the two" if fixed else "another one is taken by itself"
        return text, advice
    text += " (a router that holds on to flows from before its own address changed?)"
    if not fixed:
        return text, "another one is taken by itself"
    rest = (
        f"; nothing is sent from it for {state.rests_s:.0f} s, so that it is forgotten"
        if state.rests_s
        else ""
    )
    return text + rest, "restart the router, or leave `listenPort` and `endpoints` out of the document"
