"""A NAT64 on a box of the lab: TAYGA translates; a DNS server announces the prefix (RFC 7050) and acts as DNS64."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence

from netctl.lab.namespaces import Node
from netctl.model.errors import EngineError
from netctl.system.ourselves import module
from netctl.wire.nat64 import WELL_KNOWN_ADDRESSES, WELL_KNOWN_NAME

PREFIX = ipaddress.IPv6Network("2001:db8:6464::/96")
"""A network-specific prefix: the well-known prefix must not carry the documentation addresses of a lab."""
POOL = ipaddress.IPv4Network("192.168.255.0/24")
"""IPv4 addresses that TAYGA gives the hosts behind it; the box's own NAT translates them again."""
TAYGA = "tayga"
"""The program that translates between IPv6 and IPv4 (NAT64)."""
_CONFIG, _ZONE, _LOG = "/run/tayga.conf", "/run/zone.json", "/run/nat64.log"
_UP = f"""{TAYGA} -c {_CONFIG} --mktun
ip link set nat64 up
ip addr add {POOL[254]} dev nat64
ip route add {POOL} dev nat64
ip -6 route add {PREFIX} dev nat64
"""


def behind(address: str) -> str:
    """The IPv6 address of an IPv4 address in the prefix."""
    return str(PREFIX[int(ipaddress.IPv4Address(address))])


def translate(box: Node, member: Node, names: Mapping[str, Sequence[str]]) -> None:
    """Give the member's network a NAT64 and a DNS64 for these names. Raises EngineError."""
    box.write(
        _CONFIG,
        f"tun-device nat64\nipv4-addr {POOL[1]}\nprefix {PREFIX}\ndynamic-pool {POOL}\ndata-dir /run\n",
    )
    zone = {
        name: [*found, *(behind(one) for one in found if not any(":" in other for other in found))]
        for name, found in names.items()
    }
    zone[WELL_KNOWN_NAME] = [str(one) for one in WELL_KNOWN_ADDRESSES]
    zone[WELL_KNOWN_NAME] += [behind(one) for one in zone[WELL_KNOWN_NAME]]
    box.write(_ZONE, json.dumps(zone))
    box.run(["sh", "-ec", _UP])
    box.spawn([TAYGA, "-c", _CONFIG, "--nodetach"], _LOG)
    box.spawn(module("netctl.lab.dnsserver", _ZONE), _LOG)
    said = box.run(["ip", "-6", "-o", "addr", "show", "dev", "lan", "scope", "global"]).split()
    if "inet6" not in said:
        raise EngineError(f"{box.name} has no IPv6 for a NAT64")
    server = said[said.index("inet6") + 1].partition("/")[0]
    member.run(["sh", "-c", "rm -f /etc/resolv.conf"])
    member.write("/etc/resolv.conf", f"nameserver {server}\n")
