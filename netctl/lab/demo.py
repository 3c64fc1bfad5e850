"""The demonstration: show step by step, with real packets, that the members of a lab are one LAN.

Every result comes from the running system or from real packets; none is known beforehand.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from netctl.lab import guest
from netctl.lab.happenings import Check, Event, Progress, Table, Verdict
from netctl.lab.internet import Lab, statuses_of
from netctl.lab.probes import acl_checks, broadcast, ping_all
from netctl.model.document import Document, Mode
from netctl.model.errors import EngineError
from netctl.model.forpeople import counted

MEET_TIMEOUT_S = 40.0
"""Login, introduction and a handshake take two or three seconds; a small busy machine needs more."""
SETTLE_S = 7.0
"""Pairs start over the relay and then find better paths. After so long without a change, paths are final."""
POLL_S = 0.5

Statuses = dict[str, dict[str, Any]]
"""Output of `netctl status -o json` by member."""


def demonstrate(lab: Lab, started: float) -> Iterator[Event]:
    """Show that the members of a lab are one LAN. The last event is a Verdict; `started`: monotonic clock."""
    failed: list[str] = []
    statuses: Statuses = {}
    for event in _meet(lab):
        if isinstance(event, Event):
            yield event
        else:
            statuses = event
    lonely = unconnected(lab.document, statuses)
    if lonely:
        failed.append(f"not connected: {', '.join(lonely)}")
    yield _online(lab, statuses)

    yield Progress("ping by name between every pair")
    rtts = ping_all(lab)
    yield _paths(lab, statuses, rtts)
    yield _pings(lab, rtts)
    lost = [f"{one} → {other}" for (one, other), rtt in rtts.items() if rtt is None]
    text = f"{len(rtts) - len(lost)} of {counted(len(rtts), 'ping')} by name answered"
    yield Check(not lost, text + (f"; not: {', '.join(lost)}" if lost else ""))
    failed.extend(f"ping {pair}" for pair in lost)

    for network in lab.document.networks.values():
        if network.mode is not Mode.LAN:
            continue
        yield Progress(f"a UDP broadcast in {network.name}")
        result = broadcast(lab, network)
        if result is None:
            continue
        deaf = [name for name, source in result.heard.items() if source is None]
        heard = [f"{name} (from {source})" for name, source in result.heard.items() if source is not None]
        text = f"broadcast of {result.sender} to {result.address} heard by {', '.join(heard) or 'nobody'}"
        yield Check(not deaf, text + (f"; not by {', '.join(deaf)}" if deaf else ""))
        failed.extend(f"broadcast to {name}" for name in deaf)

    if any(network.tests for network in lab.document.networks.values()):
        yield Progress("the ACLs, tried with real connections")
        checks = acl_checks(lab)
        words = {True: "passes", False: "blocked"}
        yield Table(
            "ACLs",
            ("network", "from", "to", "what", "document says", "seen"),
            tuple(
                (entry.network, entry.src, entry.dst, entry.what, words[entry.wanted], words[entry.seen])
                for entry in checks
            ),
        )
        wrong = [entry for entry in checks if entry.seen is not entry.wanted]
        passed = sum(entry.wanted for entry in checks)
        yield Check(
            not wrong,
            f"{counted(passed, 'flow')} to let through and {len(checks) - passed} to block: {len(wrong)} wrong",
        )
        failed.extend(f"{entry.src} to {entry.dst}:{entry.what}" for entry in wrong)

    for event in _guest(lab):
        yield event
        if isinstance(event, Check) and not event.ok:
            failed.append("a machine that joins by invite")

    seconds = time.monotonic() - started
    if failed:
        yield Verdict(False, f"{seconds:.0f} s, {'; '.join(failed)}")
        return
    names = lab.topology.members
    yield Verdict(
        True,
        f"{counted(len(names), 'host')} behind {counted(len(lab.topology.boxes), 'NAT')} are one LAN ({seconds:.0f} s)",
    )


def _meet(lab: Lab) -> Iterator[Event | Statuses]:
    """Wait until all members are connected, then until paths are final. The last value is the statuses."""
    deadline = time.monotonic() + MEET_TIMEOUT_S
    settled_at = time.monotonic() + SETTLE_S
    before: dict[tuple[str, str], str] = {}
    said = ""
    while True:
        statuses = statuses_of(lab.network.members)
        now = time.monotonic()
        lonely = unconnected(lab.document, statuses)
        ends = {
            (name, peer["name"]): peer["path"] if peer["last_handshake_s"] is not None else "none"
            for name, status in statuses.items()
            for peer in status["peers"]
            if peer["name"] in statuses and route_between(lab.document, name, peer["name"]) == ""
        }
        if ends != before:
            before, settled_at = ends, now + SETTLE_S
        up = sum(path != "none" for path in ends.values())
        relayed = sum(path.startswith("relay") for path in ends.values())
        text = f"{up} of {counted(len(ends), 'tunnel end')} up" + (
            f", {relayed} over the relay" if relayed else ""
        )
        if text != said:
            yield Progress(text)
            said = text
        if now > deadline or (not lonely and (not relayed or now > settled_at)):
            break
        time.sleep(POLL_S)
    yield statuses


def _guest(lab: Lab) -> Iterator[Event]:
    """Join a new machine with an invite, if the document admits invites automatically."""
    network = guest.invited_network(lab)
    if network is None:
        return
    yield Progress(f"one more machine, with nothing but an invite to {network.name}")
    try:
        joined = guest.join(lab, network)
    except EngineError as error:
        yield Check(False, str(error))
        return
    others = [name for name in network.member_names if name not in joined.silent]
    text = f"{guest.NAME} joined {network.name} with one string in {joined.joined_s:.1f} s"
    text += f" ({joined.address}) and reaches {', '.join(others) or 'nobody'} by name"
    yield Check(not joined.silent, text + (f"; not {', '.join(joined.silent)}" if joined.silent else ""))


def route_between(document: Document, one: str, other: str) -> str | None:
    """How two members reach each other: "" by their own tunnel, a name by that hub, None not at all."""
    shared = [
        network
        for network in document.networks.values()
        if one in network.member_names and other in network.member_names
    ]
    hubs = [network.hub for network in shared]
    if any(hub is None or hub in (one, other) for hub in hubs):
        return ""
    return hubs[0] if hubs else None


def unconnected(document: Document, statuses: Statuses) -> list[str]:
    """What is not connected: members without the mediator, and tunnel ends that are not up."""
    missing = [
        f"{name} with the mediator"
        for name, status in statuses.items()
        if status["mediator"]["state"] not in ("connected", "none")
    ]
    for name, status in statuses.items():
        peers = {peer["name"]: peer for peer in status["peers"]}
        for other in statuses:
            if other == name or route_between(document, name, other) != "":
                continue
            peer = peers.get(other)
            if peer is None or peer["path"] == "none" or peer["last_handshake_s"] is None:
                missing.append(f"{name} with {other}")
    return missing


def _online(lab: Lab, statuses: Statuses) -> Table:
    networks = tuple(lab.document.networks)
    rows = []
    for name, status in statuses.items():
        state = status["mediator"]["state"]
        addresses = tuple(
            next(iter(status["networks"].get(network, {}).get("addresses", ())), "-") for network in networks
        )
        box = lab.topology.box_of(name)
        behind = f"{box.name} {box.wan}"
        rows.append((name, "online" if state == "connected" else state, *addresses, behind))
    return Table("Members", ("member", "state", *networks, "behind"), tuple(rows))


def _paths(lab: Lab, statuses: Statuses, rtts: dict[tuple[str, str], float | None]) -> Table:
    rows = []
    names = lab.topology.members
    for index, one in enumerate(names):
        peers = {peer["name"]: peer for peer in statuses[one]["peers"]}
        for other in names[index + 1 :]:
            route, peer, rtt = (
                route_between(lab.document, one, other),
                peers.get(other),
                rtts.get((one, other)),
            )
            shown = "-" if rtt is None else f"{rtt:.1f} ms"
            if route:
                rows.append((f"{one} – {other}", f"through {route}", "-", shown))
            elif route is not None and peer is not None:
                rows.append((f"{one} – {other}", str(peer["path"]), str(peer["endpoint"] or "-"), shown))
    return Table("Paths", ("pair", "path", "endpoint", "round trip"), tuple(rows))


def _pings(lab: Lab, rtts: dict[tuple[str, str], float | None]) -> Table:
    names = lab.topology.members

    def cell(one: str, other: str) -> str:
        if (one, other) not in rtts:
            return ""
        rtt = rtts[one, other]
        return "lost" if rtt is None else f"{rtt:.1f} ms"

    rows = tuple((one, *(cell(one, other) for other in names)) for one in names)
    return Table("Ping by name (from row to column)", ("", *names), rows)
