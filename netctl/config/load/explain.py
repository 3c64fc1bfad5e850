"""Explains a key of the document with the schema's descriptions, like `kubectl explain`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from netctl.config.load.schema import load_schema

Schema = Mapping[str, Any]

_PART = re.compile(r"\[[0-9]*\]|[^.\[\]]+")
_KINDS = {
    "object": "map",
    "array": "list",
    "string": "text",
    "integer": "whole number",
    "boolean": "true or false",
}
NAME = "NAME"
"""Stands for a name that the document's author chooses."""


def _deref(node: Schema) -> Schema:
    """A node merged with the node that it refers to; the node's own keywords take precedence."""
    reference = node.get("$ref")
    if reference is None:
        return node
    target: Any = load_schema()
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    return {**_deref(target), **{key: value for key, value in node.items() if key != "$ref"}}


def _children(node: Schema) -> Iterator[tuple[str, Schema]]:
    """The steps below a node: its fixed keys, ``NAME`` for chosen keys, ``[]`` for the items of a list."""
    for key, child in node.get("properties", {}).items():
        yield f".{key}", _deref(child)
    if isinstance(node.get("additionalProperties"), dict):
        yield f".{NAME}", _deref(node["additionalProperties"])
    if isinstance(node.get("items"), dict):
        yield "[]", _deref(node["items"])


def keys() -> list[str]:
    """Every key that can be explained, in the schema's order."""
    return [path for path, _ in _walk(load_schema(), "")]


def _walk(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    for step, child in _children(node):
        here = (path + step).removeprefix(".")
        yield here, child
        yield from _walk(child, here)


def _find(path: str) -> Schema | None:
    node: Schema = load_schema()
    for part in _PART.findall(path):
        steps = dict(_children(node))
        found = steps.get("[]") if part.startswith("[") else steps.get(f".{part}", steps.get(f".{NAME}"))
        if found is None:
            return None
        node = found
    return node


def _kind(node: Schema) -> str:
    if "const" in node:
        return f"always {json.dumps(node['const'])}"
    if "enum" in node:
        return "one of: " + ", ".join(map(str, node["enum"]))
    if "anyOf" in node:
        return " or ".join(_kind(_deref(branch)) for branch in node["anyOf"])
    kind = _KINDS.get(node.get("type", ""), "any value")
    if "minimum" in node or "maximum" in node:
        kind += f", {node.get('minimum', 'any')} to {node.get('maximum', 'any')}"
    return kind


def explain(path: str = "") -> str | None:
    """The schema's description of a key (``networks.office.mode``, ``members.NAME.groups``), several lines.

    The empty path is the document itself. None when there is no such key; `keys` lists all keys.
    """
    node = _find(path)
    if node is None:
        return None
    lines = [f"{path or 'networks.yaml'}: {node.get('title', '')} ({_kind(node)})"]
    lines.append(f"  {node.get('description', '')}")
    if "default" in node:
        default = node["default"]
        lines.append(f"  default: {default if isinstance(default, str) else json.dumps(default)}")
    lines.extend(
        f"  example: {json.dumps(example, ensure_ascii=False)}" for example in node.get("examples", ())
    )
    required = set(node.get("required", ()))
    below = list(_children(node))
    if below:
        lines.append("  keys:" if below[0][0] != "[]" else "  items:")
        for step, child in below:
            name = step.removeprefix(".")
            must = " (required)" if name in required else ""
            lines.append(f"    {name:<18}{child.get('title', '')}{must}: {child.get('description', '')}")
    return "\n".join(lines)
