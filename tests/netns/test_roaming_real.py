"""The life of a path: it dies, its ends move, its NATs forget; nobody restarts anything. Real agents in a lab."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from netctl.lab.internet import RUN_PATH, Lab, program, status_of, statuses_of
from netctl.lab.probes import host_name
from netctl.lab.rebind import forget_flows, move_wan
from netctl.model.errors import EngineError
from netctl.model.hoststate import WIREGUARD_LINK
from netctl.paths import constants as c
from tests.netns.roaming import Silence, pings
from tests.support.lablife import PARTY, connected_lab, pairs_by
from tests.support.patience import wait_for
from tests.support.processes import EVERY

pytestmark = [pytest.mark.netns, pytest.mark.lab]

NATS = """
nats:
  home: {kind: port-restricted, members: [laptop]}
  work: {kind: port-restricted, members: [desktop]}
"""
BETWEEN = """
table ip between {{
  chain f {{
    type filter hook forward priority -200
    ip saddr {other} meta l4proto 17 drop
    ip daddr {other} meta l4proto 17 drop
  }}
}}
"""
DROPS = """
table ip drops {{
  chain f {{
    type filter hook forward priority -200
    ip saddr {other} meta l4proto 17 @th,64,32 0x04000000 counter drop
  }}
}}
"""
"""What a box does that takes transport messages of WireGuard for what they are; probes and STUN pass."""
ROAMED = """
table ip roamed {{
  chain o {{ type filter hook output priority 0; ip daddr {relay} meta l4proto 17 @th,64,32 0x04000000 counter; }}
}}
"""
"""Transport messages to the relay, on the host itself."""
BOTH = {("laptop", "desktop"), ("desktop", "laptop")}
LOOK = """
import json, os, socket, sys, time
def ask(request):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        connection.sendall(json.dumps(request).encode() + b"\\n")
        return json.loads(connection.makefile().readline())["result"]
print(os.getpid())
seen = -1
while True:
    seen = ask({"op": "watch", "seen": seen, "wait_s": 1.0})["changes"]
    peer = ask({"op": "status"})["peers"][0]
    print(json.dumps({"at_s": time.time(), **{key: peer[key] for key in ("answers", "path", "rtt_ms")}}))
"""
CABLE = "ip link set l0"
SEEN_S = 2.0
STOPPED_S = float(os.environ.get("NETCTL_STOPPED_S", "12"))
AWAKE_S = 5.0
"""From where a host that stood still goes on to the first ping that is answered: a second until it is noticed, and a
handshake."""
FALLBACK_S = 5.0
"""From the last answer on the dead path to the first over the relay."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with connected_lab(PARTY, NATS) as lab:
        yield lab


@pytest.fixture(autouse=True)
def direct(lab: Lab) -> Iterator[list[int]]:
    """Every test begins with a direct pair, and ends with the processes that it began with."""
    wait_for("both are direct", lambda: set(pairs_by(lab, "direct")) == BOTH)
    before = sorted(lab.services.values())
    yield before
    assert sorted(lab.services.values()) == before
    assert all(lab.node(name).running(lab.services[name]) for name in ("laptop", "desktop"))


def path_of(lab: Lab, name: str) -> Any:
    return statuses_of(lab.network.members)[name]["peers"][0]


def all_direct(lab: Lab) -> bool:
    return set(pairs_by(lab, "direct")) == BOTH


def desktop(_: Lab) -> str:
    return host_name("desktop", "party")


def box(lab: Lab, name: str) -> Any:
    return next(found for found in lab.topology.boxes if found.name == name)


def told(what: str, heard: Silence) -> None:
    print(f"{what}: silent for {heard.longest_s:.2f} s, {heard.lost} pings lost")


def test_the_lab_knows_of_an_agent_what_the_command_prints(lab: Lab) -> None:
    printed = json.loads(lab.node("laptop").run([program("netctl"), "status", "-o", "json"]))
    known = status_of(lab.node("laptop"))
    assert known.keys() == printed.keys()
    assert (known["member"], known["networks"]) == ("laptop", printed["networks"])
    with pytest.raises(EngineError, match="status of home: no agent runs"):
        status_of(lab.node("home"))


def test_a_firewall_put_between_is_answered_by_the_relay_within_five_seconds(lab: Lab) -> None:
    rules = BETWEEN.format(other=box(lab, "work").wan)
    with pings(lab, "laptop", desktop(lab)) as heard:
        time.sleep(2)
        lab.node("home").run(["nft", "-f", "-"], rules)
        wait_for("both are relayed", lambda: set(pairs_by(lab, "relay-udp")) == BOTH)
        time.sleep(1)
    told("direct path cut", heard)
    assert heard.longest_s <= FALLBACK_S
    with pings(lab, "laptop", desktop(lab)) as back:
        time.sleep(1)
        lab.node("home").run(["nft", "delete", "table", "ip", "between"])
        wait_for("both are direct again", lambda: all_direct(lab))
        time.sleep(1)
    told("and open again", back)
    assert back.lost <= 1  # the one on its way when ping ends


