"""Compiles the part of JSON Schema (2020-12) that our schemas use to a fast check that answers only yes or no.

`jsonschema` explains errors well and takes four seconds for 20,000 members; this check takes a quarter of a second and
explains nothing. So it runs first, and `jsonschema` gets only the failing parts. A property test compares the answers
of both; compiling a schema with an unknown keyword fails.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]

ANNOTATIONS = frozenset(
    {"$schema", "$id", "$defs", "title", "description", "examples", "default", "$comment"}
)
_TYPES: dict[str, Check] = {
    "object": lambda value: type(value) is dict,
    "array": lambda value: type(value) is list,
    "string": lambda value: type(value) is str,
    "integer": lambda value: type(value) is int,
    "boolean": lambda value: type(value) is bool,
}


@functools.cache
def ecma(pattern: str) -> re.Pattern[str]:
    """A JSON Schema pattern in Python's syntax: an ECMA ``$`` is the end, not the place before a last newline."""
    return re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern), re.ASCII)


def same(one: object, other: object) -> bool:
    """Equality in JSON Schema's sense: true is not 1."""
    return type(one) is type(other) and one == other


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def compile_schema(schema: Mapping[str, Any]) -> Check:
    """The check of a whole schema. Raises ValueError for a keyword that it does not know."""
    return _Compiler(schema).check(schema)


class _Compiler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.done: dict[str, Check] = {}

    def check(self, schema: Mapping[str, Any]) -> Check:
        checks = [
            self._keyword(name, value, schema) for name, value in schema.items() if name not in ANNOTATIONS
        ]
        found = tuple(check for check in checks if check is not None)
        if len(found) == 1:
            return found[0]
        return lambda value: all(check(value) for check in found)

    def _ref(self, reference: str) -> Check:
        if reference not in self.done:
            node: Any = self.root
            for part in reference.removeprefix("#/").split("/"):
                node = node[part]
            self.done[reference] = self.check(node)
        return self.done[reference]

    def _keyword(self, name: str, wanted: Any, schema: Mapping[str, Any]) -> Check | None:
        if name == "$ref":
            return self._ref(wanted)
        if name == "type":
            return _TYPES[wanted]
        if name == "properties":
            return self._object(schema)
        if name == "additionalProperties":
            return None if "properties" in schema else self._object(schema)
        if name == "required":
            return lambda value: type(value) is not dict or all(key in value for key in wanted)
        if name == "propertyNames":
            names = self.check(wanted)
            return lambda value: type(value) is not dict or all(map(names, value))
        if name == "items":
            item = self.check(wanted)
            return lambda value: type(value) is not list or all(map(item, value))
        if name == "anyOf":
            branches = [self.check(branch) for branch in wanted]
            return lambda value: any(branch(value) for branch in branches)
        if name == "pattern":
            match = ecma(wanted).search
            return lambda value: type(value) is not str or match(value) is not None
        if name == "const":
            return lambda value: same(value, wanted)
        if name == "enum":
            return lambda value: any(same(value, one) for one in wanted)
        return self._bound(name, wanted)

    def _bound(self, name: str, bound: Any) -> Check:
        if name == "minimum":
            return lambda value: not _is_number(value) or value >= bound
        if name == "maximum":
            return lambda value: not _is_number(value) or value <= bound
        kinds: dict[str, Any] = {"Items": list, "Length": str, "Properties": dict}
        kind = kinds.get(name[3:])
        if kind is None or name[:3] not in ("min", "max"):
            raise ValueError(
                f"the schema uses '{name}', which netctl.config.load.fastvalidator does not know"
            )
        if name[:3] == "min":
            return lambda value: not isinstance(value, kind) or len(value) >= bound
        return lambda value: not isinstance(value, kind) or len(value) <= bound

    def _object(self, schema: Mapping[str, Any]) -> Check:
        known = {key: self.check(value) for key, value in schema.get("properties", {}).items()}
        rest = schema.get("additionalProperties", True)
        other = (lambda value: bool(rest)) if isinstance(rest, bool) else self.check(rest)

        def check(value: Any) -> bool:
            if type(value) is not dict:
                return True
            return all(known.get(key, other)(item) for key, item in value.items())

        return check
