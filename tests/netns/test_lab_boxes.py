"""What the lab's boxes do beside their kind of NAT, measured with plain UDP sockets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from netctl.config import load_document
from netctl.lab.namespaces import Node
from netctl.lab.nat import NatKind
from netctl.lab.properties import Ipv6, Properties
from netctl.lab.rebind import forget_flows, move_wan
from netctl.lab.topology import Nat, Topology, make_topology
from netctl.lab.wiring import Network, build
from tests.support.lablife import PARTY, lab_holder
from tests.support.patience import BUSY_S, wait_for

pytestmark = pytest.mark.netns

PUBLIC = "203.0.113.10"
"""The mediator's host: a server on the public segment."""
HEARD_S = 0.5
"""Packets between namespaces take microseconds; a busy machine is slower."""

SOCKET = """
import json, select, socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
for line in sys.stdin:
    host, port, wait = json.loads(line)
    if host is not None:
        s.sendto(b"x", (host, port))
    got = None
    if wait and select.select([s], [], [], wait)[0]:
        try:
            got = list(s.recvfrom(2048)[1][:2])
        except ConnectionError:
            pass
    print(json.dumps(got), flush=True)
"""


class Socket:
    """A UDP socket on a host of the lab."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def _do(self, host: str | None, port: int, wait: float) -> tuple[str, int] | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([host, port, wait]) + "\n")
        self._process.stdin.flush()
        got: Any = json.loads(self._process.stdout.readline())
        return None if got is None else (got[0], got[1])

    def send(self, place: tuple[str, int]) -> None:
        self._do(*place, 0)

    def heard(self, within_s: float = HEARD_S) -> tuple[str, int] | None:
        """Where a packet came from, None: there was none."""
        return self._do(None, 0, within_s)

    def hears(self) -> tuple[str, int]:
        """The same of a packet that is to come, as long as a busy machine needs."""
        found = self.heard(BUSY_S)
        assert found is not None
        return found


class Lab:
    """A network without agents: `laptop` and `desktop` behind boxes, and sockets on all hosts."""

    def __init__(self, topology: Topology, network: Network, stack: ExitStack) -> None:
        self.topology, self.network = topology, network
        self._stack = stack

    def node(self, name: str) -> Node:
        return {**self.network.members, **self.network.mediators, **self.network.boxes}[name]

    def socket(self, host: str, port: int = 4000, address: str = "0.0.0.0") -> Socket:
        process = self.node(host).popen([sys.executable, "-I", "-c", SOCKET, address, str(port)])
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return Socket(process)


@contextmanager
def network(**nats: Nat) -> Iterator[Lab]:
    with lab_holder() as holder:
        topology = make_topology(load_document(PARTY).document, nats)
        with ExitStack() as stack:
            yield Lab(topology, build(holder, topology, {}, lambda text: None), stack)


def seen_by(server: Socket, client: Socket, port: int = 7001) -> tuple[str, int] | None:
    """The client's mapping, as a public server sees it; None: it heard an error."""
    client.send((PUBLIC, port))
    return server.heard(BUSY_S)


BOTH = ("laptop", "desktop")
KINDS = (
    NatKind.FULL_CONE,
    NatKind.PORT_RESTRICTED,
    NatKind.PORT_CHANGED,
    NatKind.SYMMETRIC_RANDOM,
    NatKind.SYMMETRIC_FULL_CONE,
)


@pytest.mark.parametrize("kind", KINDS)
def test_hairpin(kind: NatKind) -> None:
    """By the external address, seen under the external address (RFC 4787 §6), and only with `hairpin`."""
    with network(home=Nat(kind, BOTH, None, Properties(hairpin=True, isolated=True))) as lab:
        server, laptop, desktop = (
            lab.socket("mediator", 7001),
            lab.socket("laptop"),
            lab.socket("desktop", 5000),
        )
        outside = seen_by(server, laptop)
        own = seen_by(server, desktop)
        assert outside is not None
        assert own is not None
        desktop.send(outside)
        source = laptop.hears()
        assert source[0] == outside[0]
        if kind not in (NatKind.SYMMETRIC_RANDOM, NatKind.SYMMETRIC_FULL_CONE):
            assert source == own
        laptop.send(source)
        assert desktop.hears() == outside
        # A port without a mapping leads nowhere, and leaves nothing behind.
        desktop.send((outside[0], 3999))
        assert laptop.heard() is None
        assert desktop.heard() is None


