"""Labs that live for a while: waiting for them, and pings that run all the time."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netctl.lab.demo import unconnected
from netctl.lab.internet import Lab, raise_lab, statuses_of
from netctl.lab.namespaces import Holder, check_machine
from netctl.lab.probes import host_name
from netctl.model.errors import LocalError
from tests.support.patience import BUSY_S, wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "lan-party.yaml"
PARTY = """
apiVersion: netctl/v1
mediators:
  - {url: "netctl://m1.example.net:8443", identity: ["ed25519:EKiLXYu8TJJvIcGdsUa9noi/8w5txrMbyNJninfBBJo="]}
members:
  laptop:
    wireguard: "oN9b+VcZct4Fqc0LWGekk0FboKkwHmJhBGo/bJHOfQo="
    identity: "ed25519:HGSfeLvLC6OYHUtA4alcVWGojgYfHxEXhhlpF8Hjiww="
  desktop:
    wireguard: "DeMKT2R8ZOJrCOp8qkolzZHJGxVkha9f0qGa531v9gM="
    identity: "ed25519:GiLEfBgMuc0R185yzrIsMWFAXUCUbC1qIEy5cx50dwk="
networks:
  party: {mode: routed, ipv4: 10.9.0.0/24, members: ["*"]}
"""
"""Two members of a routed network."""
PING_EVERY_S = 0.05
"""Short beside any gap that a person would notice; twenty losses would be one second."""
Addresses = dict[str, dict[str, list[str]]]


def everybody_connected(lab: Lab) -> bool:
    return not unconnected(lab.document, statuses_of(lab.network.members))


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
        said = {pair: process.communicate(timeout=BUSY_S)[0] for pair, process in running.items()}
    for pair, text in said.items():
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", text)
        assert counts is not None, text
        sent, received = int(counts.group(1)), int(counts.group(2))
        assert sent > 20, f"{pair}: only {sent} pings were sent"
        # The last one may be on its way when ping is told to end.
        assert sent - received <= lost_allowed + 1, f"{pair}: {sent - received} of {sent} pings lost"


def pairs_by(lab: Lab, *paths: str) -> list[tuple[str, str]]:
    """Ordered pairs with one of these paths."""
    return [
        (name, peer["name"])
        for name, status in statuses_of(lab.network.members).items()
        for peer in status["peers"]
        if peer["path"] in paths
    ]


def direct_pairs(lab: Lab) -> list[tuple[str, str]]:
    """Ordered pairs whose packets do not pass the relay, which lives on the mediator's host."""
    return pairs_by(lab, "lan", "direct")


def mediator_states(lab: Lab) -> dict[str, Any]:
    return {name: status["mediator"]["state"] for name, status in statuses_of(lab.network.members).items()}


@contextmanager
def lab_holder() -> Iterator[Holder]:
    """Whoever holds the namespaces of a lab, until its end; the test is skipped where this machine can have none."""
    try:
        check_machine()
    except LocalError as error:
        pytest.skip(str(error))
    holder = Holder.start()
    try:
        yield holder
    finally:
        holder.destroy()


@contextmanager
def connected_lab(document: Path) -> Iterator[Lab]:
    """A lab in which everybody has a tunnel to everybody."""
    with lab_holder() as holder:
        lab = raise_lab(holder, document, lambda text: None)
        wait_for("everybody is connected", lambda: everybody_connected(lab))
        yield lab
