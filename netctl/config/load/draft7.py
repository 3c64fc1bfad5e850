"""Converts our schema to JSON Schema draft-07, with the same rules, for editors that know only that version."""

from __future__ import annotations

from typing import Any

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
MAPS_OF_SCHEMAS = frozenset({"properties", "$defs"})
SCHEMAS = frozenset({"items", "additionalProperties", "propertyNames"})
LISTS_OF_SCHEMAS = frozenset({"anyOf", "allOf", "oneOf"})


def to_draft7(schema: dict[str, Any]) -> dict[str, Any]:
    """A 2020-12 schema of ours in draft-07: ``definitions`` for ``$defs``, and nothing beside a ``$ref``."""
    converted: dict[str, Any] = _convert(schema)
    converted["$schema"] = DRAFT_7
    converted["$id"] = str(schema["$id"]).replace(".schema.json", ".draft-07.schema.json")
    return converted


def _convert(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        name = "definitions" if key == "$defs" else key
        if key in MAPS_OF_SCHEMAS:
            plain[name] = {child: _convert(body) for child, body in value.items()}
        elif key in SCHEMAS:
            plain[name] = _convert(value)
        elif key in LISTS_OF_SCHEMAS:
            plain[name] = [_convert(body) for body in value]
        elif key == "$ref":
            plain[name] = str(value).replace("#/$defs/", "#/definitions/")
        else:
            plain[name] = value
    if "$ref" in plain and len(plain) > 1:  # draft-07 §8.3: keywords beside a $ref are ignored
        reference = plain.pop("$ref")
        plain["allOf"] = [*plain.get("allOf", []), {"$ref": reference}]
    return plain
