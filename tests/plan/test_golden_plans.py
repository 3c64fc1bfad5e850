"""Golden plans: each folder of tests/golden is a case, and a new case is a new folder.

- ``networks.yaml``: the document wanted; ``host``: whose plan this is; ``view.yaml`` (optional): what the mediator
  told (``members``, ``live``: names; ``leases``: network → member → addresses).
- ``actual.yaml``: what is there: nothing when empty; else the document ``from`` (a file of the folder, with its
  ``view``) applied, then changed by ``hands`` (`golden.laid` has them all). ``foreign``: what is there and not
  ours: ``routes`` (prefix → what it is), ``own`` (where our routes lead), ``links``, ``names``. ``session``: an
  SSH_CONNECTION.
- ``plan.txt``: the plan in words: changes; ``!`` conditions; what changes for people; for hands the places of the
  document; whether the session goes on. ``GOLDEN=write pytest tests/plan`` writes it anew, to be read before it is
  committed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from netctl.engine import FakeEngine, apply_plan
from netctl.plan import diff
from tests.plan.golden import CASES, read_case

LEAST = 60


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_plan(folder: Path) -> None:
    case = read_case(folder)
    file = folder / "plan.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(case.text)
    assert case.text == file.read_text()
    engine = FakeEngine(case.actual)
    assert apply_plan(engine, case.desired).error is None
    assert not diff(case.desired, engine.read())


def test_there_are_cases_and_no_two_say_the_same() -> None:
    assert len(CASES) >= LEAST
    said: dict[str, Any] = {}
    for folder in CASES:
        inputs = "".join(path.read_text() for path in sorted(folder.iterdir()) if path.name != "plan.txt")
        assert said.setdefault(inputs, folder) == folder
