"""Two members of a lab behind boxes of given kinds, with real agents: how they get a direct path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from netctl.lab.internet import Lab, statuses_of
from netctl.lab.pinging import pinged
from netctl.lab.probes import host_name
from netctl.lab.wiring import Network
from tests.support.lablife import PARTY, raised_lab
from tests.support.patience import BUSY_S, wait_for

POLL_S = 0.2
STAY_S = 3.0
"""Ten times what a port takes to change after a member heard of the other."""
BOTH = ("laptop", "desktop")


@contextmanager
def pair_behind(
    laptop: str,
    desktop: str,
    *,
    engine: str = "netctl-wg",
    wired: Callable[[Network], None] | None = None,
    carrier: str = "",
    carried: tuple[str, ...] = ("home",),
) -> Iterator[Lab]:
    """The laptop behind one kind of box (`home`) and the desktop behind another (`work`).

    `carrier`: the entry of a box that those `carried` are behind in turn.
    """
    over = {name: ", behind: carrier" if carrier and name in carried else "" for name in ("home", "work")}
    boxes = (
        f"home: {{kind: {laptop}, members: [laptop]{over['home']}}}\n"
        f"  work: {{kind: {desktop}, members: [desktop]{over['work']}}}"
    )
    if carrier:
        boxes = f"carrier: {{{carrier}}}\n  {boxes}"
    with raised_lab(PARTY, f"nats:\n  {boxes}\n", {"NETCTL_ENGINE": engine}, wired=wired) as lab:
        yield lab


@contextmanager
def pair_in_one_home(kind: str) -> Iterator[Lab]:
    """Both behind one box."""
    boxes = f"nats: {{home: {{kind: {kind}, members: [laptop, desktop]}}}}\n"
    with raised_lab(PARTY, boxes, {"NETCTL_ENGINE": "netctl-wg"}) as lab:
        yield lab


def kinds(lab: Lab) -> dict[str, str]:
    """Each member's path to the other."""
    found = statuses_of(lab.network.members)
    return {name: peer["path"] for name, status in found.items() for peer in status["peers"]}


def peer_of(lab: Lab, name: str) -> Any:
    """The other one, as this member's status has it."""
    return statuses_of(lab.network.members)[name]["peers"][0]


def direct_within(lab: Lab, seconds: float) -> float | None:
    """Seconds until both are direct, None: not within so many."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if set(kinds(lab).values()) == {"direct"}:
            return time.monotonic() - began
        time.sleep(POLL_S)
    return None


def stay(lab: Lab) -> None:
    """Wait until no WireGuard port and endpoint has changed for `STAY_S`, and both answer each other's ping."""
    ends = ports = [""]
    since = began = time.monotonic()
    while time.monotonic() - since < STAY_S:
        assert time.monotonic() - began < BUSY_S, (ports, ends)
        now = [lab.node(name).run(["wg", "show", "all", "listen-port"]) for name in lab.network.members]
        there = [lab.node(name).run(["wg", "show", "all", "endpoints"]) for name in lab.network.members]
        if (now, there) != (ports, ends):
            ports, ends, since = now, there, time.monotonic()
        time.sleep(POLL_S)
    wait_for("both answer", lambda: not any(lost(lab, *pair, 1) for pair in (BOTH, BOTH[::-1])))


def lost(lab: Lab, one: str, other: str, count: int = 40) -> int:
    """Pings through the tunnel that had no answer."""
    found = pinged(
        lambda argv: lab.node(one).attempt(argv).stdout,
        host_name(other, "party"),
        count,
        interval_s=0.05,
        wait_s=20,
    )
    if found.lost:
        print(found.said)
    return found.lost


def ports_table(lab: Lab, name: str) -> str:
    """The member's table of rewritten ports; empty: there is none."""
    return lab.node(name).attempt(["nft", "list", "table", "inet", "netctl_ports"]).stdout
