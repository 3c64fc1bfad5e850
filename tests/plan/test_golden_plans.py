"""Golden plans: each folder of tests/golden is a case, and a new case is a new folder.

- ``networks.yaml``: the document wanted; ``host``: whose plan this is; ``view.yaml`` (optional): what the mediator
  told (``members``, ``live``: names; ``leases``: network → member → addresses).
- ``actual.yaml``: what is there: nothing when empty; else the document ``from`` (a file of the folder, with its
  ``view``) applied, then changed by ``hands``: ``flush_filter``, ``lose_routes``, ``lose_peer``, ``widen_peer``.
- ``plan.txt``: the plan in words. ``GOLDEN=write pytest tests/plan`` writes it anew, to be read before it is
  committed.
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
from netctl.model.document import Document
from netctl.model.hoststate import HostState
from netctl.model.view import Lease, View, ViewMember
from netctl.plan import describe, diff, summary

CASES = sorted(folder for folder in (Path(__file__).parents[1] / "golden").iterdir() if folder.is_dir())


def told(document: Document, path: Path) -> tuple[View | None, frozenset[Any]]:
    """The view in a file, and who is live."""
    if not path.exists():
        return None, frozenset()
    said = yaml.safe_load(path.read_text())
    keys = {name: document.members[name].wireguard for name in said["members"]}
    leases = {
        (network, keys[name]): Lease(network, keys[name], tuple(map(ipaddress.ip_address, addresses)))
        for network, members in said.get("leases", {}).items()
        for name, addresses in members.items()
    }
    members = {key: ViewMember(name, key) for name, key in keys.items()}
    return View(1, members, leases), frozenset(keys[name] for name in said.get("live", []))


def wanted(folder: Path, host: str, document_file: str, view_file: str) -> HostState:
    """What this host should have by a document of the folder; nothing when it is not a member."""
    document = load_document((folder / document_file).read_text()).document
    if host not in document.members or document.members[host].state != "present":
        return HostState()
    view, live = told(document, folder / view_file)
    return resolve(document, host, view, live=live).state


def found(folder: Path, host: str) -> HostState:
    """What is there before: really applied, then changed by hands."""
    actual = yaml.safe_load((folder / "actual.yaml").read_text()) or {}
    engine = FakeEngine()
    if "from" in actual:
        before = wanted(folder, host, actual["from"], actual.get("view", "view.yaml"))
        assert apply_plan(engine, before).error is None
    state = engine.read()
    for hand in actual.get("hands", []):
        assert state.wireguard is not None
        peers = dict(state.wireguard.peers)
        first = min(peers) if peers else None
        match hand:
            case "flush_filter":
                state = replace(state, filter=empty_filter())
            case "lose_routes":
                state = replace(state, routes=frozenset())
            case "lose_peer":
                del peers[first]
                state = replace(state, wireguard=replace(state.wireguard, peers=peers))
            case "widen_peer":
                wide = peers[first].allowed_ips | {ipaddress.ip_network("198.51.100.0/24")}
                peers[first] = replace(peers[first], allowed_ips=wide)
                state = replace(state, wireguard=replace(state.wireguard, peers=peers))
            case _:
                raise AssertionError(f"{folder.name}: no hand can do {hand}")
    return state


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_plan(folder: Path) -> None:
    host = (folder / "host").read_text().strip()
    desired, actual = wanted(folder, host, "networks.yaml", "view.yaml"), found(folder, host)
    plan = diff(desired, actual)
    text = "\n".join([*describe(plan), summary(plan)]) + "\n"
    file = folder / "plan.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()
    engine = FakeEngine(actual)
    assert apply_plan(engine, desired).error is None
    assert not diff(desired, engine.read())


def test_there_are_cases() -> None:
    assert len(CASES) >= 10