@contextmanager
def looking(lab: Lab, name: str) -> Iterator[Any]:
    """Somebody who looks at a member's agent as the page does; what it sees, line by line, and when."""
    node = lab.node(name)
    viewer = node.popen([sys.executable, "-uc", LOOK, f"{RUN_PATH}/agent.sock"])
    assert viewer.stdout is not None
    pid = int(viewer.stdout.readline())
    try:
        yield map(json.loads, viewer.stdout)
    finally:
        node.kill(pid, 15)
        viewer.communicate()


def until(seen: Iterator[Any], answers: bool | None, path: str = "") -> Any:
    """The next sight of the peer that answers so, by a path that begins so."""
    return next(one for one in seen if one["answers"] is answers and one["path"].startswith(path))


def test_who_looks_sees_a_cut_and_its_end_within_two_seconds(lab: Lab) -> None:
    """The peer's cable is pulled out of its router. Over the relay it is asked through the tunnel."""
    with looking(lab, "laptop") as seen:
        until(seen, True, "direct")
        for away_s in (0.0, 5.0):
            began = float(lab.node("work").run(["sh", "-c", f"date +%s.%N; {CABLE} down"]))
            cut_s = until(seen, False)["at_s"] - began
            time.sleep(away_s)
            began = float(lab.node("work").run(["sh", "-c", f"date +%s.%N; {CABLE} up"]))
            back_s = next(one for one in seen if one["answers"] and one["at_s"] > began)["at_s"] - began
            print(f"cut seen after {cut_s:.2f} s, back after {back_s:.2f} s")
            assert cut_s < SEEN_S
            assert back_s < SEEN_S
        until(seen, True, "direct")
        lab.node("home").run(["nft", "-f", "-"], BETWEEN.format(other=box(lab, "work").wan))
        relayed = until(seen, True, "relay")
        print(f"round trip over the relay: {relayed['rtt_ms']:.1f} ms")
        assert relayed["rtt_ms"] > 0
        lab.node("home").run(["nft", "delete", "table", "ip", "between"])
    wait_for("nobody is asked any more", lambda: path_of(lab, "laptop")["answers"] is None)


def endpoint(lab: Lab, name: str) -> str:
    """Where the engine of a member sends to just now."""
    return lab.node(name).run(["wg", "show", WIREGUARD_LINK, "endpoints"]).split()[1]


def straight(lab: Lab) -> bool:
    """Whether both are direct, and their engines send to where their paths lead."""
    engines = {name: endpoint(lab, name) for name in lab.network.members}
    return all_direct(lab) and engines == {name: path_of(lab, name)["endpoint"] for name in engines}


def test_a_packet_that_comes_late_over_the_relay_moves_nobody_for_long(lab: Lab) -> None:
    lab.node("home").run(["nft", "-f", "-"], BETWEEN.format(other=box(lab, "work").wan))
    wait_for("both are relayed", lambda: set(pairs_by(lab, "relay-udp")) == BOTH)
    relay = path_of(lab, "desktop")["endpoint"]
    began = time.monotonic()
    lab.node("home").run(["nft", "delete", "table", "ip", "between"])
    wait_for("both are direct again, and the engines know", lambda: straight(lab))
    key = lab.node("desktop").run(["wg", "show", WIREGUARD_LINK, "peers"]).strip()
    # What the desktop sends next comes to the laptop over the relay, which is still bound.
    late = f"wg set {WIREGUARD_LINK} peer {key} endpoint {relay} && ping -c 1 -W 20 {host_name('laptop', 'party')}"
    lab.node("laptop").run(["nft", "-f", "-"], ROAMED.format(relay=relay.rpartition(":")[0]))
    for number in range(5):
        if number and time.monotonic() - began > c.RELAY_KEEP / 2:
            break  # soon the relay is let go, and what is sent there is lost
        sent = time.monotonic()
        said = lab.node("desktop").attempt(["sh", "-c", late]).stdout
        assert " 0% packet loss" in said, f"{said}\n{lab.node('desktop').run(['wg'])}"
        wait_for("both are back", lambda: straight(lab))
        print(f"a late relayed packet: undone after {time.monotonic() - sent:.2f} s")
    # WireGuard did roam, as its answer says, and was brought back: by then `wg show` may be too late to see it.
    assert "counter packets 0 " not in lab.node("laptop").run(["nft", "list", "table", "ip", "roamed"])
    lab.node("laptop").run(["nft", "delete", "table", "ip", "roamed"])


