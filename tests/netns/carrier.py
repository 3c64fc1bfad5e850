"""A carrier's NAT between home boxes and the public segment of a lab (RFC 6598's shared address space inside)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network

from netctl.lab.build import Network
from netctl.lab.nat import NatKind, full_cone, ruleset
from netctl.lab.topology import PUBLIC, ROUTER

SHARED = IPv4Network("100.64.0.0/24")
OUTSIDE = PUBLIC[200]
"""The carrier's only public address."""
Rules = Callable[[IPv4Address], str]


def hairpin(wan: IPv4Address) -> str:
    """A full cone that sends back what goes to its own outside, as from the sender's mapping (RFC 4787 REQ-9)."""
    more = f"""
table ip lab_nat {{
  map outside {{
    type ipv4_addr . inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout 120s
    size 65535
  }}
  chain note {{
    oifname "wan" ct direction original meta l4proto udp \
      update @outside {{ ct original ip saddr . ct original proto-src : ip saddr . udp sport }}
  }}
  chain prerouting {{
    iifname "lan" ip daddr {wan} meta l4proto udp dnat ip to udp dport map @mappings
  }}
  chain postrouting {{
    oifname "lan" ip saddr {SHARED} ct status dnat snat ip to ip saddr . udp sport map @outside
  }}
}}
"""
    return full_cone(wan) + more


def put_carrier(network: Network, homes: Sequence[str], rules: Rules, kind: NatKind) -> None:
    """Between these boxes, of one kind, and the internet."""
    carrier = network.holder.add_node("carrier", "127.0.0.1\tlocalhost\n")
    network.holder.run(
        ["ip", "-batch", "-"],
        f"link add cgn0 type veth peer name wan netns {carrier.pid}\nlink set cgn0 master pub up\n",
    )
    lines = [
        f"addr add {OUTSIDE}/{PUBLIC.prefixlen} dev wan",
        "link set wan up",
        f"route add default via {ROUTER}",
        "link add lan type bridge",
        f"addr add {SHARED[1]}/{SHARED.prefixlen} dev lan",
        "link set lan up",
    ]
    for index, name in enumerate(homes):
        home = network.boxes[name]
        home.run(["ip", "link", "del", "wan"])
        lines += [
            f"link add h{index} type veth peer name wan netns {home.pid}",
            f"link set h{index} master lan up",
        ]
    carrier.run(["ip", "-batch", "-"], "\n".join(lines) + "\n")
    carrier.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
    carrier.run(["nft", "-f", "-"], rules(OUTSIDE))
    for index, name in enumerate(homes):
        home, wan = network.boxes[name], SHARED[2 + index]
        home.run(
            ["ip", "-batch", "-"],
            f"addr add {wan}/{SHARED.prefixlen} dev wan\nlink set wan up\nroute add default via {SHARED[1]}\n",
        )
        home.run(["nft", "-f", "-"], ruleset(kind, wan))
