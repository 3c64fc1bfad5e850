"""A hop that drops what is too large, with its fragments, and says nothing: TCP goes through, both ways.

laptop ── home ── 1,400 or 1,300 ── carrier ── internet ── work ── desktop
"""

from __future__ import annotations

import json
import time
from functools import partial

import pytest

from netctl.lab.internet import Lab, statuses_of
from netctl.lab.nat import NatKind, ruleset
from netctl.lab.probes import host_name
from tests.netns.hardnats import direct_within, kinds, pair_behind, peer_of
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

SIZE = 1_000_000
PAIR = ("laptop", "desktop")
STALL_S = 60.0
"""The size is known some five seconds after a stall began; TCP, which doubles its time between tries, finds it at its
next one: after 13 s, or after 26, and once more where a busy machine is late."""
SILENT_HOP = """
table ip hole {
  chain before_reassembly { type filter hook prerouting priority -450; ip frag-off & 0x3fff != 0 counter drop; }
  chain said { type filter hook output priority 0; icmp type destination-unreachable counter drop; }
}
"""
APART = """
table ip apart {{
  chain forward {{
    type filter hook forward priority -20
    ip daddr {other} meta l4proto udp drop
    ip saddr {other} meta l4proto udp drop
  }}
}}
"""
TAKE = """
import socket
s = socket.create_server(("0.0.0.0", 7000)); print("up", flush=True)
c, _ = s.accept(); n = 0
while part := c.recv(65536): n += len(part)
print(n, flush=True)
"""
GIVE = """
import socket, sys
c = socket.create_connection((sys.argv[1], 7000), timeout=120)
c.sendall(bytes(int(sys.argv[2]))); c.close()
"""


def narrow(lab: Lab, size: int) -> None:
    """The link between the home's box and its carrier's."""
    lab.node("home").run(["ip", "link", "set", "wan", "mtu", str(size)])
    lab.node("carrier").run(["ip", "link", "set", "lan", "mtu", str(size)])


def transfer(lab: Lab, sender: str, taker: str) -> tuple[int, float]:
    """Bytes of TCP that arrived, and after how long."""
    ear = lab.node(taker).popen(["python3", "-c", TAKE])
    assert ear.stdout is not None
    assert ear.stdout.readline() == "up\n"
    began = time.monotonic()
    lab.node(sender).attempt(["python3", "-c", GIVE, host_name(taker, "party"), str(SIZE)], timeout_s=BUSY_S)
    ear_said = ear.communicate(timeout=BUSY_S)[0]
    return int(ear_said or 0), time.monotonic() - began


def pass_both_ways(lab: Lab, what: str, one: str = "desktop", other: str = "laptop") -> None:
    for sender, taker in ((one, other), (other, one)):
        came, took = transfer(lab, sender, taker)
        print(f"{what}, {sender} to {taker}: {came} bytes in {took:.1f} s")
        assert came == SIZE
        assert took < STALL_S


def knows(lab: Lab, name: str, size: int) -> bool:
    return bool(peer_of(lab, name)["mtu"] == size)


def routed(lab: Lab, name: str, size: int) -> bool:
    return f"mtu {size}" in lab.node(name).run(["ip", "route", "show", "proto", "202"])


def test_tcp_goes_through_both_ways_and_whoever_sends_says_how_large() -> None:
    """Whoever sends finds out at once; the other end with its own packets, of which it asks once a minute."""
    with pair_behind("port-restricted", "port-restricted", carrier="kind: port-restricted") as lab:
        assert direct_within(lab, BUSY_S) is not None, peer_of(lab, "laptop")
        for box in ("home", "carrier"):
            lab.node(box).run(["nft", "-f", "-"], SILENT_HOP)
        for size, fits, one, other in ((1400, 1328, "desktop", "laptop"), (1300, 1232, "laptop", "desktop")):
            narrow(lab, size)
            pass_both_ways(lab, str(size), one, other)
            wait_for(f"{one} knows", partial(knows, lab, one, fits))
            conditions = statuses_of(lab.network.members)[one]["conditions"]
            assert any(f"{other} carries packets of up to {fits} bytes" in line for line in conditions)
            why = json.loads(lab.node(one).attempt(["netctl", "why", one, other, "-o", "json"]).stdout)
            assert why["path"]["mtu"] == fits
            wait_for(f"{one}'s route knows", partial(routed, lab, one, fits))
        _by_the_relay_alone(lab)


def _by_the_relay_alone(lab: Lab) -> None:
    """No direct path joins the two: their size is found by what the relay sends on. Over TLS nothing is narrow."""
    home, work = (next(box for box in lab.topology.boxes if box.name == name) for name in ("home", "work"))
    narrow(lab, 1350)
    lab.network.boxes["home"].run(["nft", "-f", "-"], APART.format(other=work.wan))
    pings = lab.node("laptop").spawn(["ping", "-i", "0.2", host_name("desktop", "party")], "/run/pings")
    wait_for("the relay carries", lambda: set(kinds(lab).values()) == {"relay-udp"})
    for name in PAIR:
        wait_for(f"{name} knows", partial(knows, lab, name, 1280))
        wait_for(f"{name}'s route knows", partial(routed, lab, name, 1280))
    pass_both_ways(lab, "1350 by the relay")
    said = lab.node("desktop").attempt(["netctl", "doctor"]).stdout
    assert "carries packets of up to 1280 bytes" in " ".join(said.split())
    why = lab.node("desktop").attempt(["netctl", "why", "desktop", "laptop"]).stdout
    assert "path: relay-udp" in why
    assert "packets of up to 1280 bytes pass" in why

    lab.network.boxes["home"].run(["nft", "-f", "-"], ruleset(NatKind.UDP_BLOCKED, home.wan))
    wait_for("TLS carries", lambda: kinds(lab)["laptop"] == "relay-tls")
    wait_for("nothing is narrow", lambda: [peer_of(lab, name)["mtu"] for name in PAIR] == [None, None])
    pass_both_ways(lab, "1350 under TLS")
    lab.node("laptop").kill(pings)
