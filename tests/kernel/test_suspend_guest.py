"""A host that really sleeps: the laptop of a lab is a guest under QEMU, suspended to memory and woken.

Pings tell how soon its tunnel carries data again, both ways: an answered ping has passed the tunnel each way. Either
the other member pings, and only the guest's agent opens the tunnel; or the guest does, and asks WireGuard at once.
`NETCTL_KERNEL_LONG=1` adds 200 s of sleep, after which the session, the NAT's mapping and the control connection are
over. A pair that is folded up is pinged from the wake on.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from netctl.agent.transport.doorbells import IDLE_VARIABLE
from netctl.lab.internet import DOCUMENT_PATH, LOG_PATH, RUN_PATH, STATE_PATH, Lab, status_of
from netctl.lab.namespaces import Node
from netctl.lab.probes import host_name
from netctl.model.hoststate import WIREGUARD_LINK
from tests.kernel import inmemory
from tests.netns.roaming import pings
from tests.support.lablife import PARTY, connected_lab, mediator_states, raised_lab
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.alone, pytest.mark.kernel, pytest.mark.lab]
"""Emulated processors that wait for a core wake late: beside four other guests the bar was missed."""

NATS = """
nats:
  home: {kind: port-restricted, members: [laptop]}
  work: {kind: port-restricted, members: [desktop]}
"""
LONG = "NETCTL_KERNEL_LONG" in os.environ
ENGINES = ("kernel", "netctl-wg")
ASLEEP_S = (10.0, 200.0) if LONG else (10.0,)
AWAKE_S = 2.0
"""From the wake to the first ping that is answered: an answer on the path and a handshake after the short sleep, a
login and a new path as well after the long one."""
BRIDGE = """
link add bridge type bridge
addr flush dev eth0
tuntap add {tap} mode tap
link set eth0 master bridge
link set {tap} master bridge
link set {tap} up
link set bridge up
"""
TAP = "tap0"
PING = shutil.which("ping")
AGENT = "python3 -P -m netctl.cli.main agent"
PINGED = "/run/pinged"
LAZY = PARTY.replace("mode: routed,", "mode: routed, lazy: always,")
IDLE_S = 20
"""After so long without data the pair is folded up; the session of the other member is good for 180 s. A tenth of it is
enough for a login, without which no path is looked for."""
TAPPED = "/run/tapped"
BEFORE_S, AFTER_S = 3.0, 8.0
"""Of what passed the guest's link, this much before and after the wake is shown."""
CLOCKS_DIFFER_S = 0.05
"""The guest's clock and this machine's, as `ahead_s` compares them."""
_ANSWER = re.compile(r"^\[(\d+\.\d+)\] .*icmp_seq=\d+ ttl=", re.MULTILINE)


def kept_files(lab: Lab, name: str) -> dict[str, tuple[int, bytes]]:
    """The files of a member: mode and content by place."""
    node = lab.node(name)
    places = node.run(["find", "/run/lab/etc", STATE_PATH, "-type", "f"]).split()
    coded = {place: node.run(["base64", place]) for place in [*places, "/etc/hosts"]}
    return {place: (0o600, base64.b64decode(text)) for place, text in coded.items()}


@contextmanager
def instead_of(
    lab: Lab, name: str, engine: str, environment: Mapping[str, str] | None = None
) -> Iterator[inmemory.Guest]:
    """A guest in the place of a member: with its files, at its address, on its link."""
    node = lab.node(name)
    box = next(found for found in lab.topology.boxes if any(place.name == name for place in found.members))
    address = next(place.address for place in box.members if place.name == name)
    lab.stop(name)
    node.attempt(["ip", "link", "del", WIREGUARD_LINK])
    variables = {
        "NETCTL_CONFIG": DOCUMENT_PATH,
        "NETCTL_STATE": STATE_PATH,
        "NETCTL_RUN": RUN_PATH,
        **(environment or {}),
    }
    with tempfile.TemporaryDirectory(prefix="netctl-guest-") as directory:
        archive = Path(directory, "initramfs")
        inmemory.initramfs(archive, name, variables, kept_files(lab, name))
        node.run(["ip", "-batch", "-"], BRIDGE.format(tap=TAP))
        process = node.popen(
            ["sh", "-c", 'echo $$; exec "$@"', "sh", *inmemory.qemu(Path(directory), archive, TAP)]
        )
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        guest = None
        try:
            guest = inmemory.Guest(process, Path(directory, "control"), Path(directory, "console"))
            guest.run(f"ip address add {address}/{box.lan.prefixlen} dev eth0 && ip link set eth0 up")
            guest.run(f"ip route add default via {box.gateway}")
            guest.run(f"mkdir -p {RUN_PATH}; {AGENT} --engine {engine} > {LOG_PATH} 2>&1 &")
            yield guest
        finally:
            node.kill(pid)
            process.wait()
            if guest is not None:
                guest.close()


