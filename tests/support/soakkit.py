"""A lab that is shaken for a while, and what may not grow while it is: memory, files, threads, tasks.

`soak`: agents, links and the mediator come and go. Two agents, all engines and the relay live through all of it. The
mediator is restarted in the first half and is held to what it has in the middle in the second.
`soak_lazy`: pairs of agents open with first packets and are folded up, and members that are only names are called.
One pass of everything comes before the first look, as warming up.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from netctl.lab.internet import DOCUMENT_PATH, LOG_PATH, STATE_PATH, Lab, in_parallel, program
from netctl.lab.probes import host_name, ping_all
from tests.support.lablife import everybody_connected, mediator_states
from tests.support.lazykit import NETWORK, Crowd, ping, wait_until_folded
from tests.support.patience import wait_for
from tests.support.processes import EVERY

STAY = ("laptop", "nas")
COME_AND_GO = ("desktop", "console")
RELAY = "the relay"
METRICS = "127.0.0.1:9586"
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())"
LAZY_IDLE_S = 2
"""For `soak_lazy`: `NETCTL_LAZY_IDLE_S` of its lab, the shortest that there is."""
RINGS = 8
"""Pings of an open pair: enough time for its direct path, which is looked for while somebody talks."""
LAZY_WARM = 6
"""Rounds of `soak_lazy` before the first look: each kind has come, with and without folding at its end."""
ROUNDS = 2
"""In each half, however long a busy machine takes for one."""
CALM_S = 4.0
"""After everybody is connected: what was under way ends."""
MAX_MORE_KB = 4096
"""Python's allocator comes to rest after some growth; sixty rounds that each lose 100 kB are past this."""
MAX_MORE_FILES = 3
MAX_MORE_THREADS = 2
MAX_MORE_TASKS = 3
"""A probe or a look at the host may be under way at the moment."""


@dataclass(frozen=True)
class Size:
    """Of one process."""

    resident_kb: int
    files: int
    threads: int
    tasks: int


Sizes = dict[str, Size]


def soak(lab: Lab, seconds: float) -> tuple[Sizes, Sizes, Sizes, int]:
    """Shake: sizes after warming up, in the middle and at the end, and how many rounds there were."""
    prepare(lab, STAY)
    wait_for("everybody is connected", lambda: everybody_connected(lab))
    agents: Iterator[Callable[[Lab, str], None]] = itertools.cycle(
        [kill_an_agent, rest_an_agent, flap_a_link]
    )
    with_mediators: Iterator[Callable[[Lab, str], None]] = itertools.cycle(
        [kill_an_agent, restart_the_mediator, flap_a_link, kill_the_mediator, rest_an_agent]
    )
    names = itertools.cycle(COME_AND_GO)
    for _ in range(5):
        one_round(lab, next(with_mediators), next(names))
    found, began, rounds = [calm(lab, STAY)], time.monotonic(), 0
    for half, kinds in enumerate((with_mediators, agents), 1):
        while time.monotonic() - began < seconds * half / 2 or rounds < ROUNDS * half:
            one_round(lab, next(kinds), next(names))
            rounds += 1
        found.append(calm(lab, STAY))
    return found[0], found[1], found[2], rounds


def soak_lazy(lab: Lab, crowd: Crowd, seconds: float) -> tuple[Sizes, Sizes, Sizes, int]:
    """Open and fold up: the same, and how many pairs were opened. No packet of agents that are online is lost."""
    prepare(lab, crowd.agents)
    wait_for("everybody is logged in", lambda: set(mediator_states(lab).values()) == {"connected"})
    names = itertools.cycle(crowd.names)
    rounds = itertools.count()

    def calm() -> Sizes:
        wait_until_folded(lab)
        time.sleep(CALM_S)
        return dict(sizes(lab, crowd.agents))

    for _ in range(LAZY_WARM):
        ring_and_fold(lab, crowd.agents, next(names), next(rounds))
    found, began, opened = [calm()], time.monotonic(), 0
    for half in (1, 2):
        first = opened
        while time.monotonic() - began < seconds * half / 2 or opened == first:
            opened += ring_and_fold(lab, crowd.agents, next(names), next(rounds))
        found.append(calm())
    return found[0], found[1], found[2], opened


def ring_and_fold(lab: Lab, agents: Sequence[str], name: str, number: int) -> int:
    """One round: each agent rings at another one, in every third round both at once; one calls a name in vain.

    In every second round all are folded up at its end; in the others the next rings meet whatever is under way.
    """
    turned = [
        agents[0],
        *(agents[1 + (place + number) % (len(agents) - 1)] for place in range(len(agents) - 1)),
    ]
    half = len(agents) // 2
    pairs = list(zip(turned[:half], reversed(turned[half:]), strict=True))
    rings = pairs + ([(other, one) for one, other in pairs] if number % 3 == 0 else [])
    lab.node(turned[0]).attempt(["ping", "-n", "-c", "1", "-W", "1", host_name(name, NETWORK)])
    in_parallel(lambda pair: ping(lab, *pair, "-c", str(RINGS), "-i", "0.2"), rings, at_once=len(rings))
    if number % 2 == 0:
        wait_until_folded(lab)
    else:
        time.sleep(LAZY_IDLE_S + number % 5 * 0.2)  # around the moment at which they are folded up
    return len(pairs)


