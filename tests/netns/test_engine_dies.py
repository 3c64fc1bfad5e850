"""The engine is killed: nothing for the networks leaves in clear, and it is back within a moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from tests.netns.onehost import NETCTL, One, one_host
from tests.support.hosts import Host, Program, join, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

BACK_WITHIN_S = 3.0
"""About one second on an idle machine: what is asserted leaves room for one that runs other tests beside this."""
POOLS = ("10.8.0.2", "192.168.77.9")
UNTIL_TOLD = """
import signal
over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
"""
SEND = """
import contextlib, socket, sys, time
end = time.monotonic() + float(sys.argv[1])
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sent = refused = 0
print("ready", flush=True)
while time.monotonic() < end and not over:
    for address in sys.argv[2:]:
        sock = six if ":" in address else four
        try:
            sock.sendto(b"secret of the overlay", (address, 9))
            sent += 1
        except OSError:
            refused += 1
    time.sleep(0.002)
print(sent, refused)
"""
CAPTURE = """
import socket, sys, time
every = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
every.bind(("eth0", 0))
every.settimeout(0.2)
print("ready", flush=True)
seen = leaked = 0
while True:
    try:
        frame = every.recv(65536)
    except TimeoutError:
        if over: break
        continue
    seen += 1
    leaked += b"secret of the overlay" in frame
print(seen, leaked)
"""


@pytest.fixture
def member() -> Iterator[tuple[One, Host]]:
    """A member with a default route to a router that would take everything, in both families."""
    with one_host() as one:
        router = Host("uplink")
        try:
            join(one.host, router, "192.0.2.1/24", "192.0.2.254/24")
            for host, address in ((one.host, "2001:db8::1/64"), (router, "2001:db8::254/64")):
                host.run("ip", "address", "add", address, "dev", "eth0", "nodad")
            one.host.run("ip", "route", "add", "default", "via", "192.0.2.254")
            one.host.run("ip", "-6", "route", "add", "default", "via", "2001:db8::254")
            yield one, router
        finally:
            router.close()


def up(one: One, engine: str) -> str:
    """Applied, with an agent; the peer's own IPv6 address in the network."""
    one.agent = one.start(NETCTL, "agent", "--engine", engine)
    wait_for("the agent answers", lambda: one.netctl("status")[0] == 0)
    text = one.good.replace(
        'endpoints: ["192.0.2.2:51820"]', 'endpoints: ["192.0.2.2:51820"], routes: [192.168.77.0/24]'
    )
    code, said = one.apply(text)
    assert code == 0, said
    names = one.host.run("cat", "/etc/hosts").split("\n")
    return next(line.split()[0] for line in names if "there.office.netctl" in line and ":" in line)


def index(one: One) -> str:
    """Of the link; empty while there is none."""
    number = one.host.run("ip", "-o", "link", "show", "nctl0", check=False).split(":")[0]
    return number if number.isdigit() else ""


def kill(one: One, engine: str) -> None:
    """And wait until another one has made all as it was."""
    before = index(one)
    [pid] = one.host.run("pgrep", "-f", f"{engine} nctl0").split()
    one.host.run("kill", "-9", pid)
    wait_for("another link", lambda: index(one) not in (before, ""))
    wait_for("all is as it was", lambda: one.netctl("plan")[0] == 0 and not one.status()["drift"])


def started(host: Host, code: str, *arguments: str) -> Program:
    """A program that runs until it is told to end."""
    program = host.start(sys.executable, "-c", UNTIL_TOLD + code, *arguments)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program


def told_to_end(program: Program) -> tuple[int, int]:
    """What it has counted."""
    program.terminate()
    first, second = map(int, program.communicate(timeout=BUSY_S)[0].split())
    return first, second


def unreachable(one: One) -> list[str]:
    shown = [one.host.run("ip", family, "route", "show", "type", "unreachable") for family in ("-4", "-6")]
    return [line.split()[1] for line in "".join(shown).splitlines() if "proto 201" in line]


@pytest.mark.parametrize("engine", ["netctl-wg", "wireguard-go"])
def test_nothing_leaves_in_clear_and_it_is_started_again(member: tuple[One, Host], engine: str) -> None:
    one, router = member
    theirs = up(one, engine)
    assert {"10.8.0.0/24", "192.168.77.0/24"} < set(unreachable(one))
    capture = started(router, CAPTURE)
    sender = started(one.host, SEND, str(BUSY_S), *POOLS, theirs)
    time.sleep(1)  # packets before
    for _ in range(2):
        kill(one, engine)
    time.sleep(1)  # and after
    sent, refused = told_to_end(sender)
    seen, leaked = told_to_end(capture)
    assert sent > 100
    assert refused > 10, "the link was never away: nothing was tried"
    assert seen > 0, "handshakes to the peer leave by the same way"
    assert leaked == 0
    state = one.status()
    assert state["engine_restarts"] == 2
    assert state["link_away_s"] is None
    [said] = [condition for condition in state["conditions"] if "started again" in condition]
    took = float(said.split("within ")[1].split(" s")[0])
    print(f"{engine}: back after {took} s")
    assert took < BACK_WITHIN_S
    assert "started again" in one.netctl("status")[1]


def test_it_holds_without_an_agent_and_goes_with_down(member: tuple[One, Host]) -> None:
    """Neither the engine nor the agent is needed for it; what is no longer wanted is gone."""
    one, router = member
    theirs = up(one, "netctl-wg")
    assert one.agent is not None
    one.agent.kill()
    one.agent.wait()
    for name in ("netctl agent", "netctl-wg nctl0"):
        for pid in one.host.run("pgrep", "-f", name, check=False).split():
            one.host.run("kill", "-9", pid, check=False)
    wait_for("the link is gone", lambda: "nctl0" not in one.host.run("ip", "-br", "link"))
    capture = started(router, CAPTURE)
    sent, refused = map(int, one.host.python(UNTIL_TOLD + SEND, "1", *POOLS, theirs).split()[1:])
    assert sent == 0
    assert refused > 10
    assert told_to_end(capture)[1] == 0
    one.agent = one.start(NETCTL, "agent", "--engine", "netctl-wg")
    wait_for("the agent answers", lambda: one.netctl("status")[0] == 0)
    wait_for("it is back", lambda: "nctl0" in one.host.run("ip", "-br", "link"))
    code, said = one.netctl("down")
    assert code == 0, said
    assert unreachable(one) == []