@contextmanager
def unplugged(node: Node) -> Iterator[None]:
    """A sleeping host's card takes nothing in; QEMU would keep hundreds of packets, handshakes too, for the wake."""
    node.run(["ip", "link", "set", TAP, "nomaster"])
    yield
    node.run(["ip", "link", "set", TAP, "master", "bridge"])


@contextmanager
def tapped(node: Node) -> Iterator[None]:
    """Meanwhile what passes the guest's link is written down."""
    argv = [sys.executable, str(Path(__file__).with_name("wiretap.py")), TAP]
    process = node.popen(["sh", "-c", 'echo $$; exec "$@" > "$0" 2>&1', TAPPED, *argv])
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    try:
        yield
    finally:
        node.kill(pid)
        process.communicate(timeout=BUSY_S)


def passed(node: Node, woken_at: float) -> str:
    """What passed the guest's link around the wake, with seconds from it."""
    lines = []
    for line in node.run(["cat", TAPPED]).splitlines():
        at, _, what = line.partition(" ")
        since = float(at) - woken_at
        if -BEFORE_S <= since <= AFTER_S or "initiation" in what or "response" in what:
            lines.append(f"  {since:+8.3f} {what}")
    return "\n".join(lines)


def data_came(node: Node, woken_at: float) -> float:
    """When the first data since the wake came to the guest's link."""
    rows = [line.split() for line in node.run(["cat", TAPPED]).splitlines()]
    return min(
        float(at) for at, way, what, *_ in rows if (way, what) == ("in", "data") and float(at) > woken_at
    )


def path_of(lab: Lab) -> str:
    [peer] = status_of(lab.node("desktop"))["peers"]
    return str(peer["path"])


def is_direct(lab: Lab) -> bool:
    return path_of(lab) == "direct"


def asleep(lab: Lab, guest: inmemory.Guest, seconds: float) -> inmemory.Woken:
    time.sleep(2)
    woken = guest.sleep(seconds, unplugged(lab.node("laptop")))
    wait_for("the guest is direct again", lambda: is_direct(lab))
    time.sleep(5)
    return woken


def the_other_pings(lab: Lab, guest: inmemory.Guest, seconds: float) -> tuple[inmemory.Woken, float]:
    """The wake, and the seconds from it to the first answered ping of the other member."""
    with pings(lab, "desktop", host_name("laptop", "party")) as heard:
        woken = asleep(lab, guest, seconds)
    return woken, min(at for at in heard.answers if at > woken.at) - woken.at


def the_guest_pings(lab: Lab, guest: inmemory.Guest, seconds: float) -> tuple[inmemory.Woken, float]:
    """The same with pings of the guest itself, by its own clock.

    An answer that came before the sleep may be read, and dated, after it: what counts is one after data has come in.
    """
    guest.run(
        f"{PING} -n -D -i 0.05 {host_name('desktop', 'party')} > {PINGED} 2>&1 & echo $! > {PINGED}.pid"
    )
    woken = asleep(lab, guest, seconds)
    guest.run(f"kill -INT $(cat {PINGED}.pid)")
    ahead = guest.ahead_s()
    answers = [float(at) - ahead for at in _ANSWER.findall(guest.run(f"cat {PINGED}"))]
    came = data_came(lab.node("laptop"), woken.at) - CLOCKS_DIFFER_S
    return woken, min(at for at in answers if at > came) - woken.at


