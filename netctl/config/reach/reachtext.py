"""Formats changes of reach as lines for people and as plain values for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from netctl.config.reach.reachchanges import (
    AddressMove,
    ComingAndGoing,
    CutOff,
    Group,
    ReachChange,
    ReachChanges,
    TunnelDrop,
)
from netctl.model.forpeople import counted

SHOWN_NAMES = 3
"""Names in one line; the others are only counted."""
SHOWN_FLOWS = 6
SHOWN_LINES = 20
"""Lines of one kind, about a screen. The JSON has all rows that are kept."""
A_LEASE = "a new lease"


def reach_lines(changes: ReachChanges) -> list[str]:
    """One line a change, with a sign (``+ ~ -``); at most SHOWN_LINES of a kind, then ``… and 80 more``."""
    kinds: tuple[tuple[str, Iterable[str]], ...] = (
        ("", _signed("-", "network", changes.networks_go, "goes")),
        ("", _signed("+", "network", changes.networks_come, "comes")),
        ("", (line for row in changes.members for line in _coming(row))),
        ("", (f"~ {old} is called {new} now" for old, new in changes.renamed)),
        ("", (f"~ network {old} is called {new} now" for old, new in changes.networks_renamed)),
        ("keys", (f"~ {one.member} has another key" for one in changes.keys)),
        ("addresses", (_address(move) for move in changes.addresses)),
        ("tunnels", (_tunnel(drop) for drop in changes.tunnels)),
        ("cut_off", _cut_off(changes.cut_off)),
        ("reach", (_reach(row) for row in changes.reach if row.at_all != "lost")),
    )
    lines = []
    for kind, said in kinds:
        listed = list(dict.fromkeys(said))  # a member removed from two networks has equal lines
        more = len(listed) - SHOWN_LINES + changes.left_out.get(kind, 0) if len(listed) > SHOWN_LINES else 0
        lines.extend(listed[:SHOWN_LINES])
        if more:
            what = (kind or "names").replace("cut_off", "reach")
            lines.append(f"~ … and {counted(more, 'more change')} of {what}")
    if not changes.complete:
        lines.append("~ there are more changes of reach: the rules are too many to compare every pair")
    return lines


def reach_to_json(changes: ReachChanges) -> dict[str, Any]:
    """``{"reach": [{"network", "src": {"names", "count"}, …}], "addresses": […], …}``, all values plain."""
    plain: dict[str, Any] = _plain(changes)
    for kind in ("renamed", "networks_renamed"):
        plain[kind] = [{"before": old, "after": new} for old, new in getattr(changes, kind)]
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _signed(sign: str, what: str, names: tuple[str, ...], verb: str) -> Iterator[str]:
    return (f"{sign} {what} {name} {verb}" for name in names)


def who(members: Group) -> str:
    """``laptop``, ``laptop and nas``, ``laptop, nas, phone and 9,997 more``."""
    shown = members.names[: SHOWN_NAMES + 1 if members.count == SHOWN_NAMES + 1 else SHOWN_NAMES]
    more = members.count - len(shown)
    if more:
        return f"{', '.join(shown)} and {more:,} more"
    return " and ".join((", ".join(shown[:-1]), shown[-1])) if len(shown) > 1 else "".join(shown)


def _verb(members: Group, one: str, many: str) -> str:
    return one if members.count == 1 else many


def _coming(row: ComingAndGoing) -> Iterator[str]:
    for sign, members, verbs in (("-", row.go, ("leaves", "leave")), ("+", row.come, ("joins", "join"))):
        if members.count:
            where = row.network or ("the document" if sign == "+" else "the document for good")
            yield f"{sign} {who(members)} {_verb(members, *verbs)} {where}"


def _address(move: AddressMove) -> str:
    where = f"{move.member} in {move.network}"
    if move.after is None and move.before is None:
        return f"~ {where} gets {A_LEASE}"
    if move.before is not None and move.after is not None:
        return f"~ {where} moves from {move.before} to {move.after}"
    if move.after is not None:
        return f"~ {where} has {move.after} now"
    return f"~ {where} gives {move.before} up"


def _tunnel(drop: TunnelDrop) -> str:
    if drop.members.count == drop.peers.count == 1:
        return f"- the tunnel between {who(drop.members)} and {who(drop.peers)} drops: {drop.why}"
    peers = "each other" if drop.members == drop.peers else who(drop.peers)
    return f"- tunnels of {who(drop.members)} with {peers} drop: {drop.why}"


def _flows(flows: tuple[str, ...], prefix: str = "") -> str:
    more = len(flows) - SHOWN_FLOWS
    return ", ".join(prefix + flow for flow in flows[:SHOWN_FLOWS]) + (
        f" and {more} more" if more > 0 else ""
    )


def _cut_off(rows: tuple[CutOff, ...]) -> Iterator[str]:
    pairs = {(row.src, row.dst) for row in rows}
    told = set()
    for row in rows:
        if (row.dst, row.src) in told:
            continue
        told.add((row.src, row.dst))
        src, dst = who(row.src), who(row.dst)
        if row.src == row.dst:
            yield f"- {src} can no longer reach each other at all"
            continue
        them = "it" if row.src.count == 1 else "them"
        nor = f", nor {dst} {them}" if (row.dst, row.src) in pairs else ""
        yield f"- {src} can no longer reach {dst} at all{nor}"


def _reach(row: ReachChange) -> str:
    each = row.src == row.dst
    src, dst = who(row.src), "each other" if each else who(row.dst)
    where = f" in {row.network}"
    if row.at_all == "gained":
        return f"+ {src} can now reach {dst}{where}: {_flows(row.gained)}"
    single = row.dst.count == 1 and not each
    loses, gains = _verb(row.src, "loses", "lose"), _verb(row.src, "gains", "gain")
    parts = []
    for verb, flows in ((loses, row.lost), (gains, row.gained)):
        if flows:
            named = single and not any(flow.startswith("everything") for flow in flows)
            parts.append(f"{verb} " + (_flows(flows, f"{dst}:") if named else f"{_flows(flows)} to {dst}"))
    sign = "-" if row.lost else "+"
    return f"{sign} {src} {' and '.join(parts)}{where}"
