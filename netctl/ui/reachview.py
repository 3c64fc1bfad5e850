"""Makes the matrix of who may reach whom, and the lines of the document with their findings. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from netctl.config.load.acl import Evaluator
from netctl.config.load.pipeline import Loaded
from netctl.config.reach.rulelookup import Flow, flow_in
from netctl.model.document import Network
from netctl.model.errors import Finding

MAX_SIDE = 40
"""Members of a matrix: 1,600 cells are a screen or two, and are judged in a fraction of a second."""
MAX_LINES = 5000
"""Lines of a document that the page shows; a longer one must be read in an editor."""
_LINE = re.compile(
    r"""(?P<key>[A-Za-z0-9_.-]+(?=:(?:\s|$)))|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')|(?P<comment>(?:^|(?<=\s))\#.*)"""
)


@dataclass(frozen=True, slots=True)
class Matrix:
    """Who may reach whom in a network. `names`: of the rows (from) and the columns (to); `left_out`: members
    without a row."""

    network: str
    names: tuple[str, ...]
    rows: tuple[tuple[Flow | None, ...], ...]
    left_out: int
    tests: tuple[tuple[str, str, str], ...]
    """The tests in the document: from, ``reaches`` or ``does not reach``, to. All hold, or the document would be
    invalid."""


def matrix(loaded: Loaded, network: Network, proto: str | None, port: int | None, words: str) -> Matrix:
    """The matrix of those members of a network whose names contain all of `words`."""
    found = [name for name in network.member_names if all(word in name for word in words.lower().split())]
    names = tuple(found[:MAX_SIDE])
    evaluator = Evaluator(loaded.document, network)
    rows = tuple(
        tuple(
            flow_in(loaded, network, src, dst, proto, port, evaluator) if src != dst else None
            for dst in names
        )
        for src in names
    )
    tests = tuple(
        (test.src, words, target)
        for test in network.tests
        for words, targets in (("reaches", test.accept), ("does not reach", test.deny))
        for target in targets
    )
    return Matrix(network.name, names, rows, len(found) - len(names), tests)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the document. `parts`: kind (``key``, ``text``, ``comment`` or empty) and text of each part."""

    number: int
    parts: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]


def lines(text: str, findings: Iterable[Finding]) -> list[Line]:
    """The lines of a text, each with its findings. A finding without a line is at the first line."""
    by_line: dict[int, list[Finding]] = {}
    for one in findings:
        by_line.setdefault(one.mark.line if one.mark else 1, []).append(one)
    written = text.splitlines()[:MAX_LINES] or [""]
    return [
        Line(number, tuple(_parts(line)), tuple(by_line.get(number, ())))
        for number, line in enumerate(written, 1)
    ]


def _parts(line: str) -> Iterator[tuple[str, str]]:
    end = 0
    for found in _LINE.finditer(line):
        if found.start() > end:
            yield "", line[end : found.start()]
        yield found.lastgroup or "", found.group()
        end = found.end()
    if end < len(line):
        yield "", line[end:]
