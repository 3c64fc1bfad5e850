"""From a topology to wires: namespaces, bridges, addresses, routes and NATs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netctl.lab.namespaces import Holder, Node
from netctl.lab.nat import ruleset
from netctl.lab.topology import PUBLIC, ROUTER, Box, Topology

_FORWARD = ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]


@dataclass(frozen=True, slots=True)
class Network:
    """The wired hosts, by name."""

    holder: Holder
    mediators: Mapping[str, Node]
    members: Mapping[str, Node]
    boxes: Mapping[str, Node]


def build(
    holder: Holder,
    topology: Topology,
    environment: Mapping[str, str],
    progress: Callable[[str], None],
) -> Network:
    """Make every host and wire it. The lab's own namespace is the router of the public segment."""
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n" + "".join(
        f"{node.address}\t{mediator.host}\n" for mediator, node in topology.mediators
    )
    mediators, boxes, members = {}, {}, {}
    holder.run(
        ["ip", "-batch", "-"],
        f"link add pub type bridge\naddr add {ROUTER}/{PUBLIC.prefixlen} dev pub\nlink set pub up\n",
    )
    port = 0

    def to_public(node: Node, name: str, address: object) -> None:
        nonlocal port
        port += 1
        holder.run(
            ["ip", "-batch", "-"],
            f"link add p{port} type veth peer name {name} netns {node.pid}\nlink set p{port} master pub up\n",
        )
        node.run(
            ["ip", "-batch", "-"],
            f"addr add {address}/{PUBLIC.prefixlen} dev {name}\nlink set {name} up\nroute add default via {ROUTER}\n",
        )

    for _, place in topology.mediators:
        node = _with(holder.add_node(place.name, hosts), environment)
        to_public(node, "eth0", place.address)
        mediators[place.name] = node
    for box in topology.boxes:
        progress(f"{box.name}: {box.kind} NAT for {', '.join(node.name for node in box.members)}")
        router = holder.add_node(box.name, hosts)
        to_public(router, "wan", box.wan)
        boxes[box.name] = router
        for place in box.members:
            members[place.name] = _with(holder.add_node(place.name, hosts), environment)
        _wire_lan(router, box, members)
        if not box.kind.translates:
            holder.run(["ip", "route", "add", str(box.lan), "via", str(box.wan)])
    return Network(holder, mediators, members, boxes)


def _with(node: Node, environment: Mapping[str, str]) -> Node:
    return Node(node.holder, node.name, node.pid, environment)


def _wire_lan(router: Node, box: Box, members: Mapping[str, Node]) -> None:
    lines = [
        "link add lan type bridge",
        f"addr add {box.gateway}/{box.lan.prefixlen} dev lan",
        "link set lan up",
    ]
    for index, place in enumerate(box.members):
        lines += [
            f"link add l{index} type veth peer name eth0 netns {members[place.name].pid}",
            f"link set l{index} master lan up",
        ]
    router.run(["ip", "-batch", "-"], "\n".join(lines) + "\n")
    router.run(_FORWARD)
    router.run(["nft", "-f", "-"], ruleset(box.kind, box.wan))
    for place in box.members:
        members[place.name].run(
            ["ip", "-batch", "-"],
            f"addr add {place.address}/{box.lan.prefixlen} dev eth0\nlink set eth0 up\n"
            f"route add default via {box.gateway}\n",
        )
