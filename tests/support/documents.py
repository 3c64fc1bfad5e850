"""Generated documents: texts that load, and texts that nearly do."""

from __future__ import annotations

import base64
import copy
import hashlib
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

EXAMPLES = sorted(
    path
    for path in (Path(__file__).parents[2] / "examples").rglob("*.yaml")
    if "apiVersion: netctl/v1" in path.read_text(encoding="utf-8")
)
"""Every document among the examples: what else lies there (a compose file) is no document."""


def key(seed: str) -> str:
    """A well-formed public key: no private half exists."""
    return base64.b64encode(hashlib.blake2s(seed.encode()).digest()).decode()


GROUPS = ["admins", "servers", "gamers"]
NAMES = ["laptop", "desktop", "nas", "console", "branch"]
FIXED = {name: f"10.77.0.{index + 10}" for index, name in enumerate(NAMES)}
SELECTORS = [
    "*",
    *NAMES,
    *(f"group:{group}" for group in GROUPS),
    "10.77.0.0/16",
    "10.77.0.10/32",
    "192.168.50.0/24",
]


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """One ACL rule."""
    sides = st.lists(st.sampled_from(SELECTORS), min_size=1, max_size=3)
    rule: dict[str, Any] = {"src": draw(sides), "dst": draw(sides)}
    proto = draw(st.sampled_from([None, "tcp", "udp", "icmp"]))
    if proto is not None:
        rule["proto"] = proto
    if proto in ("tcp", "udp"):
        rule["ports"] = draw(st.lists(st.sampled_from([22, 53, "80-90", "1-1024"]), min_size=1, max_size=2))
    return rule


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """A valid document: five members with fixed addresses, one network with ACLs."""
    members = {
        name: {
            "wireguard": key(name),
            "identity": "ed25519:" + key("identity " + name),
            # Each group has at least one member, so that no selector dangles.
            "groups": [*draw(st.lists(st.sampled_from(GROUPS), max_size=3)), GROUPS[index % 3]],
        }
        for index, name in enumerate(NAMES)
    }
    members["branch"]["routes"] = ["192.168.50.0/24"]
    network: dict[str, Any] = {
        "mode": draw(st.sampled_from(["routed", "lan"])),
        "ipv4": "10.77.0.0/16",
        "members": ["*"],
        "addresses": dict(FIXED),
    }
    if draw(st.booleans()):
        network["acls"] = draw(st.lists(rules(), max_size=6))
    if network["mode"] == "routed" and draw(st.booleans()):
        network["topology"] = {"hub": draw(st.sampled_from(NAMES))}
    mediator = {"url": "netctl://m.example.net:8443", "identity": ["ed25519:" + key("mediator")]}
    return {
        "apiVersion": "netctl/v1",
        "id": "a1b2-c3d4",
        "mediators": [mediator],
        "members": members,
        "networks": {"office": network},
    }


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 70000),
    st.floats(allow_nan=False),
    st.sampled_from(
        ["", "*", "laptop\n", "0x8137", "10.0.0.0/8", "::/0", "22-1", "ed25519:", "netctl://[x:1", "\x1b[2J"]
    ),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.dictionaries(st.text(max_size=6), st.integers(), max_size=2),
    st.lists(st.text(max_size=6), max_size=2),
)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for part, child in items:
        found.extend(_places(child, (*path, part)))
    return found


@st.composite
def broken_trees(draw: st.DrawFn) -> dict[str, Any]:
    """A document with one to three of its parts replaced, removed or added to."""
    tree = copy.deepcopy(draw(trees()))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_places(tree)))
        parent: Any = tree
        for part in path[:-1]:
            parent = parent[part]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            parent[path[-1]] = draw(JUNK)
        elif action == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["mtu", "ports", "x", "a.b", "hub", "ipv6", "routes"]))] = draw(JUNK)
        elif len(tree) > 1:
            del parent[path[-1]]
    return tree
