"""Checks a tree against the JSON Schema of networks.yaml, and explains errors in words for people."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import itertools
import json
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

from netctl.config.load.fastvalidator import Check, compile_schema, ecma
from netctl.config.load.loader import Path, Tree
from netctl.config.load.report import Report

SCHEMA_NAME = "networks.schema.json"
SHOWN_VALUE_LEN = 50  # characters: a longer value in a message would hide the message
MAX_NEAR_LEN = 64  # characters: comparing words costs by length, and a longer word is no typing error
MAX_EXPLAINED = 200  # children of one map: nobody reads more errors, and each costs time


@functools.cache
def load_schema(name: str = SCHEMA_NAME) -> dict[str, Any]:
    """A schema by file name: from the installed package, or else from the checkout."""
    packaged = importlib.resources.files("netctl") / "schemas" / name
    if packaged.is_file():
        text = packaged.read_text(encoding="utf-8")
    else:
        checkout = FilePath(__file__).resolve().parents[3] / "schemas" / name
        text = checkout.read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _check_pattern(validator: Any, pattern: str, instance: object, schema: Any) -> Iterator[Any]:
    import jsonschema

    if isinstance(instance, str) and ecma(pattern).search(instance) is None:
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


@functools.cache
def validator_class() -> Any:
    """A validator for draft 2020-12 with two differences: 22.0 is no integer, and ``$`` is the end of a text."""
    import jsonschema  # not at the top: the import takes 60 ms, and a valid document never needs it

    kinds = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: type(value) is int
    )
    base = jsonschema.Draft202012Validator
    return jsonschema.validators.extend(base, {"pattern": _check_pattern}, type_checker=kinds)  # type: ignore[no-untyped-call]


@functools.cache
def _validator() -> Any:
    return validator_class()(load_schema())


@functools.cache
def _fast() -> tuple[Check, dict[str, Check], Check]:
    """Fast checks for the document, for the children of its big maps, and for names."""
    schema = load_schema()
    big = {
        key: compile_schema({"$ref": body["additionalProperties"]["$ref"], "$defs": schema["$defs"]})
        for key, body in schema["properties"].items()
        if isinstance(body.get("additionalProperties"), dict)
    }
    return compile_schema(schema), big, compile_schema({"$ref": "#/$defs/name", "$defs": schema["$defs"]})


def _suspects(tree: dict[str, Tree]) -> dict[str, Tree]:
    """The tree without the valid members and networks, since the time to explain depends on the size."""
    _, big, name_ok = _fast()
    reduced = dict(tree)
    for key, check in big.items():
        children = tree.get(key)
        if isinstance(children, dict):
            bad = ((name, body) for name, body in children.items() if not (name_ok(name) and check(body)))
            reduced[key] = dict(itertools.islice(bad, MAX_EXPLAINED))
    return reduced


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    if not text.isprintable():
        text = json.dumps(value, default=str).replace("\x7f", r"\u007f")
    return text if len(text) <= SHOWN_VALUE_LEN else text[: SHOWN_VALUE_LEN - 1] + "…"


def _near(word: object, allowed: list[str]) -> str:
    close = difflib.get_close_matches(str(word)[:MAX_NEAR_LEN].lower(), allowed, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""


def _kind(value: object) -> str:
    names = {
        dict: "a map",
        list: "a list",
        str: "text",
        bool: "true/false",
        int: "a number",
        float: "a number with a point or exponent",
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
    title = str(schema.get("title", "value")) if isinstance(schema, dict) else "value"
    return title[0].lower() + title[1:] if title.split(" ")[0][1:].islower() else title


def _example(schema: Any) -> str:
    examples = schema.get("examples") if isinstance(schema, dict) else None
    return f", for example {_shown(examples[0])}" if examples else ""


def _explain(error: Any) -> Iterator[tuple[str, Path, str, str]]:
    """One jsonschema error as one or several (code, path, message, hint) for people."""
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
        said = f" ({_shown(instance)})" if isinstance(instance, (str, int, float)) else ""
        yield "NC013", path, f"must be {wanted}, not {_kind(instance)}{said}{_example(schema)}", hint
    elif rule in ("enum", "const"):
        values = error.validator_value if rule == "enum" else [error.validator_value]
        allowed = [str(value) for value in values]
        yield (
            "NC014",
            path,
            f"{_shown(instance)} is not one of: {', '.join(allowed)}",
            _near(instance, allowed),
        )
    elif "propertyNames" in error.absolute_schema_path:
        yield (
            "NC015",
            (*path, str(instance)),
            f"not a name: {schema['description']}",
            _name_hint(str(instance)),
        )
    elif rule == "pattern":
        text = f"{_shown(instance)} is not a valid {_title(schema)}{_example(schema)}"
        yield "NC015", path, text, str(schema.get("description", ""))
    elif rule in ("minimum", "maximum") and type(instance) is float:
        return  # reported already: not a whole number
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


@functools.cache
def _definition(name: str) -> Check:
    schema = load_schema()
    member = schema["$defs"]["member"]["properties"]
    body = schema["$defs"][name] if name in schema["$defs"] else member[name]
    return compile_schema({**body, "$defs": schema["$defs"]})


def fits_definition(name: str, value: Tree) -> bool:
    """Whether a value conforms to a definition of the schema (`name`, `key`) or a property of a member (`host`)."""
    return _definition(name)(value)


def fits(tree: Tree) -> bool:
    """Whether a Document can be built from this tree, apart from its `apiVersion`."""
    return isinstance(tree, dict) and _fast()[0]({**tree, "apiVersion": "netctl/v1"})


def check_schema(tree: Tree, report: Report) -> None:
    """Report every violation of the schema."""
    if not isinstance(tree, dict):
        report.error("NC010", (), "the document is a map that starts with 'apiVersion: netctl/v1'")
        return
    if _fast()[0](tree):
        return
    explained = (line for error in _validator().iter_errors(_suspects(tree)) for line in _explain(error))
    for code, path, message, hint in dict.fromkeys(explained):
        report.error(code, path, message, hint)
