"""The `doctor` checks of the peers: those with a path, those without one, and those that are offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from netctl.model.forpeople import counted

NAMED = 8
"""Names in one line; the rest as a number."""


def checks(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The checks, from the output of `netctl status`. An offline peer is no fault of this host."""
    if state["down"]["everything"]:
        return [_check("note", "this host is down: it has no tunnels", "`netctl up` brings it up")]
    peers = state["peers"]
    found = []
    kinds = Counter(peer["path"] for peer in peers if peer["path"] not in ("none", "idle"))
    if kinds:
        text = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        found.append(_check("ok", f"paths to peers: {text}"))
    idle = sum(peer["path"] == "idle" for peer in peers)
    if idle:
        found.append(_check("ok", f"idle, opens with the first packet: {counted(idle, 'peer')}"))
    lost = [peer["name"] for peer in peers if peer["path"] == "none" and peer["online"]]
    if lost:
        advice = f"`netctl why {state['member']} {lost[0]}` says what was tried"
        found.append(_check("problem", f"online and without a path: {_names(lost)}", advice))
    for peer in [peer for peer in peers if peer.get("distrust")][:NAMED]:
        advice = "a box between the two lets probes pass and drops WireGuard: it is tried again by itself"
        found.append(_check("note", f"{peer['name']} is relayed: {peer['distrust']}", advice))
    small = [peer for peer in peers if peer.get("mtu")]
    for peer in small[:NAMED]:
        advice = "nothing: routes to it have that size, so TCP and path MTU discovery keep to it"
        text = f"the way to {peer['name']} carries packets of up to {peer['mtu']} bytes"
        found.append(_check("note", text, advice))
    away = [peer["name"] for peer in peers if not peer["online"] and peer.get("presence_known", True)]
    if away:
        known = state["mediator"]["state"] in ("connected", "none")
        text = "not online" if known else "not online when the mediator was last heard"
        found.append(_check("note", f"{text}: {_names(away)}"))
    return found


def _names(names: list[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _check(level: str, text: str, advice: str | None = None) -> dict[str, Any]:
    return {"level": level, "check": "paths", "text": text, "advice": advice}
