"""A compiled document is the document, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.config import load_document
from netctl.config.load.compiled import LateSource, compile_document, load_compiled
from tests.support.documents import EXAMPLES

CODE = "these checks"
TEXT = (Path(__file__).parents[2] / "examples/lan-party.yaml").read_text()
DATA = compile_document(load_document(TEXT), CODE)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_is_the_same_document_with_the_same_warnings_and_places(path: Path) -> None:
    text = path.read_text()
    loaded = load_document(text, str(path))
    again = load_compiled(compile_document(loaded, CODE), CODE, text, str(path))
    assert again is not None
    assert isinstance(again.source, LateSource)
    assert again.document == loaded.document
    assert again.warnings == loaded.warnings
    assert again.marks == loaded.marks
    assert again.mark(("members",)) == loaded.mark(("members",))


def test_another_text_or_other_checks_are_not_taken_for_it() -> None:
    assert load_compiled(DATA, CODE, TEXT, "x") is not None
    assert load_compiled(DATA, CODE, TEXT + "\n", "x") is None
    assert load_compiled(DATA, "other checks", TEXT, "x") is None
    assert load_compiled(DATA.replace(b'"format":1', b'"format":2'), CODE, TEXT, "x") is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.binary(max_size=8))
def test_a_damaged_one_is_no_trouble(place: int, junk: bytes) -> None:
    """Nothing, or a document: never an error."""
    again = load_compiled(DATA[:place] + junk + DATA[place + len(junk) :], CODE, TEXT, "x")
    assert again is None or again.source.text == TEXT
    assert load_compiled(DATA[:place], CODE, TEXT, "x") is None
