"""A line at a local socket is a request or is refused in words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.model.errors import LocalError
from netctl.wire.jsonline import parse_request, text_of


@given(st.binary())
def test_no_bytes_raise_anything_else(line: bytes) -> None:
    try:
        request = parse_request(line)
    except LocalError:
        return
    assert isinstance(request["op"], str)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"op": 1}',
        b'{"op": null}',
        b'"op"',
        b"\xff",
        b"[" * 100_000,
        b'{"op": "x", "y": "\\ud800"}',
        b'{"op": "x", "\\udfff": 1}',
        b'{"op": "x", "y": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_none(line: bytes) -> None:
    with pytest.raises(LocalError, match="not a request"):
        parse_request(line)


def test_a_text_is_a_text() -> None:
    request = parse_request(json.dumps({"op": "x", "a": "b", "n": None, "i": 1}).encode())
    assert text_of(request, "a") == "b"
    assert text_of(request, "n", "default") == text_of(request, "none", "default") == "default"
    for key in ("i", "n", "none"):
        with pytest.raises(LocalError):
            text_of(request, key)
    with pytest.raises(LocalError):
        text_of(request, "i", "default")