@pytest.mark.parametrize("kind", KINDS)
def test_no_hairpin(kind: NatKind) -> None:
    with network(home=Nat(kind, BOTH)) as lab:
        server, laptop, desktop = (
            lab.socket("mediator", 7001),
            lab.socket("laptop"),
            lab.socket("desktop", 5000),
        )
        outside = seen_by(server, laptop)
        assert outside is not None
        desktop.send(outside)
        assert laptop.heard() is None


@pytest.mark.parametrize("isolated", [False, True])
def test_isolated_hosts_reach_the_world_and_not_each_other(isolated: bool) -> None:
    with network(home=Nat(NatKind.PORT_RESTRICTED, BOTH, None, Properties(isolated=isolated))) as lab:
        server, laptop, desktop = lab.socket("mediator", 7001), lab.socket("laptop"), lab.socket("desktop")
        desktop.send((str(lab.topology.boxes[0].members[0].address), 4000))
        assert (laptop.heard(HEARD_S if isolated else BUSY_S) is None) is isolated
        assert seen_by(server, laptop) is not None


@pytest.mark.parametrize("kind", [NatKind.PORT_RESTRICTED, NatKind.FULL_CONE])
@pytest.mark.parametrize("timeout_s", [1, None])
def test_idle_mappings_end(kind: NatKind, timeout_s: int | None) -> None:
    with network(home=Nat(kind, ("laptop",), None, Properties(udp_timeout_s=timeout_s))) as lab:
        server, laptop = lab.socket("mediator", 7001), lab.socket("laptop")
        outside = seen_by(server, laptop)
        assert outside is not None

        def comes_back() -> bool:
            server.send(seen_by(server, laptop) or outside)
            return laptop.heard() is not None

        wait_for("an answer within the second", comes_back)
        while laptop.heard() is not None:  # of more than one try
            pass
        for _ in range(4):  # two and a half seconds of silence
            assert laptop.heard() is None
        server.send(outside)
        assert (laptop.heard(BUSY_S if timeout_s is None else HEARD_S) is None) is (timeout_s is not None)


def test_thirty_seconds_are_thirty_seconds() -> None:
    with network(home=Nat(NatKind.FULL_CONE, ("laptop",), None, Properties(udp_timeout_s=30))) as lab:
        box = lab.node("home")
        for name in ("udp_timeout", "udp_timeout_stream"):
            assert box.run(["cat", f"/proc/sys/net/netfilter/nf_conntrack_{name}"]) == "30\n"
        assert "timeout 30s" in box.run(["nft", "list", "map", "ip", "lab_nat", "mappings"])


@pytest.mark.parametrize("percent", [0, 30])
def test_loss(percent: int) -> None:
    """Each way: of 400 pings 51 % come back at 30 % a way; outside 39 to 59 % once in 10,000 runs."""
    with network(
        home=Nat(NatKind.PORT_RESTRICTED, ("laptop",), None, Properties(loss_percent=percent))
    ) as lab:
        argv = ["ping", "-q", "-n", "-A", "-i", "0.002", "-c", "400", "-W", "3", PUBLIC]
        said = lab.node("laptop").attempt(argv).stdout
    found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    assert found is not None, said
    share = int(found.group(2)) / int(found.group(1))
    assert share == 1 if percent == 0 else 0.39 <= share <= 0.59, said


