"""The lab's NATs do what their names say, shown by plain UDP programs (RFC 4787 §4, §5)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from netctl.config import load_document
from netctl.lab.namespaces import Holder, Node, check_machine
from netctl.lab.nat import NatKind
from netctl.lab.topology import Nat, make_topology
from netctl.lab.wiring import Network, build
from netctl.model.errors import LocalError
from tests.support.patience import BUSY_S, wait_for
from tests.support.processes import namespace_of, processes_in

pytestmark = pytest.mark.netns

DOCUMENT = """
apiVersion: netctl/v1
mediators:
  - {url: "netctl://m1.example.net:8443", identity: ["ed25519:EKiLXYu8TJJvIcGdsUa9noi/8w5txrMbyNJninfBBJo="]}
  - {url: "netctl://m2.example.net:8443", identity: ["ed25519:RLUqQjGk080fM88rZF/mai05tuts09GYn/20yDrmuV0="]}
members:
  inside:
    wireguard: "oN9b+VcZct4Fqc0LWGekk0FboKkwHmJhBGo/bJHOfQo="
    identity: "ed25519:HGSfeLvLC6OYHUtA4alcVWGojgYfHxEXhhlpF8Hjiww="
networks:
  lan: {mode: lan, ipv4: 10.9.0.0/24, members: ["*"]}
"""

ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    data, source = s.recvfrom(2048)
    if data == b"who":
        s.sendto(("%s:%d" % source).encode(), source)
    else:  # "send ADDRESS PORT": a packet that nobody asked for
        _, host, port = data.decode().split()
        s.sendto(b"unasked", (host, int(port)))
        s.sendto(b"done", source)
"""

ASK = """
import json, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 4000))
s.settimeout(float(sys.argv[1]))
def ask(data, server):
    s.sendto(data.encode(), server)
    try:
        return s.recvfrom(2048)[0].decode()
    except TimeoutError:
        return None
m1, m2 = ("203.0.113.10", 7001), ("203.0.113.11", 7001)
seen = [ask("who", server) for server in (m1, ("203.0.113.10", 7002), m2)]
print(json.dumps(seen), flush=True)
s.settimeout(0.7)
for line in sys.stdin:   # wait for packets
    got = None
    try:
        got = s.recvfrom(2048)[0].decode()
    except TimeoutError:
        pass
    print(json.dumps(got), flush=True)
"""

