"""A new machine that joins a running lab with an invite."""

from __future__ import annotations

import time
from dataclasses import dataclass

from netctl.lab.internet import STATE_PATH, Lab, program
from netctl.lab.namespaces import Node
from netctl.lab.probes import host_name, ping
from netctl.lab.topology import PUBLIC, ROUTER
from netctl.model.document import Network
from netctl.model.errors import EngineError

NAME = "guest"
"""The member's name of the machine that joins by invite."""
ADDRESS = PUBLIC[250]
"""An address without NAT at the upper end of the public segment; the lab's own hosts are at the lower end."""
REACH_S = 30.0
"""Tunnels to all members are up within 2 s; a small busy machine needs more."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The result of the guest's join."""

    address: str
    joined_s: float
    """From the start of `netctl join` until the machine had an address."""
    silent: tuple[str, ...]
    """Members that did not answer by name."""


def invited_network(lab: Lab) -> Network | None:
    """The first network that admits invites automatically; None: there is none, or no mediator, or `guest` exists."""
    open_ = (n for n in lab.document.networks.values() if n.join.invites and n.join.approve == "auto")
    return next(open_, None) if lab.network.mediators and NAME not in lab.network.members else None


def join(lab: Lab, network: Network) -> Joined:
    """Make the machine and an invite, let the machine join and ping all members. Raises EngineError."""
    mediator = next(iter(lab.network.mediators.values()))
    invite = ["invite", network.name, "--mediator-state", STATE_PATH]
    text = mediator.run([program("netctl"), *invite]).strip()
    node = machine(lab)
    started = time.monotonic()
    said = node.run([program("netctl"), "join", "--name", NAME], text).strip()
    joined_s = time.monotonic() - started
    prefix = f"{NAME} is on {network.name}: "
    if not said.startswith(prefix):
        raise EngineError(f"netctl join on {NAME}: {said}")
    silent = [name for name in network.member_names if name in lab.network.members]
    deadline = time.monotonic() + REACH_S
    while silent and time.monotonic() < deadline:
        silent = [name for name in silent if ping(node, host_name(name, network.name)) is None]
    return Joined(said.removeprefix(prefix).partition(",")[0], joined_s, tuple(silent))


def machine(lab: Lab) -> Node:
    """A machine on the public segment without any state of netctl."""
    holder, other = lab.network.holder, next(iter(lab.network.members.values()))
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n" + "".join(
        f"{place.address}\t{mediator.host}\n" for mediator, place in lab.topology.mediators
    )
    bare = holder.add_node(NAME, hosts)
    node = Node(holder, NAME, bare.pid, other.environment)
    holder.run(
        ["ip", "-batch", "-"],
        f"link add p-{NAME} type veth peer name eth0 netns {node.pid}\nlink set p-{NAME} master pub up\n",
    )
    node.run(
        ["ip", "-batch", "-"],
        f"addr add {ADDRESS}/{PUBLIC.prefixlen} dev eth0\nlink set eth0 up\nroute add default via {ROUTER}\n",
    )
    return node
