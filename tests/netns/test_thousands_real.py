"""Agents in a network of thousands of members, most of whom are only names: what rests costs nothing, what rings opens.

`NETCTL_LAB_AGENTS=40` (`make test-thousands`) has more agents. Times are the product's own records, printed beside what
is aimed at, and not asserted: forty agents share this machine.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Iterator, Sequence

import pytest

from netctl.lab.internet import Lab, in_parallel, program, statuses_of
from netctl.lab.probes import host_name
from tests.support.lablife import Pinging, mediator_states, raised_lab
from tests.support.lazykit import HARD, NETWORK, Crowd, paths, ping, records, wait_until_folded
from tests.support.patience import wait_for
from tests.support.processes import EVERY

pytestmark = [pytest.mark.netns, pytest.mark.lab]

CROWD = Crowd.of(agents=int(os.environ.get("NETCTL_LAB_AGENTS", "12")), names=2_000)
IDLE_S = 10
REST_S = 25.0
"""Longer than an agent at rest waits for its next look at the engine, and than the keepalives of an open path."""
RELAYED_MS, DIRECT_MS = 300, 1000
"""Aims: from the ring of a first packet to its path over the relay, and to the direct one in the median."""
COUNTER = """
table ip counted {
  counter to_mediator { packets 0 bytes 0 }
  counter to_others { packets 0 bytes 0 }
  chain o {
    type filter hook output priority 0
    oifname != eth0 accept
    udp dport { 1900, 3478-3479, 5350-5351 } accept
    meta l4proto udp ip daddr 203.0.113.10 counter name to_mediator
    meta l4proto udp ip daddr != 203.0.113.10 counter name to_others
  }
}
"""
"""UDP, without what a host asks for itself: STUN, and its router for a port."""
Counted = tuple[int, int]
"""Datagrams to the mediator's machine, which has the relay, and to others."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    environs = {"NETCTL_LAZY_IDLE_S": str(IDLE_S)}
    with raised_lab(CROWD.document, CROWD.nats, environs, offline=CROWD.names) as lab:
        yield lab
        print(lab.log("mediator", 20), lab.log(CROWD.agents[0], 40))


def count(lab: Lab) -> None:
    """Count from now on."""
    in_parallel(
        lambda name: lab.node(name).run(
            ["nft", "-f", "-"], "table ip counted { }\ndelete table ip counted\n" + COUNTER
        ),
        CROWD.agents,
    )


def counted(lab: Lab, name: str) -> Counted:
    said = lab.node(name).run(["nft", "list", "counters", "table", "ip", "counted"])
    to_mediator, to_others = (int(packets) for packets in re.findall(r"packets (\d+)", said))
    return to_mediator, to_others


def spent_s(lab: Lab, pids: Sequence[int]) -> float:
    """Processor time of these processes so far."""
    lines = (
        lab.node("mediator")
        .run(["sh", "-c", 'cat "$@"', "sh", *(f"/proc/{pid}/stat" for pid in pids)])
        .splitlines()
    )
    fields = [line.rpartition(")")[2].split() for line in lines]
    return sum(int(each[11]) + int(each[12]) for each in fields) / 100


def resident_mb(lab: Lab, pids: Sequence[int]) -> list[float]:
    """Resident memory of each of these processes."""
    said = lab.node("mediator").run(["sh", "-c", 'cat "$@"', "sh", *(f"/proc/{pid}/status" for pid in pids)])
    return [int(kb) / 1024 for kb in re.findall(r"^VmRSS:\s+(\d+) kB", said, re.MULTILINE)]


def engines(lab: Lab) -> list[int]:
    lines = lab.node("mediator").run(list(EVERY)).splitlines()
    return [int(line.split()[0]) for line in lines if "netctl-wg nctl0" in line]


def range_of(values: Sequence[float], digits: int = 0) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:.{digits}f} to {high:.{digits}f}, median {middle:.{digits}f}"


def whole(lab: Lab) -> bool:
    """Whether each agent has every member with the same addresses, and knows that agents are online and names not."""
    known: dict[str, list[str]] = {}
    for name, status in statuses_of(lab.network.members).items():
        peers = {peer["name"]: peer for peer in status["peers"]}
        if (
            status["mediator"]["state"] != "connected"
            or len(peers) != len(CROWD.agents) + len(CROWD.names) - 1
        ):
            return False
        if {other for other, peer in peers.items() if peer["online"]} != set(CROWD.agents) - {name}:
            return False
        if not all(peer["presence_known"] for peer in peers.values()):
            return False
        for other, peer in peers.items():
            addresses = sorted(address for each in peer["addresses"].values() for address in each)
            if not addresses or known.setdefault(other, addresses) != addresses:
                return False
    return True


