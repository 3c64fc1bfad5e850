"""A line at a local socket is a request or is refused in words; what an answer says comes out as it went in."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.model.errors import ConfigError, Finding, LocalError, Mark
from netctl.wire import agentrequests as agent
from netctl.wire import operatorrequests as operator
from netctl.wire.jsonline import (
    Request,
    encode,
    error_of,
    failure_line,
    parse_line,
    progress_line,
    result_line,
)

SOCKETS = {"agent": agent.OPERATIONS, "mediator": operator.OPERATIONS}
STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def kinds_of(module: Any) -> list[type[Request[Any]]]:
    found = (one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Request))
    return [kind for kind in found if kind not in (Request, operator.Change)]


FIELDS = sorted(
    {
        field.encode_name
        for module in (agent, operator)
        for kind in kinds_of(module)
        for field in msgspec.structs.fields(kind)
    }
)


@given(st.binary(), st.sampled_from(sorted(SOCKETS)))
def test_no_bytes_raise_anything_else(line: bytes, socket: str) -> None:
    try:
        request = SOCKETS[socket].parse(line)
    except LocalError:
        return
    assert request.operation() in SOCKETS[socket]


@given(st.data(), st.sampled_from(sorted(SOCKETS)))
def test_no_fields_raise_anything_else(data: st.DataObject, socket: str) -> None:
    operations = SOCKETS[socket]
    op = data.draw(st.sampled_from(sorted(operations)))
    fields = data.draw(st.dictionaries(st.sampled_from(FIELDS), STRANGE, max_size=6))
    try:
        request = operations.parse(json.dumps({**fields, "op": op}).encode())
    except LocalError:
        return
    assert request.operation() == op
    assert operations.parse(encode(request)) == request, "what is understood can be said again"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"op": 1}',
        b'{"op": null}',
        b'"op"',
        b"\xff",
        b"[" * 100_000,
        b'{"op": "status", "y": "\\ud800"}',
        b'{"op": "status", "\\udfff": 1}',
        b'{"op": "status", "y": ' + b"[" * 100_000 + b"}",
        b'{"op": "status"} {"op": "status"}',
        b'{"op": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_none(line: bytes) -> None:
    with pytest.raises(LocalError, match="not a request"):
        agent.OPERATIONS.parse(line)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"op": "dance"}, "this agent does not know 'dance': is it of the same version?"),
        ({"op": "x" * 5000}, "this agent does not know '" + "x" * 100 + "'"),
        ({"op": "apply", "file": "f"}, "the request does not say 'text'"),
        ({"op": "apply", "text": 1, "file": "f"}, "the request does not say 'text' as it should"),
        ({"op": "apply", "text": "", "file": "f", "confirm_s": True}, "'confirm_s' as it should"),
        ({"op": "apply", "text": "", "file": "f", "binding": {"document": "x"}}, "does not say 'observed'"),
        ({"op": "drill"}, "does not say 'seconds'"),
        ({"op": "drill", "seconds": "1"}, "does not say 'seconds' as it should"),
        ({"op": "drill", "seconds": 1e300}, "does not say 'seconds' as it should"),
        ({"op": "prune", "at_most": -1}, "does not say 'at_most' as it should"),
        ({"op": "prune", "at_most": 10**400}, "does not say 'at_most' as it should"),
    ],
)
def test_what_is_wrong_is_named(line: dict[str, Any], says: str) -> None:
    with pytest.raises(LocalError) as refused:
        agent.OPERATIONS.parse(json.dumps(line).encode())
    assert says in str(refused.value)
    assert len(str(refused.value)) < 300


def test_what_another_version_says_besides_is_passed_over() -> None:
    assert agent.OPERATIONS.parse(b'{"op": "down", "network": null, "gently": true}') == agent.Down()


@pytest.mark.parametrize("module", [agent, operator], ids=["agent", "operator"])
def test_every_request_is_served_under_a_name_of_its_own_and_has_a_reply(module: Any) -> None:
    kinds = kinds_of(module)
    assert sorted(kind.operation() for kind in kinds) == sorted(module.OPERATIONS)
    for kind in kinds:
        msgspec.json.Decoder(kind.reply_type())


def test_findings_come_out_as_they_went_in() -> None:
    findings = (
        Finding("NC101", "members.nas", "is wrong", Mark("n.yaml", 3, 4), "did you mean", "warning"),
        Finding("NC102", "", "is missing"),
    )
    line = parse_line(failure_line(ConfigError(findings), "agent"))
    assert not isinstance(line.error, msgspec.UnsetType)
    error = error_of(line.error)
    assert isinstance(error, ConfigError)
    assert error.findings == findings


def test_a_failure_is_one_line_and_keeps_its_words() -> None:
    raw = failure_line(LocalError("first\nsecond"), "agent")
    assert raw.count(b"\n") == 1
    line = parse_line(raw)
    assert not isinstance(line.error, msgspec.UnsetType)
    assert str(error_of(line.error)) == "first\nsecond"
    assert b"the agent itself failed (KeyError: 'x')" in failure_line(KeyError("x"), "agent")


def test_lines_of_an_answer() -> None:
    assert parse_line(progress_line("half \ud800")).progress == "half \\ud800"
    result = parse_line(result_line({"ports": {40000: "nas"}})).result
    assert isinstance(result, msgspec.Raw)
    assert msgspec.json.decode(result) == {"ports": {"40000": "nas"}}
