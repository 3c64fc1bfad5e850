"""Changes of a running box: a restart that loses its flows, and a new WAN address."""

from __future__ import annotations

from ipaddress import IPv4Address

from netctl.lab.namespaces import Node
from netctl.lab.nat import BESIDE_TABLE, TABLE
from netctl.lab.topology import PUBLIC, ROUTER, Box
from netctl.system.ourselves import code

_FORGET = """
import socket, struct
connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
connection.bind((0, 0))
# IPCTNL_MSG_CT_DELETE without a tuple is everything; NLM_F_REQUEST | NLM_F_ACK
connection.send(struct.pack("=IHHII4s", 20, 0x0102, 5, 1, 0, bytes(4)))
error = struct.unpack_from("=i", connection.recv(1000), 16)[0]
assert error == 0, error
"""
_GONE = """
table ip lab_gone {{
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname "wan" ip daddr {old} drop
  }}
}}
"""
_MEMORIES = ((TABLE, "map", "mappings"), (TABLE, "set", "talked"), (BESIDE_TABLE, "map", "mappings"))
"""(table, type, name) of the rulesets' own memory besides the kernel's flows; a kind has some of these or none."""


def forget_flows(node: Node) -> None:
    """Delete the mappings of all flows, as a restart of a router does."""
    for table, what, name in _MEMORIES:
        node.attempt(["nft", "flush", what, "ip", table, name])
    node.run(code(_FORGET))


def move_wan(node: Node, box: Box, new: IPv4Address, *, forget: bool = True) -> None:
    """Give the box another address on the public segment, as after a new dial-in of a line.

    Flows are deleted, unless `forget` is false: each then keeps the old address while it is in use.
    """
    node.run(
        ["ip", "-batch", "-"],
        f"addr del {box.wan}/{PUBLIC.prefixlen} dev wan\naddr add {new}/{PUBLIC.prefixlen} dev wan\n"
        f"route replace default via {ROUTER}\n",
    )
    for table in (TABLE, BESIDE_TABLE):
        # -t lists rules without the elements of maps and sets: the box starts with empty ones.
        rules = node.attempt(["nft", "-t", "list", "table", "ip", table]).stdout
        if rules:
            node.run(["nft", "-f", "-"], f"delete table ip {table}\n" + rules.replace(str(box.wan), str(new)))
    if forget:
        forget_flows(node)
    else:  # drop packets to the old address: neighbours still know its MAC, a provider's router would not
        node.run(["nft", "-f", "-"], _GONE.format(old=box.wan))