POKE = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[1])))
s.sendto(b"unasked", (sys.argv[2], int(sys.argv[3])))
"""


@pytest.fixture(scope="module", autouse=True)
def _machine() -> None:
    try:
        check_machine()
    except LocalError as error:
        pytest.skip(str(error))


@contextmanager
def internet(kind: NatKind, **nats: Nat) -> Iterator[Network]:
    holder = Holder.start()
    try:
        wanted = nats or {"nat": Nat(kind, ("inside",))}
        topology = make_topology(load_document(DOCUMENT).document, wanted)
        yield build(holder, topology, {}, lambda text: None)
    finally:
        holder.destroy()


@contextmanager
def program(node: Node, source: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = node.popen([sys.executable, "-I", "-c", source, *arguments])
    with process:
        try:
            yield process
        finally:
            process.kill()


def behaviour(kind: NatKind, **nats: Nat) -> tuple[list[str | None], dict[str, bool]]:
    """What three servers saw, and which unasked packets came in: same port, other port, other address."""
    import json

    with internet(kind, **nats) as net, ExitStack() as stack:
        for name, ports in (("mediator", (7001, 7002)), ("mediator2", (7001,))):
            for port in ports:
                server = stack.enter_context(program(net.mediators[name], ECHO, str(port)))
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
        # Whom nobody answers waits for that; else the servers answer when they get a core.
        patience = 0.7 if kind is NatKind.UDP_BLOCKED else BUSY_S
        inside = stack.enter_context(program(net.members["inside"], ASK, str(patience)))
        assert inside.stdin is not None
        assert inside.stdout is not None
        seen: list[str | None] = json.loads(inside.stdout.readline())
        came: dict[str, bool] = {}
        if seen[0] is None:
            return seen, came
        host, port_text = seen[0].split(":")
        # An address asked nothing of: the lab's router itself, 203.0.113.1.
        pokes = {"address": None, "port": net.mediators["mediator"]}
        for what, node in pokes.items():
            command = [sys.executable, "-I", "-c", POKE, "9999", host, port_text]
            argv = net.holder.enter() + command if node is None else node.command(command)
            subprocess.run(argv, check=True)
            inside.stdin.write("\n")
            inside.stdin.flush()
            came[what] = json.loads(inside.stdout.readline()) == "unasked"
        return seen, came


@pytest.mark.parametrize(
    ("kind", "stranger", "other_port"),
    [
        (NatKind.OPEN, True, True),
        (NatKind.FIREWALL, False, False),
        (NatKind.FULL_CONE, True, True),
        (NatKind.ADDRESS_RESTRICTED, False, True),
        (NatKind.PORT_RESTRICTED, False, False),
        (NatKind.PORT_CHANGED, False, False),
    ],
)
def test_endpoint_independent_mapping(kind: NatKind, stranger: bool, other_port: bool) -> None:
    seen, came = behaviour(kind)
    assert None not in seen
    assert len(set(seen)) == 1, seen
    assert came == {"address": stranger, "port": other_port}


def ports_of(seen: list[str | None]) -> list[int]:
    return [int(str(place).rpartition(":")[2]) for place in seen]


def test_port_changed_takes_a_port_of_the_box() -> None:
    seen, _ = behaviour(NatKind.PORT_CHANGED)
    assert all(61000 <= port <= 65000 for port in ports_of(seen)), seen


def test_address_dependent_maps_each_address_to_another_port() -> None:
    seen, came = behaviour(NatKind.ADDRESS_DEPENDENT)
    first, same_address, other_address = ports_of(seen)
    assert first == same_address != other_address
    assert came == {"address": False, "port": False}


def test_symmetric_sequential_takes_the_next_port() -> None:
    seen, came = behaviour(NatKind.SYMMETRIC_SEQUENTIAL)
    first, second, third = ports_of(seen)
    assert (second - first, third - second) == (1, 1)
    assert came == {"address": False, "port": False}


def test_port_block_stays_within_its_block() -> None:
    seen, came = behaviour(NatKind.PORT_BLOCK)
    ports = ports_of(seen)
    assert all(40000 <= port <= 40127 for port in ports), seen
    # Of 128 ports, three random ones are all the same once in 16,384 runs.
    assert len(set(ports)) > 1, seen
    assert came == {"address": False, "port": False}


def test_symmetric_maps_each_destination_to_another_port() -> None:
    seen, came = behaviour(NatKind.SYMMETRIC_RANDOM)
    assert None not in seen
    assert len(set(seen)) == 3, seen
    assert came == {"address": False, "port": False}


def test_symmetric_full_cone_maps_each_destination_to_another_port_and_lets_anybody_in() -> None:
    seen, came = behaviour(NatKind.SYMMETRIC_FULL_CONE)
    assert None not in seen
    assert len(set(seen)) == 3, seen
    assert came == {"address": True, "port": True}


@pytest.mark.parametrize(
    ("home", "carrier", "stranger", "other_port"),
    [
        (NatKind.FULL_CONE, NatKind.FULL_CONE, True, True),
        (NatKind.FULL_CONE, NatKind.ADDRESS_RESTRICTED, False, True),
        (NatKind.ADDRESS_RESTRICTED, NatKind.FULL_CONE, False, True),
        (NatKind.PORT_RESTRICTED, NatKind.FULL_CONE, False, False),
    ],
)
def test_two_layers_let_in_what_both_let_in(
    home: NatKind, carrier: NatKind, stranger: bool, other_port: bool
) -> None:
    layers = {"home": Nat(home, ("inside",), behind="carrier"), "carrier": Nat(carrier, ())}
    seen, came = behaviour(home, **layers)
    assert set(seen) == {"203.0.113.100:4000"}
    assert came == {"address": stranger, "port": other_port}


def test_two_layers_map_as_the_outer_one() -> None:
    home = Nat(NatKind.PORT_RESTRICTED, ("inside",), behind="carrier")
    seen, came = behaviour(home.kind, home=home, carrier=Nat(NatKind.PORT_CHANGED, ()))
    assert len(set(seen)) == 1
    assert 61000 <= ports_of(seen)[0] <= 65000
    assert came == {"address": False, "port": False}
    seen, came = behaviour(home.kind, home=home, carrier=Nat(NatKind.SYMMETRIC_RANDOM, ()))
    assert len(set(seen)) == 3
    assert came == {"address": False, "port": False}


def test_udp_blocked_blocks_udp_and_nothing_else() -> None:
    seen, _ = behaviour(NatKind.UDP_BLOCKED)
    assert seen == [None, None, None]
    with internet(NatKind.UDP_BLOCKED) as net:
        net.members["inside"].run(["ping", "-c1", "-W20", "203.0.113.10"])
        with program(
            net.mediators["mediator"],
            "import socket; s = socket.create_server(('', 443));"
            "print('ready', flush=True); s.accept()[0].close()",
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            connect = "import socket; socket.create_connection(('203.0.113.10', 443), 60).close()"
            net.members["inside"].run([sys.executable, "-I", "-c", connect])


def test_nothing_is_left_when_the_owner_dies() -> None:
    """SIGKILL, so that nothing of ours gets to clean up: the kernel does it."""
    script = (
        "from netctl.lab.namespaces import Holder\n"
        "h = Holder.start(); n = h.add_node('x', '')\n"
        "print(h.pid, n.spawn(['sleep', '1000'], '/run/log'), flush=True)\n"
        "import signal; signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        holder = int(owner.stdout.readline().split()[0])
        space = namespace_of(holder, "pid")
        assert processes_in(space)
        owner.kill()
    wait_for("all of it ends", lambda: not processes_in(space))
