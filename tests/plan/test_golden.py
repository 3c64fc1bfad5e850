"""Plans that a person has read. `NETCTL_GOLDEN=update` writes them anew: read each before it is committed.

A case is a folder: `networks.yaml` and `host.txt` (whose plan), `view.yaml` (what the mediator said), and
`actual.yaml`: what is there, either ``empty: true`` or ``from: before.yaml``, with ``drift`` made by hand.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from netctl.config import load_document, resolve
from netctl.engine import FakeEngine, apply_plan
from netctl.engine.fake import empty_filter
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document
from netctl.model.hoststate import HostState
from netctl.model.view import Lease, View, ViewMember
from netctl.plan import describe, diff, summary

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def read(path: Path) -> dict[str, Any]:
    """A small YAML map; empty when there is none."""
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


def view_of(said: dict[str, Any], document: Document) -> View | None:
    """The view that names members of this document."""
    if "members" not in said:
        return None
    keys = {name: document.members[name].wireguard for name in said["members"] if name in document.members}
    known = {name: key for name, key in keys.items() if key is not None}
    leases = {
        (network, known[name]): Lease(network, known[name], (ipaddress.ip_address(address),))
        for network, rows in said.get("leases", {}).items()
        for name, address in rows.items()
        if name in known and network in document.networks
    }
    return View(1, {key: ViewMember(name, key, online=True) for name, key in known.items()}, leases)


def state_of(case: Path, file: str, view_file: str) -> HostState:
    """What the host should have by this document and this view."""
    document = load_document((case / file).read_text(), file).document
    said = read(case / view_file)
    live = {document.members[name].wireguard for name in said.get("live", ()) if name in document.members}
    endpoints = {
        f"{text}": SocketAddress.parse(address) for text, address in said.get("resolved", {}).items()
    }
    resolution = resolve(
        document,
        (case / "host.txt").read_text().strip(),
        view_of(said, document),
        live=frozenset(key for key in live if key is not None),
        resolved=endpoints,
    )
    return resolution.state


def drifted(state: HostState, drift: dict[str, Any], document: Document) -> HostState:
    """What somebody's hands have made of it."""
    link = state.wireguard
    assert link is not None
    peers = dict(link.peers)
    for name, prefixes in drift.get("allowed_ips", {}).items():
        key = document.members[name].wireguard
        assert key is not None
        peers[key] = replace(peers[key], allowed_ips=frozenset(map(ipaddress.ip_network, prefixes)))
    gone = set(drift.get("routes_deleted", ()))
    segment = next(iter(state.segments), "")
    sysctls = {key.replace("SEGMENT", segment): value for key, value in drift.get("sysctls", {}).items()}
    return replace(
        state,
        wireguard=replace(link, peers=peers),
        routes=frozenset(route for route in state.routes if str(route.destination) not in gone),
        sysctls={**state.sysctls, **sysctls},
        filter=empty_filter() if drift.get("filter") == "empty" else state.filter,
    )


@pytest.mark.parametrize("name", CASES)
def test_plan(name: str) -> None:
    case = GOLDEN / name
    desired = state_of(case, "networks.yaml", "view.yaml")
    actual = read(case / "actual.yaml")
    there = HostState()
    if "from" in actual:
        before_view = "before_view.yaml" if (case / "before_view.yaml").exists() else "view.yaml"
        there = state_of(case, actual["from"], before_view)
        if "drift" in actual:
            there = drifted(
                there, actual["drift"], load_document((case / actual["from"]).read_text()).document
            )
    if actual.get("desired") == "down":
        desired = HostState()
    plan = diff(desired, there)
    text = "\n".join([*describe(plan), f"Plan: {summary(plan)}."]) + "\n"
    expected = case / "plan.txt"
    if os.environ.get("NETCTL_GOLDEN") == "update":
        expected.write_text(text)
    assert text == expected.read_text()
    engine = FakeEngine(there)
    assert apply_plan(engine, desired).error is None
    assert not diff(desired, engine.read())


def test_enough_is_golden() -> None:
    assert len(CASES) >= 12
