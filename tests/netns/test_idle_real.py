"""What an idle pair costs: processor time, wake-ups, packets. Real agents in a lab."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from netctl.lab.internet import Lab
from netctl.paths import constants as c
from tests.support.lablife import PARTY, connected_lab, pairs_by
from tests.support.patience import wait_for
from tests.support.processes import EVERY

pytestmark = [pytest.mark.netns, pytest.mark.lab]

NATS = """
nats:
  home: {kind: port-restricted, members: [laptop]}
  work: {kind: port-restricted, members: [desktop]}
"""
BOTH = {("laptop", "desktop"), ("desktop", "laptop")}
IDLE_S = 40.0
IDLE_PACKETS_A_MINUTE = 100
"""Pings of the path with answers, STUN, and the control connection; both ways."""
IDLE_CPU = 0.05
"""Of one core of the machine where `LOOP_S` was measured: elsewhere, and under load, processor time is worth less."""
LOOP_S = 0.043
"""Processor time of two million turns of an empty loop on a quiet machine, Python 3.11."""
LOOPS_AT_ONCE = 8
IDLE_WAKE_UPS_A_SECOND = 40
"""Of the agent and of both engines together, voluntary: each is a reason to do something."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with connected_lab(PARTY, NATS) as lab:
        yield lab


@dataclass(frozen=True)
class Spent:
    cpu_s: float
    """Processor time of the laptop's agent and of all userspace WireGuards."""
    wake_ups: int
    """How often these gave up a core by themselves, since they had nothing more to do."""
    packets: int
    """That passed the home's box."""


def spent(lab: Lab) -> Spent:
    node = lab.node("laptop")
    said = node.run(list(EVERY))
    pids = [int(line.split()[0]) for line in said.splitlines() if "netctl-wg" in line]
    assert pids, said
    ticks = wake_ups = 0
    for pid in (lab.services["laptop"], *pids):
        fields = node.run(["cat", f"/proc/{pid}/stat"]).rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        threads = node.run(["sh", "-c", f"cat /proc/{pid}/task/*/status"])
        wake_ups += sum(
            int(count) for count in re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", threads, re.M)
        )
    counted = (f"/sys/class/net/wan/statistics/{way}_packets" for way in ("rx", "tx"))
    packets = sum(int(lab.node("home").run(["cat", path])) for path in counted)
    return Spent(ticks / 100, wake_ups, packets)


def worth_of_a_second() -> float:
    """How much this machine gets done in a second of processor time just now, as a part of what it does when quiet."""
    before = time.process_time()
    for _ in range(2_000_000):
        pass
    return LOOP_S / (time.process_time() - before)


def test_an_idle_pair_costs_nearly_nothing(lab: Lab) -> None:
    wait_for("both are direct", lambda: set(pairs_by(lab, "direct")) == BOTH)
    time.sleep(c.RELAY_KEEP + 5)
    began = time.monotonic()
    before = spent(lab)
    worth = []
    for _ in range(LOOPS_AT_ONCE):
        time.sleep(IDLE_S / LOOPS_AT_ONCE)
        worth.append(worth_of_a_second())
    after = spent(lab)
    took = time.monotonic() - began  # more than that, on a busy machine
    a_minute = (after.packets - before.packets) * 60 / took
    raw = (after.cpu_s - before.cpu_s) / took
    share = raw * min(1.0, statistics.median(worth))
    wake_ups = (after.wake_ups - before.wake_ups) / took
    print(
        f"idle: {a_minute:.0f} packets a minute at the box; an agent and its engines: {wake_ups:.0f} wake-ups"
        f" a second, {share:.2%} of a core ({raw:.2%} as counted here and now)"
    )
    assert a_minute <= IDLE_PACKETS_A_MINUTE
    assert wake_ups <= IDLE_WAKE_UPS_A_SECOND
    assert share <= IDLE_CPU
