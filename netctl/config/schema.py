"""The JSON Schema of networks.yaml, and its errors in words for people."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import json
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

import jsonschema

from netctl.config.loader import Path, Source, format_path
from netctl.model.errors import Finding

SCHEMA_NAME = "networks.schema.json"
SHOWN_VALUE_LEN = 40  # a longer value in a message would push what matters out of sight


@functools.cache
def load_schema(name: str = SCHEMA_NAME) -> dict[str, Any]:
    """A schema by file name: from the installed package, or from the checkout beside it."""
    packaged = importlib.resources.files("netctl") / "schemas" / name
    if packaged.is_file():
        text = packaged.read_text(encoding="utf-8")
    else:
        checkout = FilePath(__file__).resolve().parents[2] / "schemas" / name
        text = checkout.read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@functools.cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(load_schema())


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_VALUE_LEN else text[: SHOWN_VALUE_LEN - 1] + "…"


def _near(word: object, allowed: list[str]) -> str:
    close = difflib.get_close_matches(str(word), allowed, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""


def _kind(value: object) -> str:
    names = {
        dict: "a map",
        list: "a list",
        str: "text",
        bool: "true/false",
        int: "a number",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), "something else")


_WANTED = {
    "object": "a map (key: value)",
    "array": "a list ([a, b] or lines that start with '-')",
    "string": "text",
    "integer": "a whole number",
    "boolean": "true or false",
}


def _title(schema: Any) -> str:
    return str(schema.get("title", "value")) if isinstance(schema, dict) else "value"


def _example(schema: Any) -> str:
    examples = schema.get("examples") if isinstance(schema, dict) else None
    return f", for example {_shown(examples[0])}" if examples else ""


def _explain(error: Any) -> Iterator[tuple[str, Path, str, str]]:
    """One jsonschema error as (code, path, message, hint) for people. One may be several."""
    path: Path = tuple(error.absolute_path)
    schema, instance, rule = error.schema, error.instance, error.validator
    if rule == "additionalProperties" and isinstance(instance, dict):
        allowed = sorted(schema.get("properties", {}))
        for key in instance:
            if key not in allowed:
                hint = _near(key, allowed)
                yield "NC011", (*path, key), f"unknown key; allowed: {', '.join(allowed)}", hint
    elif rule == "required":
        for key in error.validator_value:
            if key not in instance:
                yield "NC012", path, f"'{key}' is missing", ""
    elif rule == "type":
        wanted = _WANTED.get(str(error.validator_value), str(error.validator_value))
        hint = "quote it" if error.validator_value == "string" and instance is not None else ""
        yield "NC013", path, f"must be {wanted}, not {_kind(instance)}{_example(schema)}", hint
    elif rule in ("enum", "const"):
        values = error.validator_value if rule == "enum" else [error.validator_value]
        allowed = [str(value) for value in values]
        yield (
            "NC014",
            path,
            f"{_shown(instance)} is not one of: {', '.join(allowed)}",
            _near(instance, allowed),
        )
    elif rule == "pattern" and error.parent is not None and "propertyNames" in error.absolute_schema_path:
        key = str(instance)
        yield "NC015", (*path, key), f"not a name: {schema.get('description', '')}", _name_hint(key)
    elif rule == "pattern":
        text = f"{_shown(instance)} is not a {_title(schema)}{_example(schema)}"
        yield "NC015", path, text, str(schema.get("description", ""))
    elif rule in ("minimum", "maximum"):
        low, high = schema.get("minimum", "any"), schema.get("maximum", "any")
        yield "NC016", path, f"{_shown(instance)} is not in {low} to {high}", ""
    elif rule in ("minItems", "maxItems", "minLength", "maxLength", "maxProperties"):
        bound = error.validator_value
        few = rule.startswith("min")
        yield "NC017", path, f"too {'short' if few else 'long'}: at {'least' if few else 'most'} {bound}", ""
    elif rule == "anyOf":
        text = f"{_shown(instance)} does not fit: {schema.get('description', 'see `netctl explain`')}"
        yield "NC018", path, text + _example(schema), ""
    else:
        yield "NC019", path, error.message, ""


def _name_hint(key: str) -> str:
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in key.lower()).strip("-")
    return f"for example '{cleaned[:63]}'" if cleaned and cleaned != key else ""


def check_schema(source: Source) -> list[Finding]:
    """Every way in which the tree departs from the schema, in the text's order."""
    if not isinstance(source.tree, dict):
        message = "the document is a map that starts with 'apiVersion: netctl/v1'"
        return [Finding("NC010", "(document)", message, source.mark(()))]
    findings: list[Finding] = []
    for error in _validator().iter_errors(source.tree):
        for code, path, message, hint in _explain(error):
            if not any(isinstance(part, str) and ("\n" in part) for part in path):
                findings.append(Finding(code, format_path(path), message, source.mark(path), hint))
    return sorted(
        findings, key=lambda finding: (finding.mark.line, finding.mark.column) if finding.mark else (0, 0)
    )
