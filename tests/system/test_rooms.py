"""No circles inside a room, `TYPE_CHECKING` included, and one name stands for one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for package in ("netctl", "mediator")
    for path in (ROOT / package).glob("*/__init__.py")
)
A_PART_OF_EACH = frozenset({"constants", "effects", "main", "metrics", "options", "output", "registry"})
"""What every program, or every state machine, has for itself under the same name."""
BY_SUBJECT = frozenset({"commands", "diagnosis"})
"""Folders whose files are entries of one table, and are called by their subject."""


def modules(room: str) -> dict[str, Path]:
    """The modules of a room by name."""
    found = {}
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(source: str, known: Mapping[str, object]) -> Iterator[str]:
    """What of `known` a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if (name := whole if whole in known else node.module) in known:
                    yield name
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def edges_of(room: str) -> dict[str, set[str]]:
    known = modules(room)
    return {name: set(imported(path.read_text(), known)) - {name} for name, path in known.items()}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_no_circle(room: str) -> None:
    edges = edges_of(room)
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from None


def folder_of(room: str, name: str) -> str:
    """The folder by subject that a module stands in; one that stands beside the folders is alone."""
    inside = name.removeprefix(room.replace("/", ".")).lstrip(".")
    first, _, rest = inside.partition(".")
    return first if rest or (ROOT / room / first).is_dir() else inside


@pytest.mark.parametrize("room", ROOMS)
def test_its_folders_have_no_circle(room: str) -> None:
    """What `links` imports does not import `links`, by whatever file; the room's own `__init__` only lists names."""
    folders: dict[str, set[str]] = {}
    for name, others in edges_of(room).items():
        if mine := folder_of(room, name):
            folders.setdefault(mine, set()).update(folder_of(room, other) for other in others)
    edges = {mine: {other for other in others if other and other != mine} for mine, others in folders.items()}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from None


@pytest.mark.parametrize(
    "source",
    [
        "from netctl.agent.b import x",
        "from netctl.agent import b",
        "import netctl.agent.b",
        "if TYPE_CHECKING:\n    from netctl.agent.b import x",
        "def f():\n    from netctl.agent import b as c",
    ],
)
def test_each_way_to_import_is_seen(source: str) -> None:
    known = {"netctl.agent": 0, "netctl.agent.a": 0, "netctl.agent.b": 0}
    assert list(imported(source, known)) == ["netctl.agent.b"]


def test_a_name_is_one_file() -> None:
    found: dict[str, list[str]] = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if path.parent.name not in BY_SUBJECT and path.stem not in {"__init__", *A_PART_OF_EACH}:
                found.setdefault(path.stem, []).append(path.relative_to(ROOT).as_posix())
    several = {name: paths for name, paths in found.items() if len(paths) > 1}
    assert not several, f"find another name: {several}"