def test_a_nat_that_forgets_its_flows(lab: Lab) -> None:
    with pings(lab, "laptop", desktop(lab)) as heard:
        time.sleep(1)
        forget_flows(lab.node("work"))
        time.sleep(8)
        wait_for("both are direct", lambda: all_direct(lab))
        time.sleep(1)
    told("flows of one NAT forgotten", heard)
    assert heard.longest_s <= FALLBACK_S


def test_a_host_that_gets_another_address(lab: Lab) -> None:
    home, laptop = box(lab, "home"), lab.node("laptop")
    old = home.members[0].address
    new = old + 50
    with pings(lab, "laptop", desktop(lab)) as heard:
        time.sleep(1)
        lines = [
            f"addr del {old}/{home.lan.prefixlen} dev eth0",
            f"addr add {new}/{home.lan.prefixlen} dev eth0",
            f"route replace default via {home.gateway}",
        ]
        laptop.run(["ip", "-batch", "-"], "\n".join(lines) + "\n")
        time.sleep(8)
        wait_for("both are direct", lambda: all_direct(lab))
        time.sleep(1)
    told("another address behind the NAT", heard)
    assert heard.longest_s <= FALLBACK_S


def test_a_nat_that_gets_another_address(lab: Lab) -> None:
    home, node = box(lab, "home"), lab.node("home")
    new = home.wan + 50
    with pings(lab, "laptop", desktop(lab)) as heard:
        time.sleep(1)
        move_wan(node, home, new)
        time.sleep(8)
        wait_for("both are direct", lambda: all_direct(lab))
        time.sleep(1)
    told("another address of the NAT", heard)
    assert heard.longest_s <= FALLBACK_S
    assert path_of(lab, "desktop")["endpoint"].startswith(f"{new}:")


def test_an_interface_that_goes_down_and_comes_up(lab: Lab) -> None:
    home, laptop = box(lab, "home"), lab.node("laptop")
    down_s = 4.0
    with pings(lab, "laptop", desktop(lab)) as heard:
        time.sleep(1)
        laptop.run(["ip", "link", "set", "eth0", "down"])
        time.sleep(down_s)
        laptop.run(["ip", "link", "set", "eth0", "up"])
        laptop.run(["ip", "route", "replace", "default", "via", str(home.gateway)])
        time.sleep(8)
        wait_for("both are direct", lambda: all_direct(lab))
        time.sleep(1)
    told(f"link down for {down_s:.0f} s", heard)
    assert heard.longest_s <= down_s + FALLBACK_S


def test_a_host_that_stood_still(lab: Lab) -> None:
    """As in suspend: with `NETCTL_STOPPED_S=200` its session and the patience of the mediator are over too."""
    node = lab.node("laptop")
    pids = [line.split()[0] for line in node.run(list(EVERY)).splitlines() if _is_laptops(node, line)]
    assert len(pids) >= 2, "an agent and an engine"
    with pings(lab, "desktop", host_name("laptop", "party")) as heard:
        time.sleep(1)
        node.run(["kill", "-STOP", *pids])
        time.sleep(STOPPED_S)
        node.run(["kill", "-CONT", *pids])
        woke = time.time()
        wait_for("both are direct again", lambda: all_direct(lab))
        time.sleep(4)
    answered = min(at for at in heard.answers if at > woke)
    print(f"stood still for {STOPPED_S:.0f} s: answered {answered - woke:.1f} s after that")
    assert answered - woke <= AWAKE_S


def _is_laptops(node: Any, line: str) -> bool:
    """Whether a line of `EVERY` is the laptop's agent or engine."""
    pid = line.split()[0]
    ours = node.attempt(["sh", "-c", f"[ /proc/{pid}/ns/net -ef /proc/self/ns/net ]"]).returncode == 0
    return ours and ("netctl agent" in line or "netctl-wg" in line or "netctl.wg" in line)


def test_a_box_that_drops_data_and_passes_probes_is_answered_by_the_relay_within_five_seconds(
    lab: Lab,
) -> None:
    """One direction is enough. Last in this file: such a path is left alone for a minute."""
    with pings(lab, "laptop", desktop(lab)) as heard:
        time.sleep(2)
        lab.node("home").run(["nft", "-f", "-"], DROPS.format(other=box(lab, "work").wan))
        wait_for("both are relayed", lambda: set(pairs_by(lab, "relay-udp")) == BOTH)
        time.sleep(3)
    told("data dropped, probes passed", heard)
    assert set(pairs_by(lab, "relay-udp")) == BOTH
    assert heard.longest_s <= FALLBACK_S
    assert "packets do not arrive by it" in path_of(lab, "laptop")["hindrance"]
    status = statuses_of(lab.network.members)["desktop"]
    assert any(
        "laptop goes by relay-udp" in line and "do not arrive" in line for line in status["conditions"]
    )
    lab.node("home").run(["nft", "delete", "table", "ip", "drops"])
