"""Where UDP is blocked: everybody is reached over TLS, UDP takes over when it may, and comes back to TLS when not."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netctl.lab.internet import DOCUMENT_PATH, LOG_PATH, STATE_PATH, Lab, program
from netctl.lab.nat import NatKind, ruleset
from netctl.lab.probes import host_name, ping_all
from netctl.session import PROOF_S
from tests.support import connectproxy
from tests.support.lablife import (
    EXAMPLE,
    connected_lab,
    everybody_connected,
    mediator_states,
    pairs_by,
    steady_pings,
)
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

BLOCKED = """
nats:
  office: {kind: udp-blocked, members: [laptop]}
  bank: {kind: udp-blocked, members: [desktop]}
  home: {kind: port-restricted, members: [console]}
  vps: {kind: open, members: [nas]}
"""
NOTHING_OUT = """
table ip nothing_out {
  chain forward { type filter hook forward priority -20; policy drop; }
}
"""
UNKNOWN_FLOWS = """
table ip unknown_flows {{
  chain forward {{
    type filter hook forward priority -20;
    tcp sport {{ {ports} }} drop
    tcp dport {{ {ports} }} drop
  }}
}}
"""
FOUND_DEAD_S = 6.0
"""1.5 s and a new connection on a quiet machine; TCP's own time limit is 8 s."""
OTHERS = {"console", "desktop", "nas"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with connected_lab(EXAMPLE, BLOCKED) as lab:
        yield lab
        print(lab.log("laptop", 80))


def over_tls(lab: Lab) -> set[str]:
    """Whom the laptop reaches over TLS."""
    return {other for one, other in pairs_by(lab, "relay-tls") if one == "laptop"}


def said(lab: Lab, *command: str) -> str:
    done = lab.node("laptop").attempt(["netctl", *command])
    return done.stdout + done.stderr


def tunnel(lab: Lab) -> dict[str, Any]:
    state = json.loads(lab.node("laptop").run(["netctl", "status", "-o", "json"]))["relay_tls"]
    assert isinstance(state, dict)
    return state


def connections(lab: Lab) -> int:
    """So often the laptop has reached the relay over TLS since its lab began, from its log.

    The age of a connection does not tell a new one: a busy machine takes longer to ask for it than a connection does.
    """
    return lab.log("laptop", 100_000).count("the relay is reached over TLS at")


def to_relay(lab: Lab) -> str:
    """The laptop's TCP connections to the mediator's machine."""
    port = lab.topology.mediators[0][0].port
    return lab.node("laptop").run(["ss", "-tn", "state", "established", "dport", "=", f":{port}"])


def set_kind(lab: Lab, box: str, kind: NatKind) -> None:
    wan = next(one.wan for one in lab.topology.boxes if one.name == box)
    lab.network.boxes[box].run(["nft", "-f", "-"], ruleset(kind, wan))


def test_everybody_is_reached_over_tls(lab: Lab) -> None:
    wait_for("the laptop reaches all over TLS", lambda: over_tls(lab) == OTHERS)
    wait_for("everybody answers", lambda: None not in ping_all(lab).values())
    wait_for(
        "the mediator's ports for UDP were asked in vain", lambda: "UDP is blocked" in said(lab, "status")
    )
    assert "relay-tls" in said(lab, "status")
    wait_for(
        "its round trip is known", lambda: "a ping through it takes" in said(lab, "why", "laptop", "nas")
    )
    assert "UDP is blocked: packets go over TLS to" in said(lab, "doctor")
    why = said(lab, "why", "laptop", "nas")
    assert "path: relay-tls" in why
    assert re.search(r"a ping through it takes [0-9.]+ ms", why)
    assert "UDP is blocked" in why


def test_bulk_leaves_room_for_pings(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    """A stream of TCP through the tunnel between two members who both are behind TLS, with pings beside it."""
    laptop, desktop = lab.node("laptop"), lab.node("desktop")
    server = desktop.popen(["iperf3", "-s", "-1", "-p", "5555"])
    wait_for("iperf3 listens", lambda: "5555" in desktop.attempt(["ss", "-ltn"]).stdout)
    name = host_name("desktop", "lan-party")
    client = laptop.popen(["iperf3", "-c", name, "-p", "5555", "-t", "5", "-J"])
    time.sleep(1)
    pings = laptop.attempt(["ping", "-n", "-q", "-c", "60", "-i", "0.05", name]).stdout
    result = json.loads(client.communicate(timeout=BUSY_S)[0])
    server.communicate(timeout=BUSY_S)
    mbit = result["end"]["sum_received"]["bits_per_second"] / 1e6
    found = re.search(r"= [\d.]+/([\d.]+)/([\d.]+)/", pings)
    received = re.search(r"(\d+) received", pings)
    assert found is not None, pings
    assert received is not None, pings
    record_property("throughput_mbit_s", mbit)
    print(
        f"TLS at both ends: {mbit:.0f} Mbit/s; pings beside it: {found[1]} ms mean, {found[2]} ms at most, "
        f"{received[1]} of 60"
    )
    assert mbit > 20
    assert int(received[1]) >= 50
    assert float(found[1]) < 250


def test_a_killed_connection_comes_back(lab: Lab) -> None:
    relay_port = lab.topology.mediators[0][0].port
    with steady_pings(lab, [("laptop", "nas")], lost_allowed=60):  # three seconds
        before = connections(lab)
        lab.node("laptop").run(["ss", "-K", "dport", "=", f":{relay_port}"])
        wait_for("it makes another connection", lambda: connections(lab) > before)
        wait_for("and reaches all", lambda: tunnel(lab)["state"] == "up" and over_tls(lab) == OTHERS)


def test_udp_comes_and_goes(lab: Lab) -> None:
    with steady_pings(lab, [("laptop", "nas"), ("nas", "laptop")], lost_allowed=2):
        set_kind(lab, "office", NatKind.PORT_RESTRICTED)
        began = time.monotonic()
        wait_for("UDP is found", lambda: not over_tls(lab))
        print(f"UDP again after {time.monotonic() - began:.1f} s")
        wait_for("and a direct path", lambda: ("laptop", "nas") in pairs_by(lab, "direct"))
        print(f"direct after {time.monotonic() - began:.1f} s")
    with steady_pings(lab, [("laptop", "nas")], lost_allowed=200):  # ten seconds
        set_kind(lab, "office", NatKind.UDP_BLOCKED)
        began = time.monotonic()
        wait_for("TLS carries again", lambda: "nas" in over_tls(lab))
        print(f"TLS again after {time.monotonic() - began:.1f} s")
    wait_for("all are back on TLS", lambda: over_tls(lab) == OTHERS)


def test_a_host_that_moves_keeps_its_pairs(lab: Lab) -> None:
    """Its TCP connection dies without a word when its address goes."""
    laptop = lab.node("laptop")
    old, new = "192.168.1.10/24", "192.168.1.77/24"
    for there, gone in ((new, old), (old, new)):
        with steady_pings(lab, [("laptop", "nas")], lost_allowed=100):  # five seconds
            lines = (
                f"addr del {gone} dev eth0\naddr add {there} dev eth0\nroute add default via 192.168.1.1\n"
            )
            laptop.run(["ip", "-batch", "-"], lines)
            wait_for("a new connection", lambda: f"{there[:-3]}:" in to_relay(lab))  # noqa: B023
            wait_for("TLS carries again", lambda: over_tls(lab) == OTHERS)
            time.sleep(1)


def test_a_connection_that_is_dead_since_the_routes_changed_is_left_in_two_seconds(lab: Lab) -> None:
    """Addresses stay. First the connection still works, and is kept; then the new way drops what it has not begun."""
    laptop, office = lab.node("laptop"), lab.network.boxes["office"]

    def routes_change() -> None:
        for what in ("add", "del"):
            laptop.run(["ip", "route", what, "default", "via", "192.168.1.1", "metric", "500"])

    wait_for("all is well before", lambda: over_tls(lab) == OTHERS)
    began = time.monotonic()
    routes_change()
    time.sleep(PROOF_S + 0.5)
    passed = time.monotonic() - began
    assert tunnel(lab)["since_s"] > passed, "it has answered, and is the same"
    ports = ", ".join(re.findall(r"192\.168\.1\.10:(\d+)", to_relay(lab)))
    office.run(["nft", "-f", "-"], UNKNOWN_FLOWS.format(ports=ports))
    try:
        before, began = connections(lab), time.monotonic()
        routes_change()
        wait_for("a new connection", lambda: connections(lab) > before)
        passed = time.monotonic() - began
        took = passed - tunnel(lab)["since_s"]  # or more: its age is asked for later
        print(f"a new connection after {took:.1f} s")
        assert took < FOUND_DEAD_S, "it was 8 s"
        wait_for("TLS carries again", lambda: over_tls(lab) == OTHERS)
        assert "does not answer since" in lab.log("laptop", 400)
    finally:
        office.run(["nft", "delete", "table", "ip", "unknown_flows"])


def test_members_over_tls_survive_a_restart_of_the_mediator(lab: Lab) -> None:
    lab.stop("mediator")
    relay = lab.node("mediator").spawn(
        [program("netctl-mediator"), "relay", "--document", DOCUMENT_PATH, "--state", STATE_PATH],
        "/run/relay.log",
    )
    lab.start_mediator(relay=False)
    wait_for("everybody has returned", lambda: everybody_connected(lab))
    wait_for(
        "TLS to the relay of its own", lambda: over_tls(lab) == OTHERS and None not in ping_all(lab).values()
    )
    before = tunnel(lab)
    with steady_pings(lab, [("laptop", "nas"), ("laptop", "desktop"), ("desktop", "laptop")]):
        lab.stop("mediator")
        wait_for("everybody notices", lambda: "connected" not in mediator_states(lab).values())
        lab.start_mediator(relay=False)
        wait_for("everybody returns by itself", lambda: everybody_connected(lab))
    after = tunnel(lab)
    assert after["since_s"] > before["since_s"], "it is the same connection"
    lab.stop("mediator")
    lab.node("mediator").kill(relay, signal.SIGTERM)
    lab.start_mediator()
    wait_for("all are back", lambda: over_tls(lab) == OTHERS and None not in ping_all(lab).values())


def test_all_through_an_http_proxy(lab: Lab) -> None:
    """The office lets nothing out but what its proxy fetches."""
    box = next(box for box in lab.topology.boxes if box.name == "office")
    router, laptop = lab.network.boxes["office"], lab.node("laptop")
    proxy = [sys.executable, connectproxy.__file__, "3128", "guest:let me in"]
    pid = router.spawn(proxy, "/run/proxy.log")
    router.run(["nft", "-f", "-"], NOTHING_OUT)
    try:
        lab.stop("laptop")
        environment = f"HTTPS_PROXY=http://guest:let%20me%20in@{box.gateway}:3128"
        lab.services["laptop"] = laptop.spawn(["env", environment, program("netctl"), "agent"], LOG_PATH)
        wait_for("all are reached through the proxy", lambda: over_tls(lab) == OTHERS)
        wait_for("and answer", lambda: None not in ping_all(lab).values())
        assert tunnel(lab)["proxy"] == f"{box.gateway}:3128"
        assert f"through the proxy {box.gateway}:3128" in said(lab, "doctor")
        assert "guest" not in said(lab, "doctor"), "the password is nobody's business"
    finally:
        router.kill(pid)
        router.run(["nft", "delete", "table", "ip", "nothing_out"])


def test_with_an_engine_that_knows_nothing_of_this(lab: Lab) -> None:
    laptop = lab.node("laptop")
    lab.stop("laptop")
    laptop.run(["ip", "link", "del", "nctl0"])
    other = ["env", "NETCTL_ENGINE=wireguard-go"]
    lab.services["laptop"] = laptop.spawn([*other, program("netctl"), "agent"], LOG_PATH)
    wait_for("the agent takes commands", lambda: "wireguard-go" in said(lab, "status"))
    wait_for("all are reached", lambda: over_tls(lab) == OTHERS)
    wait_for("and answer", lambda: None not in ping_all(lab).values())
