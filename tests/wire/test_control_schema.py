"""schemas/control.schema.json says what the code does: whatever one takes, the other takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from referencing import Registry, Resource

from netctl.config.load.schema import SCHEMA_NAME, load_schema, validator_class
from netctl.model.errors import RemoteError
from netctl.wire import control as w
from tests.wire.test_control import EXAMPLES, IDENTITY, JSON, KEY

SCHEMA = load_schema("control.schema.json")
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in (SCHEMA, load_schema(SCHEMA_NAME))
)
MESSAGE = validator_class()(SCHEMA, registry=REGISTRY)
NUMBERS: list[Any] = [-1, 0, 0.5, 1, 256, 257, 10_000, 10_001, 3600, 3600.5, 2**53 - 1, 2**53, 2**63, 10**400]
HEX = ["", "0", "0g", "00", *("00" * count for count in (32, 33, 128, 129))]
KEYS = [KEY, "A" * 42 + "B=", IDENTITY, IDENTITY.upper()]
TEXTS = ["1.2.3.4:", "1.2.3.4:5", *("x" * length for length in (63, 64, 65, 256, 257, 512, 513))]
SOCKETS = [[], ["192.0.2.1:5"] * 8, ["192.0.2.1:5"] * 9, ["1.1.1.1", "::1", "::2"]]
CANDIDATES = [[{"kind": "host", "address": "192.0.2.1:5"}] * count for count in (1, 32, 33)]
STRANGE = [
    [{"kind": "guess", "address": "192.0.2.1:5"}],
    [{"kind": "host", "address": "192.0.2.1:5", "x": 1}],
]
NAMES = [[{"name": name, "key": KEY}] for name in ("", "x", "x" * 63, "x" * 64, "Ann", "-a", "a b")]
ROWS = [[{"name": "ann", "key": KEY, "x": 1}], [{"name": "ann"}], [{"network": "lan", "key": KEY}], [KEY]]
LEASES = [[{"network": "lan", "key": KEY, "addresses": ["::1"] * count}] for count in (2, 3)]
LEASES += [[{"network": "lan", "key": KEY, "addresses": ["1" * length]}] for length in (45, 46)]
COMPACT = [[["lan", "x" * length]] for length in (49, 50)] + [
    [["ann", KEY]],
    [["Ann", KEY, ""]],
    [["ann", KEY, "0", 1]],
]
COMPACT += [[["ann", KEY, "0" * length]] for length in (65_536, 65_537)]
INTEREST = [[KEY] * count for count in (1024, 1025)]
NEAR = [
    *NUMBERS,
    *HEX,
    *KEYS,
    *TEXTS,
    *SOCKETS,
    *CANDIDATES,
    *STRANGE,
    *NAMES,
    *ROWS,
    *LEASES,
    *COMPACT,
    *INTEREST,
]
"""Values on both sides of every bound."""


def takes_message(text: str) -> bool:
    try:
        w.decode(text.encode())
    except RemoteError:
        return False
    return True


def test_the_schemas_are_schemas() -> None:
    validator_class().check_schema(SCHEMA)


def test_every_message_has_its_entry_and_no_entry_is_left_over() -> None:
    tags = [
        SCHEMA["$defs"][entry["$ref"].rpartition("/")[2]]["properties"]["type"] for entry in SCHEMA["oneOf"]
    ]
    of_code = {kind.__struct_config__.tag for kind in get_args(w.Message)}
    assert {tag["const"] for tag in tags} == of_code
    assert len(tags) == len(of_code)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_example_fits(message: w.Message) -> None:
    assert MESSAGE.is_valid(json.loads(w.encode(message)))


def variants(plain: dict[str, Any]) -> Iterator[str]:
    """The message with each field in turn at each bound, left out, and with a field of a later version."""
    for field in plain:
        yield json.dumps({name: value for name, value in plain.items() if name != field})
        for value in NEAR:
            yield json.dumps({**plain, field: value})
    yield json.dumps({**plain, "of a later version": 1})


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_at_every_bound_both_say_the_same(message: w.Message) -> None:
    for text in variants(json.loads(w.encode(message))):
        assert takes_message(text) == MESSAGE.is_valid(json.loads(text)), text


@given(st.sampled_from(EXAMPLES), st.data())
@settings(max_examples=100, deadline=None)
def test_with_anything_in_any_field_both_say_the_same(message: w.Message, data: st.DataObject) -> None:
    plain = json.loads(w.encode(message))
    plain[data.draw(st.sampled_from(sorted(plain)))] = data.draw(JSON)
    text = json.dumps(plain)
    assert takes_message(text) == MESSAGE.is_valid(json.loads(text)), text
