"""Probes of a running lab with real packets, from inside its hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from netctl.lab.internet import Lab, in_parallel
from netctl.lab.namespaces import Node
from netctl.lab.pinging import pinged
from netctl.lab.programs import READY
from netctl.model.document import Network
from netctl.model.errors import EngineError
from netctl.system.ourselves import module

PROGRAMS = "netctl.lab.programs"
PINGS = 3
HEAR_S = 6.0
"""Longest wait for a broadcast, which is sent three times within a second."""
DENIED_S = 1.5
"""Wait for the answer to a blocked knock: a thousand times the round trip inside one machine."""
ALLOWED_S = 5.0
"""Longest wait for the answer to a knock that must pass, in seconds."""
SERVE_S = 30.0
"""Seconds for which a listener waits for a knock."""
BROADCAST_PORT = 27015
"""UDP port of broadcasts: the one that many games use to look for servers."""


def host_name(member: str, network: str) -> str:
    """A member's name in the hosts files of the members."""
    return f"{member}.{network}.netctl"


def ping(node: Node, name: str) -> float | None:
    """Mean round-trip time in ms; None: a packet was lost."""
    found = pinged(lambda argv: node.attempt(argv).stdout, name, PINGS)
    return None if found.lost else found.mean_ms


def pairs(lab: Lab) -> list[tuple[str, str, Network]]:
    """Every ordered pair of members with a common network, and the first such network whose ACL allows all traffic."""
    found = []
    for one in lab.topology.members:
        for other in lab.topology.members:
            shared = [
                network
                for network in lab.document.networks.values()
                if one != other and one in network.member_names and other in network.member_names
            ]
            if shared:
                found.append((one, other, next((entry for entry in shared if entry.acls is None), shared[0])))
    return found


def ping_all(lab: Lab) -> dict[tuple[str, str], float | None]:
    """Ping by name between every ordered pair: mean round trip in ms, None: a packet was lost."""
    wanted = pairs(lab)
    results = in_parallel(
        lambda pair: ping(lab.node(pair[0]), host_name(pair[1], pair[2].name)), wanted, at_once=6
    )
    return {(one, other): rtt for (one, other, _), rtt in zip(wanted, results, strict=True)}


@contextmanager
def running(node: Node, *arguments: str) -> Iterator[list[str]]:
    """Run a program of `programs.py` on a host. Enters when it is ready; at exit the list has its further lines."""
    lines: list[str] = []
    process = node.popen(module(PROGRAMS, *arguments))
    with process:
        try:
            assert process.stdout is not None
            if (first := process.stdout.readline().strip()) != READY:
                raise EngineError(f"{' '.join(arguments[:3])} on {node.name}: {first or 'it did not start'}")
            yield lines
            if arguments[0] == "hear":
                lines.extend(line.strip() for line in process.stdout)
        finally:
            assert process.stdin is not None
            process.stdin.close()


@dataclass(frozen=True, slots=True)
class Heard:
    """A broadcast, its receivers, and the source address that they saw."""

    network: str
    sender: str
    address: str
    heard: dict[str, str | None]


def broadcast(lab: Lab, network: Network) -> Heard | None:
    """The first member of a lan network broadcasts, the other members listen. None: no other member."""
    members = [name for name in lab.topology.members if name in network.member_names]
    if len(members) < 2 or network.ipv4 is None:
        return None
    sender, *others = members
    address, text = str(network.ipv4.broadcast_address), f"who plays? ({network.name})"
    heard: dict[str, list[str]] = {}
    with ExitStack() as stack:
        for name in others:
            listener = running(lab.node(name), "hear", str(BROADCAST_PORT), str(HEAR_S))
            heard[name] = stack.enter_context(listener)
        lab.node(sender).run(module(PROGRAMS, "shout", address, str(BROADCAST_PORT), text))
    result: dict[str, str | None] = {}
    for name, lines in heard.items():
        answer = json.loads(lines[0]) if lines else None
        result[name] = answer["from"] if answer is not None and answer["text"] == text else None
    return Heard(network.name, sender, address, result)


@dataclass(frozen=True, slots=True)
class Reach:
    """One expectation of a network's `tests`, and its result with real packets."""

    network: str
    src: str
    dst: str
    what: str
    """``tcp/22``, ``udp/53`` or ``icmp``."""
    wanted: bool
    seen: bool


def acl_checks(lab: Lab) -> list[Reach]:
    """Try every `tests` entry whose two members are in the lab."""
    wanted: list[tuple[Network, str, str, str, bool]] = []
    for network in lab.document.networks.values():
        for test in network.tests:
            targets = [(target, True) for target in test.accept] + [(target, False) for target in test.deny]
            for target, expected in targets:
                dst, _, what = target.partition(":")
                if test.src in lab.topology.members and dst in lab.topology.members:
                    wanted.append((network, test.src, dst, what, expected))
    services = {(dst, what) for _, _, dst, what, _ in wanted if what != "icmp"}
    with ExitStack() as stack:
        for dst, what in sorted(services):
            kind, _, port = what.partition("/")
            stack.enter_context(running(lab.node(dst), "serve", kind, port.split("-")[0], str(SERVE_S)))
        return in_parallel(lambda entry: _try(lab, *entry), wanted)


def _try(lab: Lab, network: Network, src: str, dst: str, what: str, wanted: bool) -> Reach:
    name = host_name(dst, network.name)
    # An unknown name must not count as "blocked".
    lab.node(src).run(["getent", "hosts", name])
    if what == "icmp":
        seen = ping(lab.node(src), name) is not None
    else:
        kind, _, port = what.partition("/")
        patience = str(ALLOWED_S if wanted else DENIED_S)
        knock = module(PROGRAMS, "knock", kind, name, port.split("-")[0], patience)
        seen = lab.node(src).attempt(knock).returncode == 0
    return Reach(network.name, src, dst, what, wanted, seen)
