"""No circles inside a room: imports of its files, those for type checking alone included, form no cycle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mediator
import netctl

ROOTS = {"netctl": Path(netctl.__file__).parent, "mediator": Path(mediator.__file__).parent}
STILL_IN_A_CIRCLE = {"netctl.agent", "netctl.tunnel"}
"""`agent`: the shell around one `Agent` object, which goes as what it decides moves into `netctl.node`. `tunnel`: a
peer, its timers and its indices name each other for type checking."""


def rooms() -> dict[str, Path]:
    return {
        f"{name}.{room.name}": room
        for name, root in ROOTS.items()
        for room in sorted(root.iterdir())
        if (room / "__init__.py").exists()
    }


def imports(room: str, folder: Path) -> dict[str, set[str]]:
    """Module of the room to the modules of the room that it names anywhere in its file. `__init__` is no module."""
    names = {
        ".".join((room, *path.relative_to(folder).with_suffix("").parts)): path
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    }
    found: dict[str, set[str]] = {}
    for module, path in names.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
        found[module] = (named & names.keys()) - {module}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules that lie on circles: those left once all without imports, or without importers, are taken away."""
    left = {module: set(others) for module, others in graph.items()}
    while True:
        named = set().union(*left.values()) if left else set()
        gone = {module for module, others in left.items() if not others or module not in named}
        if not gone:
            return sorted(left)
        left = {module: others - gone for module, others in left.items() if module not in gone}


@pytest.mark.parametrize("room", sorted(rooms()))
def test_a_room_has_no_circle(room: str) -> None:
    found = circle(imports(room, rooms()[room]))
    if room in STILL_IN_A_CIRCLE:
        assert found, f"{room} has no circle any more: take it out of the list"
    else:
        assert found == []


def test_a_circle_for_types_alone_is_one() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
