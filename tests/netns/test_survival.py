"""Tunnels survive: a mediator that is gone, an agent that is killed. Real agents, asserted on running pings.

One lab for the whole file: the tests run in order and each leaves everybody connected.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netctl.lab.demo import unconnected
from netctl.lab.internet import Lab, program, raise_lab, statuses_of
from netctl.lab.namespaces import Holder, check_machine
from netctl.lab.probes import host_name, ping_all
from netctl.model.errors import LocalError

pytestmark = [pytest.mark.netns, pytest.mark.lab]

EXAMPLE = Path(__file__).parents[2] / "examples" / "lan-party.yaml"
CONNECTED_S = 60.0
PING_EVERY_S = 0.05
"""Short beside any gap that a person would notice; twenty losses would be one second."""
Addresses = dict[str, dict[str, list[str]]]


def wait_for(what: str, true: Callable[[], bool], seconds: float = CONNECTED_S) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


def everybody_connected(lab: Lab) -> bool:
    return not unconnected(statuses_of(lab.network.members))


def addresses(lab: Lab) -> Addresses:
    return {
        name: {network: sorted(entry["addresses"]) for network, entry in status["networks"].items()}
        for name, status in statuses_of(lab.network.members).items()
    }


@contextmanager
def steady_pings(lab: Lab, pairs: list[tuple[str, str]], lost_allowed: int = 0) -> Iterator[None]:
    """Pings by name between pairs, all the time; at the end at most `lost_allowed` of each are lost."""
    running = {}
    for one, other in pairs:
        argv = ["ping", "-n", "-q", "-i", str(PING_EVERY_S), host_name(other, "lan-party")]
        running[one, other] = lab.node(one).popen(["sh", "-c", 'echo $$; exec "$@"', "ping", *argv])
    pids = {}
    for pair, process in running.items():
        assert process.stdout is not None
        pids[pair] = int(process.stdout.readline())
    try:
        yield
        time.sleep(1)
    finally:
        for (one, _), pid in pids.items():
            lab.node(one).kill(pid, signal.SIGINT)
        said = {pair: process.communicate(timeout=10)[0] for pair, process in running.items()}
    for pair, text in said.items():
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", text)
        assert counts is not None, text
        sent, received = int(counts.group(1)), int(counts.group(2))
        assert sent > 20, f"{pair}: only {sent} pings were sent"
        # The last one may be on its way when ping is told to end.
        assert sent - received <= lost_allowed + 1, f"{pair}: {sent - received} of {sent} pings lost"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    try:
        check_machine()
    except LocalError as error:
        pytest.skip(str(error))
    holder = Holder.start()
    try:
        lab = raise_lab(holder, EXAMPLE, lambda text: None)
        wait_for("everybody is connected", lambda: everybody_connected(lab))
        yield lab
    finally:
        holder.destroy()


def test_every_pair_answers_by_name(lab: Lab) -> None:
    lost = [pair for pair, rtt in ping_all(lab).items() if rtt is None]
    assert lost == []


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


def direct_pairs(lab: Lab) -> list[tuple[str, str]]:
    """Ordered pairs whose packets do not pass the relay, which lives on the mediator's host."""
    return [
        (name, peer["name"])
        for name, status in statuses_of(lab.network.members).items()
        for peer in status["peers"]
        if peer["path"] in ("lan", "direct")
    ]


def mediator_states(lab: Lab) -> dict[str, Any]:
    return {name: status["mediator"]["state"] for name, status in statuses_of(lab.network.members).items()}


def run_in(lab: Lab, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return lab.node(name).attempt(argv)


def allowed_ips(lab: Lab, name: str) -> list[str]:
    return sorted(run_in(lab, name, "wg", "show", "nctl0", "allowed-ips").stdout.splitlines())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("networks: [\n", "/run/broken.yaml:2:1"),
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