def grown(before: Sizes, after: Sizes) -> list[str]:
    """What is larger than it may be, in words."""
    limits = {
        "resident_kb": MAX_MORE_KB,
        "files": MAX_MORE_FILES,
        "threads": MAX_MORE_THREADS,
        "tasks": MAX_MORE_TASKS,
    }
    return [
        f"{name}: {what} {getattr(size, what)} -> {getattr(after[name], what)}"
        for name, size in before.items()
        for what, more in limits.items()
        if getattr(after[name], what) > getattr(size, what) + more
    ]


def without(sizes: Sizes, name: str) -> Sizes:
    return {other: size for other, size in sizes.items() if other != name}


def prepare(lab: Lab, counted: Sequence[str]) -> None:
    """A relay of its own, and these agents so that their tasks can be counted."""
    lab.stop("mediator")
    relay = [program("netctl-mediator"), "relay", "--document", DOCUMENT_PATH, "--state", STATE_PATH]
    lab.services[RELAY] = lab.node("mediator").spawn(relay, LOG_PATH)
    lab.start_mediator(relay=False)
    for name in counted:
        lab.stop(name)
        lab.services[name] = lab.node(name).spawn(
            [program("netctl"), "agent", "--metrics", METRICS], LOG_PATH
        )


def one_round(lab: Lab, shake: Callable[[Lab, str], None], name: str) -> None:
    shake(lab, name)
    wait_for(f"everybody is back after {shake.__name__} ({name})", lambda: everybody_connected(lab))


def kill_an_agent(lab: Lab, name: str) -> None:
    lab.stop(name, signal.SIGKILL)
    lab.start_agent(name)


def rest_an_agent(lab: Lab, name: str) -> None:
    lab.stop(name)
    time.sleep(2)  # real time in which it is away
    lab.start_agent(name)


def restart_the_mediator(lab: Lab, _: str) -> None:
    lab.stop("mediator")
    lab.start_mediator(relay=False)


def kill_the_mediator(lab: Lab, _: str) -> None:
    lab.stop("mediator", signal.SIGKILL)
    lab.start_mediator(relay=False)


def flap_a_link(lab: Lab, name: str) -> None:
    route = json.loads(lab.node(name).run(["ip", "-j", "route", "show", "default"]))[0]
    lab.node(name).run(["ip", "link", "set", route["dev"], "down"])
    time.sleep(1)  # real time in which it is cut off
    lab.node(name).run(["ip", "link", "set", route["dev"], "up"])
    lab.node(name).run(["ip", "route", "replace", "default", "via", route["gateway"], "dev", route["dev"]])


def calm(lab: Lab, counted: Sequence[str]) -> Sizes:
    """Everybody is there and reaches everybody; how large they are then."""
    wait_for("every pair answers", lambda: None not in ping_all(lab).values())
    time.sleep(CALM_S)
    return dict(sizes(lab, counted))


def sizes(lab: Lab, counted: Sequence[str]) -> Iterator[tuple[str, Size]]:
    for name in counted:
        page = lab.node(name).run([sys.executable, "-I", "-c", GET, f"http://{METRICS}/metrics"])
        assert "netctl_engine_faults_total 0.0" in page, f"the engine of {name} could not handle something"
        (tasks,) = [line.split()[1] for line in page.splitlines() if line.startswith("netctl_tasks ")]
        yield name, size(lab, lab.services[name], int(float(tasks)))
    status: dict[str, Any] = json.loads(
        lab.node("mediator").run([program("netctl-mediator"), "status", "--state", STATE_PATH, "-o", "json"])
    )
    assert status["connections"] == len(lab.network.members)
    yield "mediator", size(lab, lab.services["mediator"], status["tasks"])
    yield RELAY, size(lab, lab.services[RELAY], 0)
    for line in lab.node("mediator").run(list(EVERY)).splitlines():
        if "netctl-wg nctl0" in line:
            pid = int(line.split()[0])
            yield f"engine {pid}", size(lab, pid, 0)


def size(lab: Lab, pid: int, tasks: int) -> Size:
    text = lab.node("mediator").run(["sh", "-c", f"cat /proc/{pid}/status; ls /proc/{pid}/fd | wc -l"])
    found = dict(re.findall(r"^(\w+):\s+(\d+)", text, re.MULTILINE))
    return Size(int(found["VmRSS"]), int(text.splitlines()[-1]), int(found["Threads"]), tasks)
