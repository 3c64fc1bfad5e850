"""Every state of a host comes back from its checkpoint as it went."""

from __future__ import annotations

import json

from hypothesis import given, settings

from netctl.engine.checkpoint import from_plain, to_plain
from netctl.model.hoststate import HostState
from tests.plan.states import host_states


@settings(max_examples=40)
@given(host_states())
def test_there_and_back(state: HostState) -> None:
    text = json.dumps(to_plain(state))
    again = from_plain(json.loads(text))
    assert again == state
    assert json.dumps(to_plain(again)) == text
