"""Drift: finds where a host departs from its document, and names the places of the document that say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from netctl.config.load.provenance import ANYWHERE, Provenance
from netctl.model.document import Document, Drift
from netctl.model.foreign import Foreign
from netctl.model.hoststate import FilterTable, HostState
from netctl.model.keys import WireGuardKey
from netctl.node.evaluate import member_name
from netctl.node.firewall.obstacles import openings
from netctl.node.state import NodeState
from netctl.plan import Change, Plan, describe, diff
from netctl.plan import changes as c

MAX_PATHS = 8
"""Places that one departure names: a flushed table departs from every network."""
MAX_KEPT = 500
"""Departures kept for `status`; an emptied host of 10,000 peers has 20,000."""


@dataclass(frozen=True, slots=True)
class Departure:
    """One departure of the host from its document: the change that corrects it, and where the document says so."""

    line: str
    kind: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.line}  [{', '.join(self.paths)}]"

    def to_json(self) -> dict[str, Any]:
        """The departure in plain values."""
        return {"line": self.line, "kind": self.kind, "paths": list(self.paths)}


@dataclass(slots=True)
class Counters:
    """Counters since this agent began."""

    found: int = 0
    """Departures found; each counts once, however long it lasts."""
    healed: int = 0
    failed: int = 0
    """Corrections that failed."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of one drift check."""

    departures: tuple[Departure, ...] = ()
    fresh: int = 0
    """How many departures the check before did not find."""
    heal: bool = False
    """Whether to correct the host: the document says `drift: correct`."""
    evaluate_again: bool = False
    """Whether to evaluate again: something foreign came or went, or the desired state is unknown yet."""


def inspect(
    state: NodeState, key: WireGuardKey, foreign: Foreign, actual: HostState, before: tuple[Departure, ...]
) -> Inspection:
    """Compare the host with its desired state. `before`: the departures of the check before. Raises LocalError."""
    document = state.document
    if document is None:
        return Inspection()
    if not state.settled:  # no view yet, or the first try failed: the difference is not drift
        return Inspection(evaluate_again=True)
    plan = diff(state.desired, actual)
    found = departures(plan, Provenance(document, member_name(document, key)), actual)
    return Inspection(
        departures=found,
        fresh=len(set(found) - set(before)),
        heal=bool(plan) and document.drift is Drift.CORRECT,
        evaluate_again=state.foreign.differs(foreign) or _opened_otherwise(state, document, key, foreign),
    )


def _opened_otherwise(state: NodeState, document: Document, key: WireGuardKey, foreign: Foreign) -> bool:
    """Whether the host's firewall has changed since netctl opened it."""
    if state.joined is not None:
        return False
    return openings(state.desired, document, member_name(document, key), foreign) != state.desired.openings


def departures(plan: Plan, provenance: Provenance, actual: HostState) -> tuple[Departure, ...]:
    """The changes that would correct a host, each with its places in the document; at most MAX_KEPT."""
    found = []
    for change, line in zip(plan.changes[:MAX_KEPT], describe(plan), strict=False):
        paths = tuple(dict.fromkeys(_paths(change, provenance, actual)))[:MAX_PATHS]
        found.append(Departure(line, type(change).__name__, paths or (ANYWHERE,)))
    return tuple(found)


def _paths(change: Change, at: Provenance, actual: HostState) -> Iterator[str]:
    match change:
        case c.CreateWireGuard() | c.DeleteWireGuard():
            yield at.own()
        case c.RenameLink(_, after):
            yield at.segment(after) if after.startswith("nseg") else at.own()
        case c.SetWireGuard(_, changed):
            keys = {"key": "wireguard", "listen port": "listenPort"}
            yield from (at.own(keys.get(one, one)) for one in changed)
        case c.SetPeer(_, peer, added):
            prefixes = () if added else sorted(change.gained | change.lost, key=str)
            yield from (at.prefix(prefix, peer.key) for prefix in prefixes)
            if not prefixes:
                yield at.member(peer.key)
        case c.RemovePeer(_, key):
            yield at.member(key)
        case c.CreateSegment(segment):
            yield at.segment(segment.name)
        case c.SetSegmentMtu(name) | c.DeleteSegment(name) | c.AddFlood(name) | c.RemoveFlood(name):
            yield at.segment(name)
        case c.AddAddress(_, address) | c.RemoveAddress(_, address):
            yield at.address(address)
        case c.SetRoute(route) | c.RemoveRoute(route):
            yield at.prefix(route.destination)
        case c.AddUnreachable(destination) | c.RemoveUnreachable(destination):
            yield at.prefix(destination)
        case c.SetFilter(table):
            yield from _rules(table, actual.filter, at)
        case c.RemoveFilter():
            yield from at.filters()
        case c.RemoveRewrites():
            pass  # the document has no place for it
        case c.SetNames(names):
            both = names.keys() | actual.names.keys()
            changed_names = sorted(name for name in both if names.get(name) != actual.names.get(name))
            yield from (at.name(name) for name in changed_names)
        case c.OpenFirewall() | c.CloseFirewall():
            yield at.own("firewall")
        case c.SetSysctl(key) | c.RestoreSysctl(key):
            yield at.sysctl(key)


def _rules(wanted: FilterTable, there: FilterTable | None, at: Provenance) -> Iterator[str]:
    present = frozenset(there.rules) if there is not None else frozenset()
    differ = present ^ frozenset(wanted.rules)
    # missing, changed by hand, or made for other links and source checks: load the whole table
    if not present or not differ:
        yield from at.filters()
        return
    yield from (at.rule(rule.name) for rule in sorted(differ, key=lambda rule: rule.name))
