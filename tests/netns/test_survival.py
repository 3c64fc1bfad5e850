"""Tunnels survive: a mediator that is gone, an agent that is killed. Real agents, asserted on running pings.

One lab for the whole file: the tests run in order and each leaves everybody connected.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from netctl.lab.internet import Lab, program
from netctl.lab.probes import ping_all
from tests.support.lablife import (
    EXAMPLE,
    PING_EVERY_S,
    addresses,
    connected_lab,
    direct_pairs,
    everybody_connected,
    mediator_states,
    steady_pings,
)
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with connected_lab(EXAMPLE) as lab:
        yield lab


def test_every_pair_answers_by_name(lab: Lab) -> None:
    # Connected is not yet direct: on a busy machine a pair may change its path under the first ping.
    wait_for("every pair answers by name", lambda: all(rtt is not None for rtt in ping_all(lab).values()))


def test_a_mediator_that_stops_and_comes_back_is_not_noticed(lab: Lab) -> None:
    before = addresses(lab)
    assert all(networks["lan-party"] for networks in before.values())
    direct = direct_pairs(lab)
    assert direct, "no pair has a path of its own: this test would show nothing"
    with steady_pings(lab, direct):
        lab.stop("mediator")
        wait_for(
            "everybody notices that the mediator is gone",
            lambda: all(state != "connected" for state in mediator_states(lab).values()),
        )
        assert [pair for pair, rtt in ping_all(lab).items() if rtt is None and pair in direct] == []
        lab.start_mediator()
        wait_for("everybody returns by itself", lambda: everybody_connected(lab))
    assert addresses(lab) == before


def test_a_killed_mediator_keeps_its_leases(lab: Lab) -> None:
    before = addresses(lab)
    with steady_pings(lab, direct_pairs(lab)):
        lab.stop("mediator", signal.SIGKILL)
        lab.start_mediator()
        wait_for("everybody returns by itself", lambda: everybody_connected(lab))
    assert addresses(lab) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_agent_drops_no_tunnel(lab: Lab, number: signal.Signals) -> None:
    before = addresses(lab)
    pairs = [pair for pair in direct_pairs(lab) if "laptop" in pair]
    assert pairs
    with steady_pings(lab, pairs):
        lab.stop("laptop", number)
        time.sleep(1)  # real time without an agent, for real pings
        lab.start_agent("laptop")
        wait_for("laptop is connected again", lambda: everybody_connected(lab))
    assert addresses(lab) == before


def test_an_agent_boots_without_a_mediator_from_what_it_knows(lab: Lab) -> None:
    before = addresses(lab)
    pairs = [pair for pair in direct_pairs(lab) if "laptop" in pair]
    with steady_pings(lab, pairs):
        lab.stop("mediator")
        lab.stop("laptop", signal.SIGKILL)
        lab.start_agent("laptop")
        wait_for("laptop has its addresses", lambda: addresses(lab)["laptop"] == before["laptop"])
        lab.start_mediator()
        wait_for("everybody returns", lambda: everybody_connected(lab))
    assert addresses(lab) == before


KILL_ENGINE = """for pid in $(pgrep -f 'netctl-wg nctl0'); do
[ "$(readlink /proc/$pid/ns/net)" = "$(readlink /proc/self/ns/net)" ] && kill -9 $pid && echo killed; done; true"""
PINGED_S = 5.0
"""Of pings that an engine which dies may cost: it starts in half a second, and every tunnel shakes hands anew."""


def test_a_killed_engine_comes_back_with_all_its_paths(lab: Lab) -> None:
    """It knows no endpoint any more: the agent tells it those that it had, and nobody waits for a new path."""
    before, pairs = addresses(lab), [pair for pair in direct_pairs(lab) if "laptop" in pair]
    assert pairs
    with steady_pings(lab, pairs, lost_allowed=int(PINGED_S / PING_EVERY_S)):
        time.sleep(1)  # pings before
        assert "killed" in run_in(lab, "laptop", "sh", "-c", KILL_ENGINE).stdout
        wait_for("the engine is back", lambda: "nctl0" in run_in(lab, "laptop", "ip", "-br", "link").stdout)
        wait_for("everybody is connected", lambda: everybody_connected(lab))
        time.sleep(PINGED_S + 3)  # pings after
    status = json.loads(run_in(lab, "laptop", program("netctl"), "status", "-o", "json").stdout)
    assert status["engine_restarts"] == 1
    assert status["faults"] == 0
    assert addresses(lab) == before


def run_in(lab: Lab, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return lab.node(name).attempt(argv)


def test_a_kept_plan_holds_while_the_network_lives(lab: Lab) -> None:
    netctl = program("netctl")
    for command in (["plan", "--out", "/run/p.plan"], ["apply", "--yes", "/run/p.plan"]):
        time.sleep(2)  # real time, in which paths and sessions move
        done = run_in(lab, "laptop", netctl, *command)
        assert done.returncode == 0, done
    assert "nothing to change" in done.stdout


def allowed_ips(lab: Lab, name: str) -> list[str]:
    return sorted(run_in(lab, name, "wg", "show", "nctl0", "allowed-ips").stdout.splitlines())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("networks: [\n", "/run/broken.yaml:1:12"),
        ("apiVersion: netctl/v1\nmembers: {}\nnetworks: {}\n", "no member"),
    ],
    ids=["no-yaml", "not-a-member"],
)
def test_a_bad_document_changes_nothing(lab: Lab, text: str, says: str) -> None:
    before = allowed_ips(lab, "laptop")
    assert len(before) == 3
    lab.node("laptop").write("/run/broken.yaml", text)
    done = run_in(lab, "laptop", program("netctl"), "--config", "/run/broken.yaml", "apply", "--yes")
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr + done.stdout
    assert says in done.stderr
    assert allowed_ips(lab, "laptop") == before


def test_doctor_and_why_say_how_it_is(lab: Lab) -> None:
    def nat_of_nas() -> Any:  # alone behind its NAT
        return json.loads(run_in(lab, "nas", "netctl", "doctor", "-o", "json").stdout)["nat"]["ipv4"]

    wait_for("its NAT is known", lambda: nat_of_nas()["mapping"] != "unknown")
    assert nat_of_nas()["udp"] == "works"
    assert nat_of_nas()["mapping"] == "endpoint-independent"
    assert nat_of_nas()["port_kept"] is True
    wait_for("the hairpin is known", lambda: "(hairpin)" in run_in(lab, "laptop", "netctl", "doctor").stdout)
    question = ("netctl", "why", "laptop", "nas:22")
    wait_for("the path is direct", lambda: "ok   path: direct at " in run_in(lab, "laptop", *question).stdout)
    nat = "NAT of nas: endpoint-independent mapping"  # as its offer says, which may come after its first ping
    wait_for("its NAT is known", lambda: nat in run_in(lab, "laptop", *question).stdout)
    why = run_in(lab, "laptop", *question)
    assert why.returncode == 0, why
    assert "ok   office: allowed by networks.office.acls[1] (ssh)" in why.stdout
    denied = run_in(lab, "laptop", "netctl", "why", "nas", "desktop:tcp/1", "-o", "json")
    assert [flow["allowed"] for flow in json.loads(denied.stdout)["flows"]] == [True, False]
    assert json.loads(denied.stdout)["path"] is None
    assert "NAT of laptop: endpoint-independent mapping" in why.stdout


def test_a_host_that_is_down_is_told_so_and_not_that_udp_is_blocked(lab: Lab) -> None:
    assert run_in(lab, "console", program("netctl"), "down").returncode == 0
    try:
        # A new agent has nothing left from before, and no port to ask the STUN servers from.
        lab.stop("console", signal.SIGKILL)
        lab.start_agent("console")
        wait_for(
            "the agent is logged in",
            lambda: "the mediator is connected" in run_in(lab, "console", "netctl", "doctor").stdout,
        )
        time.sleep(4.0)  # when STUN would have been asked in vain
        done = run_in(lab, "console", "netctl", "doctor")
        assert done.returncode == 0, done
        assert "this host is down: it has no tunnels" in done.stdout
        assert "UDP" not in done.stdout
        assert (
            "this host is down: `netctl up` starts it"
            in run_in(lab, "console", "netctl", "why", "console", "nas").stdout
        )
    finally:
        assert run_in(lab, "console", program("netctl"), "up").returncode == 0
