"""Labs that live for a while: waiting for them, and pings that run all the time."""

from __future__ import annotations

import itertools
import re
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netctl.lab.demo import unconnected
from netctl.lab.internet import Lab, raise_lab, statuses_of
from netctl.lab.namespaces import Holder, Node, check_machine
from netctl.lab.probes import host_name
from netctl.lab.wiring import Network
from netctl.model.errors import LocalError
from tests.support.patience import BUSY_S, wait_for

EXAMPLE = (Path(__file__).parents[2] / "examples" / "lan-party.yaml").read_text()
"""Four members behind three NATs."""
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
UNDER_WAY = 10
"""Pings of the last half second: whoever is stopped just then may have had no time for their answers."""
LATE_S = 5.0
"""Longer than a busy machine stops anybody for."""
_ANSWER = re.compile(r"^\[(\d+\.\d+)\] .*icmp_seq=(\d+) ttl=", re.MULTILINE)
Addresses = dict[str, dict[str, list[str]]]


def everybody_connected(lab: Lab) -> bool:
    return not unconnected(lab.document, statuses_of(lab.network.members))


def addresses(lab: Lab) -> Addresses:
    return {
        name: {network: sorted(entry["addresses"]) for network, entry in status["networks"].items()}
        for name, status in statuses_of(lab.network.members).items()
    }


class Pinging:
    """A ping that runs until it is told to end. What it says goes to a file: a pipe that nobody reads is full soon."""

    _number = itertools.count()

    def __init__(self, node: Node, target: str) -> None:
        self._node, self._file = node, f"/run/pinged-{next(self._number)}"
        argv = ["ping", "-n", "-D", "-i", str(PING_EVERY_S), target]
        self._process = node.popen(["sh", "-c", 'echo $$; exec "$@" > "$0" 2>&1', self._file, *argv])
        assert self._process.stdout is not None
        self._pid = int(self._process.stdout.readline())

    def newest(self) -> float:
        """When the last answer came, as a Unix time; 0: none has."""
        said = self._node.attempt(["tail", "-n", "3", self._file]).stdout
        return max((float(at) for at, _ in _ANSWER.findall(said)), default=0.0)

    def tell_to_end(self) -> None:
        """Once one is answered: if the other end stands still just now, answers to many are under way. Or after
        `LATE_S`, where none is answered.
        """
        began, now = time.monotonic(), time.time()
        while time.monotonic() - began < LATE_S:
            if self.newest() > now:
                break
            time.sleep(PING_EVERY_S)
        self._node.kill(self._pid, signal.SIGINT)

    def ended(self) -> Pinged:
        """Once it has."""
        self._process.communicate(timeout=BUSY_S)
        said = self._node.run(["cat", self._file])
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", said)
        assert counts is not None, said
        found = _ANSWER.findall(said)
        answered = {int(number) for _, number in found}
        sent, newest = int(counts.group(1)), max(answered, default=0)
        lost = newest - len(answered) + max(0, sent - newest - UNDER_WAY)
        if lost:  # after which answers, and for how long: pytest shows it with the test that fails
            print(
                f"pings {sorted(set(range(1, sent + 1)) - answered)} of {sent} have no answer: {said[-1000:]}"
            )
        return Pinged(sent, lost, [float(at) for at, _ in found])


@dataclass(frozen=True)
class Pinged:
    """What became of it."""

    sent: int
    lost: int
    """Those `UNDER_WAY` at its end are not."""
    answers: list[float]
    """Unix times."""


@contextmanager
def steady_pings(lab: Lab, pairs: list[tuple[str, str]], lost_allowed: int = 0) -> Iterator[None]:
    """Pings by name between pairs, all the time; at the end at most `lost_allowed` of each are lost."""
    running = {(one, other): Pinging(lab.node(one), host_name(other, "lan-party")) for one, other in pairs}
    try:
        yield
        time.sleep(1)
    finally:
        for process in running.values():
            process.tell_to_end()
        found = {pair: process.ended() for pair, process in running.items()}
    for pair, pinged in found.items():
        assert pinged.sent > 20, f"{pair}: only {pinged.sent} pings were sent"
        assert pinged.lost <= lost_allowed + 1, f"{pair}: {pinged.lost} of {pinged.sent} pings lost"


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
def raised_lab(
    document: str,
    nats: str = "",
    environs: Mapping[str, str] | None = None,
    *,
    wired: Callable[[Network], None] | None = None,
    offline: Collection[str] = (),
) -> Iterator[Lab]:
    """A lab of this document, and of the boxes of this sidecar file; without one as the lab chooses them.

    `environs`, `wired` and `offline` are those of `raise_lab`.
    """
    with tempfile.TemporaryDirectory() as place, lab_holder() as holder:
        path = Path(place) / "networks.yaml"
        path.write_text(document)
        if nats:
            path.with_name("networks.lab.yaml").write_text(nats)
        yield raise_lab(holder, path, lambda text: None, environs, wired, offline=offline)


@contextmanager
def connected_lab(document: str, nats: str = "", environs: Mapping[str, str] | None = None) -> Iterator[Lab]:
    """The same, once everybody has a tunnel to everybody."""
    with raised_lab(document, nats, environs) as lab:
        wait_for("everybody is connected", lambda: everybody_connected(lab))
        yield lab