def folded(lab: Lab, guest: inmemory.Guest) -> None:
    """Both ends are; a ping of the guest has made a session before."""
    ping = f"{PING} -c 1 -W 1 {host_name('desktop', 'party')}"
    wait_for("a ping is answered", lambda: guest.attempt(ping)[0] == 0)
    wait_for("the other member folds the pair up", lambda: path_of(lab) == "idle")
    status = "python3 -P -m netctl.cli.main status -o json | tr -d ' \\n' | grep -q '\"path\":\"idle\"'"
    wait_for("the guest folds it up", lambda: guest.attempt(status)[0] == 0)


def the_other_pings_first(lab: Lab, guest: inmemory.Guest, seconds: float) -> tuple[inmemory.Woken, float]:
    """Nobody pings before the wake."""
    woken = guest.sleep(seconds, unplugged(lab.node("laptop")))
    with pings(lab, "desktop", host_name("laptop", "party")) as heard:
        time.sleep(AFTER_S)
    return woken, min(heard.answers) - woken.at


def the_guest_pings_first(lab: Lab, guest: inmemory.Guest, seconds: float) -> tuple[inmemory.Woken, float]:
    woken = guest.sleep(seconds, unplugged(lab.node("laptop")))
    said = guest.run(f"{PING} -n -D -i 0.05 -w {AFTER_S:.0f} {host_name('desktop', 'party')}")
    ahead = guest.ahead_s()
    return woken, min(float(at) - ahead for at in _ANSWER.findall(said)) - woken.at


Sleeping = Callable[[Lab, inmemory.Guest, float], tuple[inmemory.Woken, float]]


def measure(
    lab: Lab, guest: inmemory.Guest, engine: str, ways: Mapping[str, Sleeping], ready: Callable[[], None]
) -> list[str]:
    """Sleep for each time in each way, and print what was found; what took too long."""
    late = []
    node = lab.node("laptop")
    for seconds in ASLEEP_S:
        for who, sleep_and_wake in ways.items():
            ready()
            with tapped(node):
                woken, answered_s = sleep_and_wake(lab, guest, seconds)
            told = (
                f"{engine}, asleep for {woken.slept_s:.0f} s, the {who} pings: programs run"
                f" {woken.running_at - woken.at:.2f} s after the wake, a ping is answered {answered_s:.2f} s after it"
            )
            print(f"{told}\n{passed(node, woken.at)}", flush=True)
            if answered_s > AWAKE_S:
                late.append(told)
    print(guest.run(f"cat {LOG_PATH}"))
    return late


def on_each_engine(story: Callable[[str], list[str]]) -> None:
    """A guest of each at once, in a lab of its own: nearly all the time they sleep, or wait to be idle."""
    with ThreadPoolExecutor(len(ENGINES)) as pool:
        late = [told for found in pool.map(story, ENGINES) for told in found]
    assert not late, "\n".join(late)


@pytest.mark.skipif(inmemory.why_not() is not None, reason=str(inmemory.why_not()))
def test_a_host_that_slept() -> None:
    def story(engine: str) -> list[str]:
        with connected_lab(PARTY, NATS) as lab, instead_of(lab, "laptop", engine) as guest:

            def ready() -> None:
                wait_for("the guest is direct", lambda: is_direct(lab))
                time.sleep(5)

            return measure(lab, guest, engine, {"other": the_other_pings, "guest": the_guest_pings}, ready)

    on_each_engine(story)


@pytest.mark.skipif(inmemory.why_not() is not None, reason=str(inmemory.why_not()))
def test_a_host_that_slept_with_its_pair_folded_up() -> None:
    idle = {IDLE_VARIABLE: str(IDLE_S)}
    ways = {"other": the_other_pings_first, "guest": the_guest_pings_first}

    def story(engine: str) -> list[str]:
        with raised_lab(LAZY, NATS, idle) as lab:
            wait_for("both are logged in", lambda: set(mediator_states(lab).values()) == {"connected"})
            with instead_of(lab, "laptop", engine, idle) as guest:
                return measure(lab, guest, engine, ways, lambda: folded(lab, guest))

    on_each_engine(story)
