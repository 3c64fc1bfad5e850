"""What `plan -o json` prints is what its schema says, and the schema knows every change there is."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path

import jsonschema
import pytest

from netctl.config import load_document
from netctl.config.reach import reachchanges as r
from netctl.node.planreport import FORMAT, make_plan
from netctl.plan import changes as c
from tests.plan.golden import CASES, read_case

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "plan.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("kind", typing.get_args(c.Change), ids=lambda kind: kind.__name__)
def test_every_kind_of_change_is_in_it_with_its_fields(kind: type) -> None:
    body = SCHEMA["$defs"][kind.__name__]
    assert list(body["properties"]) == ["kind", "line", *(field.name for field in dataclasses.fields(kind))]
    assert body["required"] == list(body["properties"])
    assert {"$ref": f"#/$defs/{kind.__name__}"} in SCHEMA["$defs"]["change"]["oneOf"]


@pytest.mark.parametrize(
    "kind", [r.ReachChange, r.CutOff, r.AddressMove, r.KeyChange, r.TunnelDrop, r.ComingAndGoing, r.Group]
)
def test_every_row_for_people_is_in_it_with_its_fields(kind: type) -> None:
    assert list(SCHEMA["$defs"][kind.__name__]["properties"]) == [f.name for f in dataclasses.fields(kind)]


def test_people_are_in_it_whole() -> None:
    fields = [field.name for field in dataclasses.fields(r.ReachChanges)]
    assert list(SCHEMA["properties"]["people"]["properties"]) == ["lines", *fields]


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_every_golden_plan_fits(folder: Path) -> None:
    case = read_case(folder)
    loaded = load_document((folder / "networks.yaml").read_text())
    planned = make_plan(
        case.host,
        loaded,
        None,
        loaded.document,
        case.desired,
        case.actual,
        ssh_connection="10.0.0.1 1 10.0.0.2 22",
    )
    published = json.loads(json.dumps(planned.to_json()))
    assert published["format"] == FORMAT
    errors = [f"{error.json_path}: {error.message[:200]}" for error in VALIDATOR.iter_errors(published)]
    assert errors == []
