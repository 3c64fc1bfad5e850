"""Plans that are kept in a file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from msgspec import structs

from netctl.cli import planfile
from netctl.config.load.build import digest
from netctl.model.errors import LocalError

TEXT = "apiVersion: netctl/v1\n"
PLAN = {"binding": {"document": digest(TEXT), "observed": "o", "desired": "d"}}


def kept(tmp_path: Path) -> Path:
    document = tmp_path / "networks.yaml"
    document.write_text(TEXT)
    path = tmp_path / "p.plan"
    planfile.save(path, TEXT, document, PLAN)
    return path


def test_it_comes_back_as_it_was_and_is_for_its_owner(tmp_path: Path) -> None:
    path = kept(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = planfile.read(path.read_text(), path)
    assert found is not None
    assert found.text == TEXT
    assert structs.asdict(found.binding) == PLAN["binding"]
    (tmp_path / "networks.yaml").unlink()
    assert planfile.read(path.read_text(), path) == found, "a plan has all that it needs"


def test_a_document_is_no_plan(tmp_path: Path) -> None:
    for text in (TEXT, "{apiVersion: netctl/v1}", "", '{"apiVersion": "netctl/v1"}'):
        assert planfile.read(text, tmp_path) is None


def test_a_document_that_changed_makes_it_stale(tmp_path: Path) -> None:
    path = kept(tmp_path)
    (tmp_path / "networks.yaml").write_text(TEXT + "# more\n")
    with pytest.raises(LocalError, match=r"this plan is stale: .*networks.yaml has changed since"):
        planfile.read(path.read_text(), path)


def test_a_plan_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = kept(tmp_path)
    plain = json.loads(path.read_text())
    with pytest.raises(LocalError, match="changed by hand"):
        planfile.read(json.dumps({**plain, "text": TEXT + "#"}), path)
    for broken in ({**plain, "plan": 1}, {"format": planfile.FORMAT}, {**plain, "plan": {"binding": None}}):
        with pytest.raises(LocalError, match="damaged"):
            planfile.read(json.dumps(broken), path)
    with pytest.raises(LocalError, match="damaged"):
        planfile.read(path.read_text()[:-20], path)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="cannot write"):
        planfile.save(tmp_path, TEXT, tmp_path, PLAN)
