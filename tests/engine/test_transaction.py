"""Whatever an engine raises in the middle of an apply, the host is as it was."""

from __future__ import annotations

import errno
import ipaddress
import os

import pytest

from netctl.engine import FakeEngine, apply_plan
from netctl.model.hoststate import HostState, WireGuardLink
from netctl.model.keys import WireGuardKey
from netctl.plan import diff

ADDRESSES = frozenset({ipaddress.ip_address("10.8.0.1"), ipaddress.ip_address("10.9.0.1")})
DESIRED = HostState(wireguard=WireGuardLink(WireGuardKey(b"\1" * 32), 51820, 1420, ADDRESSES, {}))
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/var/lib/netctl/filter.json")
STEPS = len(diff(DESIRED, HostState()).changes)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (FULL, "/var/lib/netctl/filter.json: No space left on device"),
        (OSError("no number"), "internal error: OSError: no number"),
        (KeyError("listing"), "internal error: KeyError: 'listing'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_error_of_ours_is_rolled_back_too(raised: Exception, said: str, step: int) -> None:
    engine = FakeEngine(fail_at=step, fail_with=raised)
    outcome = apply_plan(engine, DESIRED)
    assert outcome.rolled_back
    assert str(outcome.error).endswith(said)
    assert f"step {step} of {STEPS}" in str(outcome.error)
    assert engine.state == HostState()


def test_who_interrupts_it_has_the_host_as_it_was() -> None:
    engine = FakeEngine(fail_at=STEPS, fail_with=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        apply_plan(engine, DESIRED)
    assert engine.state == HostState()
