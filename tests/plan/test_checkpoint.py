"""Every state of a host comes back from its checkpoint as it went."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hypothesis import given, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "plan"))
from states import host_states

from netctl.engine.checkpoint import from_plain, to_plain
from netctl.model.hoststate import HostState


@settings(max_examples=40)
@given(host_states())
def test_there_and_back(state: HostState) -> None:
    text = json.dumps(to_plain(state))
    again = from_plain(json.loads(text))
    assert again == state
    assert json.dumps(to_plain(again)) == text
