"""Two members behind symmetric NATs with random ports get direct, because one's router opens a port: miniupnpd."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from netctl.lab.internet import Lab
from netctl.lab.rebind import forget_flows
from tests.netns.portmaplab import OUTSIDE, PROTOCOLS, mapped, prepare, start_router, stop_router
from tests.support.lablife import PARTY, connected_lab, pairs_by
from tests.support.patience import wait_for

pytestmark = [
    pytest.mark.netns,
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("miniupnpd") is None, reason="missing: miniupnpd"),
]

NATS = """
nats:
  home: {kind: symmetric-random, members: [laptop]}
  work: {kind: symmetric-random, members: [desktop]}
"""
BOTH = {("laptop", "desktop"), ("desktop", "laptop")}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with connected_lab(PARTY, NATS) as lab:
        prepare(lab, "home")
        yield lab


def doctor(lab: Lab) -> Any:
    return json.loads(lab.node("laptop").attempt(["netctl", "doctor", "-o", "json"]).stdout)


def opening(lab: Lab) -> Any:
    return doctor(lab)["port_mapping"]


def again(lab: Lab) -> float:
    """A new life of the laptop's agent, which asks its router at once. When it began."""
    lab.stop("laptop")
    lab.start_agent("laptop")
    return time.monotonic()


def test_a_router_that_opens_nothing_is_said_and_the_relay_carries(lab: Lab) -> None:
    wait_for("the router was asked", lambda: opening(lab)["state"] == "resting")
    wait_for("both are relayed", lambda: set(pairs_by(lab, "relay-udp")) == BOTH)
    said = [check for check in doctor(lab)["checks"] if check["check"] == "port mapping"]
    assert said[0]["level"] == "note"
    assert "opens no port" in said[0]["text"]
    assert "PCP: nobody listens on its port 5351" in said[0]["text"] or "PCP: no answer" in said[0]["text"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_mapping_makes_a_symmetric_pair_direct(lab: Lab, protocol: str) -> None:
    wait_for("neither is direct", lambda: set(pairs_by(lab, "relay-udp")) == BOTH)
    start_router(lab, "home", protocol)
    began = again(lab)
    wait_for(f"a mapping by {protocol}", lambda: opening(lab)["protocol"] == protocol)
    assert opening(lab)["external"] == f"{OUTSIDE}:51820"
    assert "51820" in mapped(lab, "home")
    wait_for("both are direct", lambda: set(pairs_by(lab, "direct")) == BOTH)
    print(f"{protocol}: direct {time.monotonic() - began:.1f} s after the agent's start")
    text = lab.node("laptop").attempt(["netctl", "doctor"]).stdout
    assert f"your router speaks {protocol}: port 51820 is open as {OUTSIDE}:51820" in text
    why = lab.node("laptop").attempt(["netctl", "why", "laptop", "desktop"]).stdout
    assert f"this host's router keeps {OUTSIDE}:51820 open for it ({protocol})" in why
    seen = ["netctl", "why", "desktop", "laptop"]
    path = f"path: direct at {OUTSIDE}:51820"
    wait_for(path, lambda: path in lab.node("desktop").attempt(seen).stdout)
    done = lab.node("laptop").attempt(["netctl", "down", "--yes"])
    assert done.returncode == 0, done
    wait_for("down removes the mapping", lambda: "51820" not in mapped(lab, "home"))
    assert lab.node("laptop").attempt(["netctl", "up"]).returncode == 0
    wait_for("up makes it again", lambda: opening(lab)["protocol"] == protocol)
    stop_router(lab, "home")
    forget_flows(lab.node("home"))


def test_the_document_can_forbid_it(lab: Lab) -> None:
    start_router(lab, "home", "PCP")
    again(lab)
    wait_for("a mapping", lambda: opening(lab)["protocol"] == "PCP")
    laptop = lab.node("laptop")
    text = laptop.run(["cat", "/run/lab/etc/networks.yaml"])
    laptop.write(
        "/run/lab/etc/networks.yaml", text.replace("  laptop:\n", "  laptop:\n    portMapping: false\n")
    )
    wait_for("it is gone", lambda: opening(lab)["state"] == "off" and "51820" not in mapped(lab, "home"))
    assert not any(check["check"] == "port mapping" for check in doctor(lab)["checks"])
    stop_router(lab, "home")