def test_everybody_is_whole(lab: Lab) -> None:
    wait_for(
        "everybody is logged in", lambda: set(mediator_states(lab).values()) == {"connected"}, every_s=1.0
    )
    took = wait_for("everybody is whole", lambda: whole(lab), every_s=1.0)
    print(f"{len(CROWD.agents)} agents, {len(CROWD.names)} names: whole {took:.1f} s after the last login")


def test_at_rest_nothing_is_sent_to_anybody(lab: Lab) -> None:
    wait_until_folded(lab)
    agents, others = [lab.services[name] for name in CROWD.agents], engines(lab)
    assert len(others) == len(agents)
    count(lab)
    before = spent_s(lab, agents), spent_s(lab, others), spent_s(lab, [lab.services["mediator"]])
    time.sleep(REST_S)
    after = spent_s(lab, agents), spent_s(lab, others), spent_s(lab, [lab.services["mediator"]])
    found = in_parallel(lambda name: counted(lab, name), CROWD.agents)
    cpu = [(late - early) / REST_S for early, late in zip(before, after, strict=True)]
    print(
        f"at rest, of a core: an agent {cpu[0] / len(agents):.2%}, an engine {cpu[1] / len(agents):.2%}, the mediator"
        f" {cpu[2]:.2%}\nresident MB: agents {range_of(resident_mb(lab, agents))}; engines"
        f" {range_of(resident_mb(lab, others))}; mediator {range_of(resident_mb(lab, [lab.services['mediator']]))}"
    )
    assert found == [(0, 0)] * len(agents)


def test_a_name_that_is_not_online(lab: Lab) -> None:
    wait_until_folded(lab)
    one, name = lab.node(CROWD.agents[0]), CROWD.names[7]

    def said(*command: str) -> str:
        done = one.attempt([program("netctl"), *command])
        return done.stdout + done.stderr

    assert re.search(rf"^\s*{name} +no +idle ", said("status"), re.MULTILINE)
    why = said("why", CROWD.agents[0], name)
    assert "path: idle: opens with the first packet" in why
    assert f"{name} is not online: is its agent running" in why
    count(lab)
    pinged = one.attempt(["ping", "-n", "-c", "3", "-W", "3", host_name(name, NETWORK)])
    assert "100% packet loss" in pinged.stdout
    assert f"{name} is not online" in said("why", CROWD.agents[0], name)
    to_relay, to_others = counted(lab, CROWD.agents[0])
    print(f"three pings of a name: {to_relay} datagrams to the relay, {to_others} to others")
    assert (to_relay, to_others) == (0, 0), "the mediator is asked first, and says that nobody is there"
    assert [counted(lab, other) for other in CROWD.agents[1:3]] == [(0, 0)] * 2


def opened(lab: Lab, one: str, other: str, best: str) -> tuple[float, float, float]:
    """Ping a folded pair until it has its best path: milliseconds to the first answer, and from the ring to each path.

    The two paths are the first and the best. Nothing is lost on the way.
    """
    before = len(records(lab, one, other))
    answered_ms = ping(lab, one, other)
    talking = Pinging(lab.node(one), host_name(other, NETWORK))
    ends = ((one, other), (other, one))
    wait_for(
        f"{one} and {other} are {best}", lambda: {paths(lab)[end] for end in ends} == {best}, every_s=1.0
    )
    talking.tell_to_end()
    assert talking.ended().lost == 0
    found = records(lab, one, other)[before:]
    assert found[-1].path == best
    return answered_ms, found[0].ms, found[-1].ms


def test_first_packets_are_answered_and_pairs_become_direct(lab: Lab) -> None:
    easy, hard = CROWD.pairs[:-HARD], CROWD.pairs[-HARD:]
    wait_until_folded(lab)
    found = [opened(lab, *pair, "direct") for pair in easy]
    relayed = [opened(lab, *pair, "relay-udp") for pair in hard]
    for pairs, times in (("that can be direct", found), ("that only the relay joins", relayed)):
        answered, first, best = zip(*times, strict=True)
        print(
            f"{len(times)} pairs {pairs}, one after the other, ms: first answer {range_of(answered)}"
            f" (aim {RELAYED_MS}); after the ring the first path {range_of(first)}, the best {range_of(best)}"
            f" (aim for direct: median {DIRECT_MS})"
        )
    wait_until_folded(lab)


def test_all_ring_at_once_from_both_sides(lab: Lab) -> None:
    wait_until_folded(lab)
    both = [end for one, other in CROWD.pairs for end in ((one, other), (other, one))]
    before = {pair: len(records(lab, *pair)) for pair in both}
    answered = in_parallel(lambda pair: ping(lab, *pair), both, at_once=len(both))
    wait_until_folded(lab)
    first = [found[before[pair]].ms for pair in both if len(found := records(lab, *pair)) > before[pair]]
    print(
        f"{len(both)} rings at once, ms: first answer {range_of(answered)};"
        f" after the ring the first path {range_of(first)}"
    )
