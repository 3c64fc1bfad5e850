"""Counts as people read them: one member is no "1 members"."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from netctl.model.forpeople import counted

ROOT = Path(__file__).resolve().parents[2]
THINGS = (
    "binding|change|check|condition|connection|datagram|difference|error|expectation|file|flow|host|lease|login|"
    "member|message|network|other|packet|pair|peer|ping|port|probe|removal|route|rule|tunnel|use|warning|way"
)
AFTER = re.compile(rf" ((?:more|other|relay) )?(?:{THINGS})s\b")
MAY = {
    "netctl/config/load/semantic.py": "so many members that not all have a port or an address, or broadcast",
    "netctl/cli/commands/prune.py": "more than ASK_ABOVE",
    "netctl/engine/applyplan.py": "more than were agreed to",
    "netctl/lab/families.py": "all pairs of a lab",
    "netctl/lab/matrix.py": "a fault of the lab",
    "mediator/shell/server.py": "the limit of open files",
}
"""Who has a number before a plural, and why it is never 1."""


def plurals(source: str) -> Iterator[tuple[int, str]]:
    """Each f-string with a number, which may be 1, before a plural: line and plural."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for number, text in itertools.pairwise(node.values):
            if not isinstance(number, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            value = number.value
            name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
            found = AFTER.match(str(text.value))
            if found is not None and not name.isupper():
                yield node.lineno, found.group().strip()


def test_one_thing_is_one_thing() -> None:
    assert [counted(number, "more way") for number in (0, 1, 2)] == [
        "0 more ways",
        "1 more way",
        "2 more ways",
    ]


def test_no_text_has_a_number_before_a_plural() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): list(plurals(path.read_text()))
        for room in ("netctl", "mediator")
        for path in (ROOT / room).rglob("*.py")
    }
    wrong = [
        f"{file}:{line}: {what}" for file, places in found.items() for line, what in places if file not in MAY
    ]
    assert not wrong, "use netctl.model.forpeople.counted: " + ", ".join(wrong)
    assert {file for file in MAY if not found[file]} == set(), "no longer needed"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('f"{n} members"', "members"),
        ('f"of {len(x)} more ways: y"', "more ways"),
        ('f"{n} peers\' keys"', "peers"),
    ],
)
def test_the_test_sees_plurals(source: str, what: str) -> None:
    assert list(plurals(source)) == [(1, what)]


@pytest.mark.parametrize("source", ['f"{MAX_PEERS} peers"', 'f"{name} portside"', 'f"{n}s"'])
def test_the_test_leaves_the_rest_alone(source: str) -> None:
    assert list(plurals(source)) == []
