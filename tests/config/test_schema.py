"""The schema is what an editor shows, so every key of it speaks, and its examples are true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from netctl.config.load.explain import explain, keys
from netctl.config.load.fastvalidator import compile_schema
from netctl.config.load.schema import load_schema, validator_class

SCHEMA = load_schema()


def nodes(
    node: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Every subschema that stands for a value that a person writes."""
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from nodes(child, (*path, index))
    if not isinstance(node, dict):
        return
    said = any(word in node for word in ("type", "enum", "const", "anyOf", "$ref"))
    if said and path[-1:] not in (("properties",), ("$defs",)) and "anyOf" not in path:
        yield path, node
    for key, child in node.items():
        if key not in ("examples", "enum", "const", "default", "required"):
            yield from nodes(child, (*path, key))


def test_the_schema_is_a_schema() -> None:
    validator_class().check_schema(SCHEMA)


def test_every_key_has_its_words_and_a_true_example() -> None:
    seen = 0
    for path, node in nodes(SCHEMA):
        seen += 1
        whole = {**node, "$defs": SCHEMA["$defs"]}
        if "$ref" not in node and path:
            assert {"title", "description", "examples"} <= node.keys(), path
        for example in node.get("examples", []):
            assert validator_class()(whole).is_valid(example), path
            assert compile_schema(whole)(example), path
        if "default" in node:
            assert compile_schema(whole)(node["default"]), path
    assert seen > 50


def test_every_map_of_ours_is_closed() -> None:
    for path, node in nodes(SCHEMA):
        if node.get("type") == "object":
            assert "additionalProperties" in node, path


def test_explain_has_words_for_every_key() -> None:
    assert {"members.NAME.wireguard", "networks.NAME.acls[].ports[]", "apply.confirm"} <= set(keys())
    for key in keys():
        text = explain(key)
        assert text is not None
        assert len(text.splitlines()) >= 3, key


def test_explain_takes_a_path_as_it_stands_in_a_finding() -> None:
    for concrete, general in (
        ("members.nas.wireguard", "members.NAME.wireguard"),
        ("networks.office.acls[3].ports[0]", "networks.NAME.acls[].ports[]"),
    ):
        one, other = explain(concrete), explain(general)
        assert one is not None
        assert other is not None
        assert one.splitlines()[1:] == other.splitlines()[1:]
    assert explain("networks.office.mod") is None
    text = explain("networks.office.mode")
    assert text is not None
    assert "lan, routed" in text
    assert "default: lan" in text
