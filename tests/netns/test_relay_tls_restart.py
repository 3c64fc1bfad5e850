"""An agent that restarts where UDP is blocked: how long its pairs over TLS are cut."""

from __future__ import annotations

import time

import pytest

from netctl.lab.internet import Lab
from netctl.lab.probes import ping_all
from tests.netns.test_relay_tls_real import OTHERS, lab, over_tls
from tests.support.lablife import steady_pings
from tests.support.patience import wait_for

pytestmark = [pytest.mark.alone, pytest.mark.netns, pytest.mark.lab]

__all__ = ["lab"]


def test_an_agent_that_restarts_interrupts_for_two_seconds_at_most(lab: Lab) -> None:
    wait_for("all are reached over TLS", lambda: over_tls(lab) == OTHERS)
    wait_for("and answer", lambda: None not in ping_all(lab).values())
    with steady_pings(lab, [("laptop", "nas")], lost_allowed=50):
        lab.stop("laptop")
        lab.start_agent("laptop")
        wait_for("TLS carries again", lambda: over_tls(lab) == OTHERS)
        time.sleep(1)
