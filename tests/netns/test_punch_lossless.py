"""The switch from the relay to a direct path, under a steady stream: no packet is lost."""

from __future__ import annotations

import time

import pytest

from netctl.lab.pinging import pinged
from tests.netns import stream
from tests.netns.test_punch_real import Internet, cut, internet, join_all
from tests.support.hosts import needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.alone, pytest.mark.netns, needs_namespaces]

__all__ = ["internet"]


def test_the_switch_to_direct_loses_no_packet(internet: Internet) -> None:
    cut(internet)
    both = join_all(internet)
    wait_for("both are on relay-udp", lambda: both("relay-udp"))
    m1 = internet.hosts["m1"]
    assert pinged(m1.say, "10.9.0.2", 5).lost == 0
    receivers = [internet.hosts[member].start(*stream.receiver(9000)) for member in ("m1", "m2")]
    for process in receivers:
        stream.ready(process)
    senders = [
        internet.hosts[member].start(*stream.sender(f"10.9.0.{other}", 9000, 1000, 25))
        for member, other in (("m1", 2), ("m2", 1))
    ]
    internet.started += [*receivers, *senders]
    time.sleep(2)
    internet.hosts["pub"].run("nft", "delete", "table", "ip", "cut")
    wait_for("both are on direct", lambda: both("direct"))
    for report in stream.reports(receivers, BUSY_S):
        print(report)
        assert report["sent"] >= 24_000
        assert report["lost"] == 0, report
        assert report["duplicates"] == 0, report
