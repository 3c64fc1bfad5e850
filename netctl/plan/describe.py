"""Describes a plan in words: one line for each change, with the place in the document that asks for it."""

from __future__ import annotations

import dataclasses
from typing import Any

from netctl.model.forpeople import counted
from netctl.model.hoststate import Opening
from netctl.plan import changes as c
from netctl.plan.diff import Plan

SHOWN_ADDRESSES = 4  # a line with more allowed IPs than this is not read
SHOWN_NAMES = 4


def describe(plan: Plan) -> list[str]:
    """One line for each change: a sign (``+ ~ -``), the change, and the YAML path that it comes from."""
    return [_line(change) for change in plan.changes]


def summary(plan: Plan) -> str:
    """``3 to add, 1 to change, 2 to remove`` or ``no changes``."""
    if not plan:
        return "no changes"
    signs = [line[0] for line in describe(plan)]
    words = (("+", "add"), ("~", "change"), ("-", "remove"))
    return ", ".join(f"{signs.count(sign)} to {word}" for sign, word in words if sign in signs)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """``{"changes": [{"kind": …, "line": …, …fields}]}``, all values plain."""
    rows = [
        {"kind": type(change).__name__, "line": _line(change), **plain(change)} for change in plan.changes
    ]
    return {"changes": rows, "summary": summary(plan)}


def plain(value: Any) -> Any:
    """A value of the model as JSON types: maps, lists, text, numbers; sets become sorted lists.

    Fields with ``compare=False`` are left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "raw"):
            return str(value)
        fields = (field.name for field in dataclasses.fields(value) if field.compare)
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (frozenset, set)):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _why(path: str) -> str:
    return f"  ({path})" if path else ""


def _prefixes(prefixes: frozenset[Any]) -> str:
    shown = (
        list(prefixes)
        if len(prefixes) == 1
        else sorted(prefixes, key=lambda prefix: (prefix.version, prefix))
    )
    text = ", ".join(str(prefix) for prefix in shown[:SHOWN_ADDRESSES])
    more = len(shown) - SHOWN_ADDRESSES
    return text + (f" and {more} more" if more > 0 else "")


def _opening(opening: Opening) -> str:
    """The firewall's manager, and which packets the opening lets pass."""
    if opening.port:
        what = f"lets in udp/{opening.ports('-')}"
    elif opening.oif:
        what = f"passes from {opening.iif} to {opening.oif}"
    else:
        what = f"lets in what comes in on {opening.iif}"
    where = f" ({opening.place})" if opening.place else ""
    return f"{opening.manager}{where} {what}"


def _peer_change(change: c.SetPeer) -> str:
    words = []
    for what in change.changed:
        if what == "allowed IPs":
            gained = f" +({_prefixes(change.gained)})" if change.gained else ""
            lost = f" -({_prefixes(change.lost)})" if change.lost else ""
            words.append(f"allowed IPs{gained}{lost}")
        elif what == "keepalive":
            words.append(f"keepalive {change.peer.keepalive_s} s")
        else:
            words.append(what)
    return ", ".join(words)


def _line(change: c.Change) -> str:
    match change:
        case c.CreateWireGuard(link):
            return f"+ link {link.name}: WireGuard, port {link.listen_port or 'any'}, mtu {link.mtu}"
        case c.SetWireGuard(link, changed):
            return f"~ link {link.name}: {', '.join(changed)} (port {link.listen_port}, mtu {link.mtu})"
        case c.RenameLink(before, after):
            return f"~ link {before}: back to its name {after}"
        case c.DeleteWireGuard(name):
            return f"- link {name}: all its tunnels drop"
        case c.SetPeer(link, peer, added):
            sign, what = ("+", _prefixes(peer.allowed_ips)) if added else ("~", _peer_change(change))
            at = f" at {peer.endpoint}" if peer.endpoint and (added or "endpoint" in change.changed) else ""
            return f"{sign} peer {peer.key.short} on {link}: {what}{at}{_why(peer.path)}"
        case c.RemovePeer(link, key, path):
            return f"- peer {key.short} on {link}: its tunnel drops{_why(path)}"
        case c.CreateSegment(segment):
            why = _why(f"networks.{segment.network}")
            return f"+ segment {segment.name}: VXLAN {segment.vni}, mtu {segment.mtu}{why}"
        case c.SetSegmentMtu(name, mtu):
            return f"~ segment {name}: mtu {mtu}"
        case c.DeleteSegment(name):
            return f"- segment {name}"
        case c.AddAddress(link, address, prefix_len):
            return f"+ address {address}/{prefix_len} on {link}"
        case c.RemoveAddress(link, address, prefix_len):
            return f"- address {address}/{prefix_len} on {link}"
        case c.AddFlood(segment_name, destination):
            return f"+ broadcast on {segment_name} to {destination}"
        case c.RemoveFlood(segment_name, destination):
            return f"- broadcast on {segment_name} to {destination}"
        case c.SetRoute(route, added):
            source = f" from {route.source}" if route.source else ""
            sign = "+" if added else "~"
            return f"{sign} route {route.destination} over {route.link}{source}{_why(route.path)}"
        case c.RemoveRoute(route):
            return f"- route {route.destination} over {route.link}{_why(route.path)}"
        case c.AddUnreachable(destination):
            return f"+ unreachable {destination}, while no link of ours leads there"
        case c.RemoveUnreachable(destination):
            return f"- unreachable {destination}"
        case c.SetFilter(table, added, changed):
            whole = f"{counted(len(table.rules), 'rule')}, default deny on {', '.join(sorted(table.links))}"
            if added:
                return f"+ filter: {whole}"
            return f"~ filter: {'; '.join(changed)} ({whole})"
        case c.RemoveFilter():
            return "- filter"
        case c.RemoveRewrites():
            return "- rewritten ports"
        case c.SetNames(_, added_count, removed, moved):
            parts = [f"{added_count} added" if added_count else "", f"{removed} removed" if removed else ""]
            parts.append(f"{', '.join(moved[:SHOWN_NAMES])} moved" if moved else "")
            if len(moved) > SHOWN_NAMES:
                parts[-1] = f"{len(moved)} moved"
            kinds = [bool(added_count), bool(removed), bool(moved)]
            sign = "+" if kinds == [True, False, False] else "-" if kinds == [False, True, False] else "~"
            return f"{sign} names: {', '.join(part for part in parts if part)}"
        case c.OpenFirewall(opening):
            return f"+ firewall: {_opening(opening)}"
        case c.CloseFirewall(opening):
            return f"- firewall: {_opening(opening)}"
        case c.SetSysctl(key, value, before):
            was = f" (was {before})" if before is not None else ""
            return f"~ sysctl {key} = {value}{was}"
        case c.RestoreSysctl(key):
            return f"~ sysctl {key}: back to what it was"