@pytest.mark.parametrize("ipv6", list(Ipv6))
def test_ipv6(ipv6: Ipv6) -> None:
    """Out and back in each case that has it; unasked packets from outside where no firewall is."""
    boxes = {
        f"{name}-box": Nat(NatKind.PORT_RESTRICTED, (name,), None, Properties(ipv6=ipv6)) for name in BOTH
    }
    with network(**boxes) as lab:
        said = lab.node("laptop").run(["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "global"])
        if ipv6 is Ipv6.NONE:
            assert not said
            return
        one, other = (str(box.lan6[10]) for box in lab.topology.boxes)
        laptop, desktop = lab.socket("laptop", 4000, "::"), lab.socket("desktop", 4000, "::")
        laptop.send((other, 4000))
        patience = BUSY_S if ipv6 is Ipv6.OPEN else HEARD_S
        assert desktop.heard(patience) == ((one, 4000) if ipv6 is Ipv6.OPEN else None)
        # Now the laptop's own firewall has a flow to let answers in by.
        desktop.send((one, 4000))
        assert laptop.hears() == (other, 4000)
        stranger = lab.socket("desktop", 4001, "::")
        stranger.send((one, 4000))
        assert laptop.heard(patience) == ((other, 4001) if ipv6 is Ipv6.OPEN else None)


@pytest.mark.parametrize("accepts", [False, True])
def test_an_early_packet_costs_the_port_where_the_wan_input_accepts(accepts: bool) -> None:
    with network(
        home=Nat(NatKind.PORT_RESTRICTED, ("laptop",), None, Properties(wan_input_accepts=accepts))
    ) as lab:
        server, laptop = lab.socket("mediator", 7001), lab.socket("laptop")
        server.send((str(lab.topology.boxes[0].wan), 4000))
        assert laptop.heard() is None
        seen = seen_by(server, laptop)
        if accepts and seen is None:  # the server heard the refusal of its early packet first
            seen = server.hears()
        assert seen is not None
        assert (seen[1] == 4000) is not accepts


@pytest.mark.parametrize("hairpin", [False, True])
def test_homes_behind_one_carrier_meet_where_it_hairpins(hairpin: bool) -> None:
    with network(
        one=Nat(NatKind.PORT_RESTRICTED, ("laptop",), "carrier"),
        other=Nat(NatKind.PORT_RESTRICTED, ("desktop",), "carrier"),
        carrier=Nat(NatKind.PORT_CHANGED, (), None, Properties(hairpin=hairpin)),
    ) as lab:
        server, laptop, desktop = lab.socket("mediator", 7001), lab.socket("laptop"), lab.socket("desktop")
        places = [seen_by(server, laptop), seen_by(server, desktop)]
        assert places[0] is not None
        assert places[1] is not None
        assert places[0][0] == places[1][0] == str(lab.topology.boxes[0].wan)
        laptop.send(places[1])
        assert desktop.heard() is None  # its home box has not seen it send there yet
        desktop.send(places[0])
        assert laptop.heard(BUSY_S if hairpin else HEARD_S) == (places[1] if hairpin else None)


def test_a_box_that_forgets_its_flows() -> None:
    for kind in (NatKind.PORT_RESTRICTED, NatKind.FULL_CONE):
        with network(home=Nat(kind, ("laptop",))) as lab:
            server, laptop = lab.socket("mediator", 7001), lab.socket("laptop")
            outside = seen_by(server, laptop)
            assert outside is not None
            forget_flows(lab.node("home"))
            server.send(outside)
            assert laptop.heard() is None
            assert seen_by(server, laptop) is not None


def test_a_box_that_gets_another_address() -> None:
    with network(home=Nat(NatKind.FULL_CONE, ("laptop",), None, Properties(hairpin=True))) as lab:
        server, laptop = lab.socket("mediator", 7001), lab.socket("laptop")
        home = lab.topology.boxes[0]
        assert seen_by(server, laptop) == (str(home.wan), 4000)
        new = home.wan + 50
        move_wan(lab.node("home"), home, new)
        assert seen_by(server, laptop) == (str(new), 4000)
        server.send((str(home.wan), 4000))
        assert laptop.heard() is None
