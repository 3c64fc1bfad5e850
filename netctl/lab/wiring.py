"""Build a topology: namespaces, bridges, addresses, routes and NATs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netctl.lab.namespaces import Holder, Node
from netctl.lab.nat import ruleset
from netctl.lab.properties import Ipv6
from netctl.lab.topology import PUBLIC, PUBLIC6, ROUTER, ROUTER6, Box, Topology

# ICMP redirects would tell hosts behind a hairpinning box to bypass it. On machines with br_netfilter the bridge
# would translate, and pass hairpinned packets from port to port instead of through the box.
_FORWARD = """
echo 1 > /proc/sys/net/ipv4/ip_forward
call=/proc/sys/net/bridge/bridge-nf-call-iptables
if [ -e $call ]; then echo 0 > $call; fi
for link in all lan; do echo 0 > /proc/sys/net/ipv4/conf/$link/send_redirects; done
"""
_FORWARD6 = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
_TIMEOUTS = """
echo {0} > /proc/sys/net/netfilter/nf_conntrack_udp_timeout
echo {0} > /proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream
"""
_FIREWALL6 = """
table ip6 lab_firewall {
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "wan" ct state { established, related } accept
    iifname "wan" drop
  }
}
"""


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
    """Make and connect every host. The lab's own namespace is the router of the public segment."""
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n" + "".join(
        f"{node.address}\t{mediator.host}\n" for mediator, node in topology.mediators
    )
    mediators: dict[str, Node] = {}
    boxes: dict[str, Node] = {}
    members: dict[str, Node] = {}
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
        behind = [other.name for other in topology.boxes if other.behind == box.name]
        names = ", ".join([*(node.name for node in box.members), *behind])
        progress(f"{box.name}: {box.kind} NAT for {names}")
        router = holder.add_node(box.name, hosts)
        if box.behind is None:
            to_public(router, "wan", box.wan)
        else:
            carrier = next(other for other in topology.boxes if other.name == box.behind)
            _wire_behind(boxes[carrier.name], carrier, router, box)
        boxes[box.name] = router
        for place in box.members:
            members[place.name] = _with(holder.add_node(place.name, hosts), environment)
        _wire_lan(router, box, members)
        if not box.kind.translates:
            holder.run(["ip", "route", "add", str(box.lan), "via", str(box.wan)])
        if box.has_ipv6:
            _wire_ipv6(holder, router, box, members)
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
        if box.properties.isolated:
            lines.append(f"link set l{index} type bridge_slave isolated on")
    router.run(["ip", "-batch", "-"], "\n".join(lines) + "\n")
    router.run(["sh", "-ec", _FORWARD])
    router.run(["nft", "-f", "-"], ruleset(box.kind, box.wan, box.properties))
    if box.properties.udp_timeout_s is not None:
        router.run(["sh", "-ec", _TIMEOUTS.format(box.properties.udp_timeout_s)])
    for place in box.members:
        members[place.name].run(
            ["ip", "-batch", "-"],
            f"addr add {place.address}/{box.lan.prefixlen} dev eth0\nlink set eth0 up\n"
            f"route add default via {box.gateway}\n",
        )


def _wire_behind(carrier_node: Node, carrier: Box, router: Node, box: Box) -> None:
    """Connect the WAN side of a box to the LAN of its carrier."""
    link = f"c{box.number}"
    lines = [
        f"link add {link} type veth peer name wan netns {router.pid}",
        f"link set {link} master lan up",
    ]
    if carrier.properties.isolated:
        lines.append(f"link set {link} type bridge_slave isolated on")
    carrier_node.run(["ip", "-batch", "-"], "\n".join(lines) + "\n")
    router.run(
        ["ip", "-batch", "-"],
        f"addr add {box.wan}/{carrier.lan.prefixlen} dev wan\nlink set wan up\n"
        f"route add default via {carrier.gateway}\n",
    )


def _wire_ipv6(holder: Holder, router: Node, box: Box, members: Mapping[str, Node]) -> None:
    """IPv6 for the LAN of a box, without translation."""
    holder.run(["sh", "-ec", _FORWARD6])
    holder.run(
        ["ip", "-6", "-batch", "-"],
        f"addr replace {ROUTER6}/{PUBLIC6.prefixlen} dev pub nodad\nroute add {box.lan6} via {box.wan6}\n",
    )
    router.run(["sh", "-ec", _FORWARD6])
    router.run(
        ["ip", "-6", "-batch", "-"],
        f"addr add {box.wan6}/{PUBLIC6.prefixlen} dev wan nodad\n"
        f"addr add {box.lan6[1]}/{box.lan6.prefixlen} dev lan nodad\n"
        f"route add default via {ROUTER6}\n",
    )
    if box.properties.ipv6 is Ipv6.FIREWALL:
        router.run(["nft", "-f", "-"], _FIREWALL6)
    for index, place in enumerate(box.members):
        members[place.name].run(
            ["ip", "-6", "-batch", "-"],
            f"addr add {box.lan6[10 + index]}/{box.lan6.prefixlen} dev eth0 nodad\n"
            f"route add default via {box.lan6[1]}\n",
        )
