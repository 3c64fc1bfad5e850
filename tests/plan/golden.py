"""Reads a case of tests/golden; `test_golden_plans` says what is in one."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from netctl.config import Condition, clear_of, load_document, reach_changes, reach_lines, resolve
from netctl.config.load.provenance import Provenance
from netctl.engine import FakeEngine, apply_plan
from netctl.engine.fake import empty_filter, settled
from netctl.model.document import Document
from netctl.model.foreign import Foreign, ForeignName, ForeignRoute
from netctl.model.hoststate import HostState, Peer, Route
from netctl.model.keys import WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.node.drift import departures
from netctl.plan import Plan, Session, describe, diff, drops, summary
from netctl.plan.renames import renamed

CASES = sorted(folder for folder in (Path(__file__).parents[1] / "golden").iterdir() if folder.is_dir())
NOTHING = HostState()
STRAY = WireGuardKey(bytes([7]) * 32)


def told(document: Document, path: Path) -> tuple[View | None, frozenset[Any]]:
    """The view in a file, and who is live."""
    if not path.exists():
        return None, frozenset()
    said = yaml.safe_load(path.read_text())
    known = {name: document.members[name].wireguard for name in said["members"]}
    keys = {name: key for name, key in known.items() if key is not None}
    assert keys.keys() == known.keys()
    leases = {
        (network, keys[name]): Lease(network, keys[name], tuple(map(ipaddress.ip_address, addresses)))
        for network, members in said.get("leases", {}).items()
        for name, addresses in members.items()
    }
    members = {key: ViewMember(name, key) for name, key in keys.items()}
    return View(1, members, leases), frozenset(keys[name] for name in said.get("live", []))


@dataclass(frozen=True)
class Wanted:
    """What a document of the folder means for the host."""

    state: HostState = NOTHING
    conditions: tuple[Condition, ...] = ()
    document: Document | None = None
    view: View | None = None


def wanted(
    folder: Path, host: str, document_file: str, view_file: str, foreign: Foreign | None = None
) -> Wanted:
    """What this host should have by a document of the folder; nothing when it is not a member."""
    document = load_document((folder / document_file).read_text()).document
    if host not in document.members or document.members[host].state != "present":
        return Wanted(document=document)
    view, live = told(document, folder / view_file)
    fitting, refused = clear_of(document, host, foreign) if foreign is not None else (document, ())
    resolution = resolve(fitting, host, view, live=live)
    return Wanted(resolution.state, (*refused, *resolution.conditions), document, view)


def strangers(actual: dict[str, Any]) -> Foreign | None:
    """What is on the host and not ours: ``foreign`` of actual.yaml."""
    said = actual.get("foreign")
    if said is None:
        return None
    return Foreign(
        routes=tuple(
            ForeignRoute(ipaddress.ip_network(p), what) for p, what in said.get("routes", {}).items()
        ),
        own=frozenset(map(ipaddress.ip_network, said.get("own", []))),
        links=said.get("links", {}),
        names=tuple(
            ForeignName(name, ipaddress.ip_address(address), line)
            for line, (name, address) in enumerate(said.get("names", {}).items(), 3)
        ),
    )


def found(folder: Path, host: str, actual: dict[str, Any]) -> tuple[HostState, Wanted]:
    """What is there before: really applied, then changed by hands."""
    engine, before = FakeEngine(), Wanted()
    if "from" in actual:
        before = wanted(folder, host, actual["from"], actual.get("view", "view.yaml"))
        assert apply_plan(engine, before.state).error is None
    state = engine.read()
    for hand in actual.get("hands", []):
        state = settled(laid(state, hand))
    return state, before


def laid(state: HostState, hand: str) -> HostState:
    """The state after somebody has laid hands on the host."""
    link = state.wireguard
    assert link is not None
    peers = dict(link.peers)
    first = peers[min(peers)]
    segment = min(state.segments, default="")
    match hand:
        case "flush_filter":
            return replace(state, filter=empty_filter())
        case "lose_filter":
            return replace(state, filter=None)
        case "lose_routes":
            return replace(state, routes=frozenset())
        case "stray_route":
            stray = Route(ipaddress.ip_network("198.51.100.0/24"), link.name)
            return replace(state, routes=state.routes | {stray})
        case "lose_peer":
            del peers[first.key]
        case "widen_peer":
            wide = first.allowed_ips | {ipaddress.ip_network("198.51.100.0/24")}
            peers[first.key] = replace(first, allowed_ips=wide)
        case "narrow_peer":
            peers[first.key] = replace(first, allowed_ips=frozenset())
        case "stray_peer":
            peers[STRAY] = Peer(STRAY, frozenset({ipaddress.ip_network("198.51.100.9/32")}))
        case "rename_link":
            return renamed(state, {link.name: "mine"})
        case "rename_segment":
            return renamed(state, {segment: "mine"})
        case "lose_segment":
            left = {name: one for name, one in state.segments.items() if name != segment}
            sysctls = {key: value for key, value in state.sysctls.items() if f"/{segment}/" not in key}
            return replace(state, segments=left, sysctls=sysctls)
        case "lose_address":
            return replace(state, wireguard=replace(link, addresses=frozenset(), underlay=frozenset()))
        case "other_mtu":
            return replace(state, wireguard=replace(link, mtu=1300))
        case "other_names":
            names = {name: (ipaddress.ip_address("198.51.100.1"),) for name in list(state.names)[:1]}
            return replace(state, names={**state.names, **names})
        case "other_sysctl":
            return replace(state, sysctls=dict.fromkeys(state.sysctls, "1"))
        case "lose_everything":
            return HostState()
        case _:
            raise AssertionError(f"no hand can do {hand}")
    return replace(state, wireguard=replace(link, peers=peers))


@dataclass(frozen=True)
class Case:
    """One folder, read and worked out."""

    host: str
    desired: HostState
    actual: HostState
    plan: Plan
    text: str


@functools.cache
def read_case(folder: Path) -> Case:
    """Everything that `plan.txt` is about, as it would be now."""
    host = (folder / "host").read_text().strip()
    said = yaml.safe_load((folder / "actual.yaml").read_text()) or {}
    after = wanted(folder, host, "networks.yaml", "view.yaml", strangers(said))
    actual, before = found(folder, host, said)
    assert after.document is not None
    plan = diff(after.state, actual)
    lines = [*describe(plan), summary(plan)]
    lines += [f"! {condition.peer}: {condition.message}" for condition in after.conditions]
    if before.document is not None and said.get("from") != "networks.yaml":
        people = reach_lines(
            reach_changes(before.document, after.document, view=after.view or before.view, about=host)
        )
        lines += ["For people:", *people] if people else []
    if said.get("hands"):
        lines.append("Departs from:")
        for departure in departures(plan, Provenance(after.document, host), actual):
            lines.append(f"{departure.kind}: {', '.join(departure.paths)}")
    if "session" in said:
        session = Session.parse(said["session"])
        assert session is not None
        lines.append(f"Session: {drops(session, after.state, actual) or 'goes on'}")
    return Case(host, after.state, actual, plan, "\n".join(lines) + "\n")
