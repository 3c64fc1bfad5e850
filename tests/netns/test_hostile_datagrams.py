"""No datagram of a stranger ends a process or stops a loop: the same table for every UDP socket of ours."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.netkit import pings
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.wgside import LINK, OURS, PORT, Side

pytestmark = [pytest.mark.netns, needs_namespaces]

TABLE = str(Path(__file__).with_name("hostiledatagrams.py"))
SOCKETS = str(Path(__file__).with_name("hostilesockets.py"))
FAMILIES = ["192.0.2.1", "2001:db8::1"]


GOOD = """
import socket, sys, time
while True:  # the first may find a full buffer
    socket.socket(2, 2).sendto(b'good', ('192.0.2.1', int(sys.argv[1])))
    time.sleep(0.2)
"""


def pass_through(one: Side, other: Side) -> None:
    """Packets pass: what a storm has left in the engine's buffer is read."""
    for address in (f"10.77.0.{other.number}", f"fd77::{other.number}"):
        assert pings(one.host, address)


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    one, other = Host("hostile-1"), Host("hostile-2")
    try:
        join(one, other, "192.0.2.1/24", "192.0.2.2/24")
        for host, address in ((one, "2001:db8::1/64"), (other, "2001:db8::2/64")):
            host.run("ip", "address", "add", address, "dev", "eth0", "nodad")
        yield one, other
    finally:
        one.close()
        other.close()


def storm(host: Host, target: str, port: int, source_port: int = 0, *, at_least: int = 4000) -> None:
    """Everything in the table, from this host. Where a socket is connected to another, the kernel refuses half."""
    sent = host.run(sys.executable, TABLE, target, str(port), str(source_port), timeout=300)
    assert int(sent) > at_least


@pytest.mark.usefixtures("data_path")
@pytest.mark.parametrize("target", FAMILIES)
def test_netctl_wg(pair: tuple[Host, Host], target: str) -> None:
    """From outside and from its own host; a tunnel that is up meanwhile stays up, and a new one can be made."""
    one, other = Side(pair[0], OURS, 1), Side(pair[1], OURS, 2)
    one.peer(other, None)
    other.peer(one, "192.0.2.1")
    assert other.ping(one) == 0
    storm(other.host, target, PORT)
    storm(one.host, target, PORT)
    pass_through(one, other)
    assert LINK in one.host.run("ip", "-br", "link")
    assert one.ping(other) == 0
    one.host.run("wg", "set", LINK, "peer", other.key, "remove")
    one.peer(other, "192.0.2.2")
    assert one.ping(other) == 0


class Socketed:
    """One of `hostilesockets.py`, in a host."""

    def __init__(self, host: Host, *arguments: str) -> None:
        command = host.command(sys.executable, SOCKETS, *arguments)
        self.program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self) -> Any:
        assert self.program.stdout is not None
        line = self.program.stdout.readline()
        assert line, f"it ended with {self.program.wait()}"
        return json.loads(line)

    def go_on(self) -> None:
        assert self.program.stdin is not None
        self.program.stdin.write("go on\n")
        self.program.stdin.flush()

    def ask(self) -> Any:
        self.go_on()
        return self.read()

    def close(self) -> None:
        self.program.kill()
        self.program.communicate()


@contextlib.contextmanager
def socketed(host: Host, *arguments: str) -> Iterator[Socketed]:
    made = Socketed(host, *arguments)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("what", ["relay", "stun"])
def test_mediator_and_relay(pair: tuple[Host, Host], what: str) -> None:
    one, other = pair
    with socketed(one, what) as server:
        for port in server.read():
            for target in FAMILIES:
                storm(other, target, port)
            storm(one, "192.0.2.1", port)
        said = server.ask()
        assert said["faults"] == 0, "what is refused is refused where it is decoded"
        if what == "relay":
            assert said["alive"]
            assert said["nowhere"] > 100, "port 0 came, and was dropped"
        client = other.run(sys.executable, SOCKETS, f"{what}-client", "192.0.2.1")
        assert json.loads(client)["alive"], "it goes on"


@pytest.mark.parametrize("kind", ["netctl-wg", "wireguard-go"])
def test_the_paths_on_the_shared_port(pair: tuple[Host, Host], kind: str) -> None:
    """Handed over by netctl-wg, or by raw sockets; the engine never answers. A pair becomes direct all the same."""
    one, other = pair
    if kind == "netctl-wg":
        one.run(OURS, "nctl0")
        one.run("wg", "set", "nctl0", "listen-port", "51820")
    with (
        socketed(one, "paths", kind, "1", "192.0.2.1", "192.0.2.2") as ours,
        socketed(other, "paths", "wireguard-go", "2", "192.0.2.2", "192.0.2.1") as theirs,
    ):
        [port] = ours.read()
        theirs.read()
        for target in FAMILIES:
            storm(other, target, port, 0)
        storm(one, "192.0.2.1", port)
        for side in (ours, theirs):
            assert side.ask() == {"faults": 0}
        for side in (ours, theirs):
            side.go_on()
        for side in (ours, theirs):
            assert side.read() == {"alive": True}


def test_the_sockets_of_a_birthday(pair: tuple[Host, Host]) -> None:
    one, other = pair
    with socketed(one, "batches") as runner:
        for port in runner.read():
            storm(other, "192.0.2.1", port)
            storm(one, "192.0.2.1", port)
        [port] = runner.ask()
        with other.start(sys.executable, "-c", GOOD, str(port)) as sender:
            assert runner.ask() == {"faults": 0, "alive": True}
            sender.kill()


def test_a_router_that_sends_what_it_should_not(pair: tuple[Host, Host]) -> None:
    """PCP and NAT-PMP hear the router's port alone, SSDP and announcements any of its ports."""
    one, other = pair
    one.run("ip", "route", "add", "default", "via", "192.0.2.2")
    with socketed(one, "portmap") as runner:
        control, search, announcements = runner.read()
        storm(other, "192.0.2.1", control, 5351)
        storm(other, "192.0.2.1", search, 1900)
        storm(other, "192.0.2.1", announcements, 5351)
        assert runner.ask() == {"faults": 0, "alive": True}


def test_what_stands_in_for_a_peer_over_tls(pair: tuple[Host, Host]) -> None:
    one, _ = pair
    with socketed(one, "relay-by-tls") as tunnel:
        [port] = tunnel.read()
        storm(one, "127.77.0.1", port, 51820)
        storm(one, "127.77.0.1", port, at_least=2000)
        assert tunnel.ask() == {"faults": 0, "alive": True}
