"""SECURITY.md and docs/security.md name a test for every row, and every test that they name exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/security.md"
NAMED = re.compile(r"`([\w/]+\.py)(?:::(\w+))?`")
MIN_ROWS = 30
"""The page is a table of threats: with fewer rows something of it was lost."""


def rows() -> list[tuple[str, str]]:
    """(the harm, the last column) of every row of the tables that have tests."""
    found, telling = [], False
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        telling = bool(cells) and (telling or cells[-1] == "tried by")
        if telling and len(cells) == 3 and cells[-1] != "tried by" and set(cells[0]) != {"-"}:
            found.append((cells[0], cells[-1]))
    return found


ROWS = rows()


def functions(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_there_are_rows() -> None:
    assert len(ROWS) >= MIN_ROWS


@pytest.mark.parametrize(("harm", "tests"), ROWS, ids=[harm[:40] for harm, _ in ROWS])
def test_every_row_names_tests_that_exist(harm: str, tests: str) -> None:
    named = NAMED.findall(tests)
    assert named, f"no test is named for: {harm}"
    for file, function in named:
        path = ROOT / "tests" / file
        assert path.is_file(), f"there is no tests/{file}"
        there = functions(path)
        assert function in there if function else any(name.startswith("test_") for name in there), (
            f"{file}::{function}"
        )


def test_a_row_without_a_test_is_seen() -> None:
    assert NAMED.findall("`netns/test_x.py::test_y`, and `tunnel/test_z.py`") == [
        ("netns/test_x.py", "test_y"),
        ("tunnel/test_z.py", ""),
    ]
    assert not NAMED.findall("by review")


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/security.md", "README.md", "docs/design.md"])
def test_links_between_the_pages_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), f"{page}: {target}"
    if page != "docs/security.md":
        assert "security.md" in text or "SECURITY.md" in text
