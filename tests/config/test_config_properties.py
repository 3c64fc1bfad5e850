"""Laws of the config room over generated documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.config import load_document, resolve
from netctl.config.load.acl import decide
from netctl.config.load.fastvalidator import compile_schema
from netctl.config.load.loader import parse
from netctl.config.load.schema import load_schema, validator_class
from netctl.model.addresses import Address
from netctl.model.document import Document, MemberState
from netctl.model.errors import ConfigError, Finding
from netctl.model.hoststate import FilterRule
from netctl.model.view import View, ViewMember
from tests.support.documents import NAMES, broken_trees, trees

FAST = compile_schema(load_schema())
SLOW = validator_class()(load_schema())


def findings_of(text: str) -> tuple[Finding, ...]:
    """What is said about a text: nothing for a valid one. Any other error goes through."""
    try:
        load_document(text)
    except ConfigError as error:
        return error.findings
    return ()


@settings(max_examples=40, deadline=None)
@given(broken_trees())
def test_the_compiled_check_and_jsonschema_agree(tree: dict[str, Any]) -> None:
    assert FAST(tree) == SLOW.is_valid(tree)


def test_a_keyword_that_the_compiled_check_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="multipleOf"):
        compile_schema({"multipleOf": 2})


@settings(max_examples=50, deadline=None)
@given(broken_trees())
def test_a_broken_document_gets_findings_and_never_another_error(tree: dict[str, Any]) -> None:
    findings = findings_of(json.dumps(tree))
    assert all(finding.mark is not None for finding in findings)
    assert all(str(finding).isprintable() for finding in findings)
    if findings:
        assert any(finding.severity == "error" for finding in findings)
        return
    assert SLOW.is_valid(tree)
    document = load_document(json.dumps(tree)).document
    for name, member in document.members.items():
        if member.state is MemberState.PRESENT:
            assert resolve(document, name, None).state.segments.keys() <= {
                "nseg" + n.id[:8] for n in document.networks.values()
            }


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{},&*!<|>'\"\n\t #?%@`~0.\\\x00é"), max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    findings = findings_of(text)
    assert all(str(finding).isprintable() for finding in findings)


@settings(max_examples=50, deadline=None)
@given(
    trees(),
    st.integers(min_value=0),
    st.sampled_from(["", "\t", "&a ", "- ", "{", '"', "\n", "\ud800", "é: "]),
)
def test_a_slip_of_the_finger_is_read_or_refused(tree: dict[str, Any], where: int, slip: str) -> None:
    text = yaml.safe_dump(tree)
    at = where % len(text)
    findings = findings_of(text[:at] + slip + text[at + 1 :])
    assert all(str(finding).isprintable() for finding in findings)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**16), 10**16)
    | st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=12)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcé -", min_size=1, max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(values)
def test_json_is_read_as_json_reads_it(value: Any) -> None:
    assert parse(json.dumps(value, ensure_ascii=False), "x").tree == value


@settings(max_examples=30, deadline=None)
@given(trees())
def test_marks_point_at_the_key(tree: dict[str, Any]) -> None:
    text = yaml.safe_dump(tree)
    lines = text.splitlines()
    source = parse(text, "x")
    for path, mark in source.all_marks():
        if path and isinstance(path[-1], str):
            assert lines[mark.line - 1][mark.column - 1 :].lstrip("'\"").startswith(path[-1])


@settings(max_examples=25, deadline=None)
@given(trees())
def test_every_valid_document_loads_and_resolves_for_everybody(tree: dict[str, Any]) -> None:
    document = load_document(json.dumps(tree)).document
    view = everybody(document)
    for name in NAMES:
        state = resolve(document, name, view).state
        assert state.wireguard is not None
        claimed: set[object] = set()
        for peer in state.wireguard.peers.values():
            assert claimed.isdisjoint(peer.allowed_ips), "WireGuard would move a prefix silently"
            claimed |= peer.allowed_ips


def everybody(document: Document) -> View:
    """A view of all members of a document, online."""
    return View(
        members={
            member.wireguard: ViewMember(name, member.wireguard, True)
            for name, member in document.members.items()
            if member.wireguard is not None
        }
    )


def passes(rules: tuple[FilterRule, ...], src: Address, dst: Address, proto: str, port: int | None) -> bool:
    """What a receiver with these rules does with a new flow."""
    return any(
        any(src in prefix for prefix in rule.sources)
        and any(dst in prefix for prefix in rule.destinations)
        and rule.proto in (None, proto)
        and (not rule.ports or (port is not None and any(p.first <= port <= p.last for p in rule.ports)))
        for rule in rules
    )


FLOWS = [("tcp", 22), ("udp", 53), ("tcp", 85), ("icmp", None), ("udp", 4000)]


@settings(max_examples=40, deadline=None)
@given(trees(), st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from(FLOWS))
def test_the_evaluator_and_the_receivers_rules_agree(
    tree: dict[str, Any], src: str, dst: str, flow: tuple[str, int | None]
) -> None:
    document = load_document(json.dumps(tree)).document
    network = document.networks["office"]
    if src == dst:
        return
    view = everybody(document)
    sender, receiver = resolve(document, src, view).state, resolve(document, dst, view).state
    assert receiver.filter is not None
    theirs, mine = sender.names[f"{src}.office.netctl"], receiver.names[f"{dst}.office.netctl"]
    packets = [
        passes(receiver.filter.rules, a, b, *flow) for a in theirs for b in mine if a.version == b.version
    ]
    assert decide(document, network, src, dst, *flow).allowed == any(packets)
