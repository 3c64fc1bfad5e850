"""Kinds of NAT (RFC 4787's words) as nftables rulesets: pure functions from a WAN address to nft text.

Every box has two interfaces, `wan` and `lan`. All kinds drop new packets on the WAN side of the box itself:
a packet of the other side that comes before the mapping exists would otherwise leave a conntrack entry
behind that makes the mapping take another port, and hole punching would break in a way no real router shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from ipaddress import IPv4Address

TABLE = "lab_nat"
MAPPING_TIMEOUT_S = 120
"""How long an idle endpoint-independent mapping lives (RFC 4787 REQ-5: no less than two minutes)."""
CHANGED_PORTS = (61000, 65000)
"""The range that port-changed boxes translate into (that of Linux's old masquerading)."""
COUNTED_PORTS = (20000, 1024)
"""First port and number of ports of the boxes that compute the port: apart from what hosts bind themselves."""
BLOCK_PORTS = (40000, 40127)
"""The block of a port-block box: 128 ports, a common size of a subscriber's block behind a CGN."""


class NatKind(StrEnum):
    """What a box between a private LAN and the public segment does."""

    OPEN = "open"  # routes, and lets everything through: public addresses behind it
    FIREWALL = "firewall"  # public addresses behind a stateful firewall
    FULL_CONE = "full-cone"  # endpoint-independent mapping and filtering
    ADDRESS_RESTRICTED = "address-restricted"  # endpoint-independent mapping, address-dependent filtering
    PORT_RESTRICTED = "port-restricted"  # port kept, address- and port-dependent filtering
    PORT_CHANGED = "port-changed"  # as port-restricted, the port taken from a range of the box's own
    ADDRESS_DEPENDENT = "address-dependent"  # another port for each destination address
    SYMMETRIC_RANDOM = "symmetric-random"  # another random port for each destination
    SYMMETRIC_SEQUENTIAL = "symmetric-sequential"  # the next port for each destination
    PORT_BLOCK = "port-block"  # another random port for each destination, all within one small block
    UDP_BLOCKED = "udp-blocked"  # TCP and ICMP only

    @property
    def translates(self) -> bool:
        """False: the hosts behind it have public addresses."""
        return self not in (NatKind.OPEN, NatKind.FIREWALL)


_GUARD = """
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "wan" ct state { established, related } accept
    iifname "wan" icmp type echo-request accept
    iifname "wan" drop
  }"""


def _forward(*extra: str) -> str:
    lines = ['iifname "wan" ct state { established, related } accept', *extra, 'iifname "wan" drop']
    body = "\n".join(f"    {line}" for line in lines)
    return f"\n  chain forward {{\n    type filter hook forward priority filter; policy accept;\n{body}\n  }}"


def _source_nat(statement: str) -> str:
    return (
        "\n  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n"
        f'    oifname "wan" {statement}\n  }}'
    )


def _table(*parts: str) -> str:
    return f"table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{{''.join(parts)}\n}}\n"


def open_box(wan: IPv4Address) -> str:
    """No translation and no filter."""
    del wan
    return _table(_GUARD)


def port_restricted(wan: IPv4Address) -> str:
    """What a Linux home router does: the port is kept where it is free, replies only from where we sent to."""
    return _table(_GUARD, _forward(), _source_nat(f"snat to {wan}"))


def symmetric_random(wan: IPv4Address) -> str:
    """Another random port for each destination: what STUN learns holds for the STUN server alone."""
    return _table(_GUARD, _forward(), _source_nat(f"snat to {wan} fully-random"))


def firewall(wan: IPv4Address) -> str:
    """No translation; from outside only what answers a flow from inside."""
    del wan
    return _table(_GUARD, _forward())


def _udp_source_nat(wan: IPv4Address, ports: str) -> str:
    """UDP to `ports` of the WAN address; everything else as usual."""
    udp = f'meta l4proto udp snat ip to {wan}{ports}\n    oifname "wan" '
    return _source_nat(f"{udp}snat to {wan}")


def _counted(number: str) -> str:
    """The port that belongs to a number. By a map: nft gives numbers in host order, ports are in the wire's."""
    first, count = COUNTED_PORTS
    return f" : {number} mod {count} map {{ {', '.join(f'{n} : {first + n}' for n in range(count))} }}"


def port_changed(wan: IPv4Address) -> str:
    """One mapping for all destinations, at another port than the host's; filtering as port-restricted."""
    first, last = CHANGED_PORTS
    return _table(_GUARD, _forward(), _udp_source_nat(wan, f":{first}-{last}"))


def address_dependent(wan: IPv4Address) -> str:
    """One mapping for each destination address, whatever its port (RFC 4787 §4.1)."""
    return _table(_GUARD, _forward(), _udp_source_nat(wan, _counted("jhash ip saddr . udp sport . ip daddr")))


def symmetric_sequential(wan: IPv4Address) -> str:
    """Every new flow takes the port after the last one's."""
    return _table(_GUARD, _forward(), _udp_source_nat(wan, _counted("numgen inc")))


def port_block(wan: IPv4Address) -> str:
    """Another random port for each destination, within the block that the subscriber has."""
    first, last = BLOCK_PORTS
    return _table(_GUARD, _forward(), _udp_source_nat(wan, f":{first}-{last} fully-random"))


def udp_blocked(wan: IPv4Address) -> str:
    """A strict company network: no UDP at all, whatever passed before."""
    no_udp = """
  chain no_udp {
    type filter hook forward priority filter - 1; policy accept;
    meta l4proto udp drop
  }"""
    return _table(_GUARD, no_udp, _forward(), _source_nat(f"snat to {wan}"))


def _cone(wan: IPv4Address, accept: str, remembered: str, remember: str) -> str:
    """Endpoint-independent mappings by a map that outgoing packets write and incoming ones read.

    The map is written after translation (priority above srcnat), so it holds the port the world sees.
    """
    return _table(
        f"""
  map mappings {{
    type inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout {MAPPING_TIMEOUT_S}s
    size 65535
  }}{remembered}
  chain note {{
    type filter hook postrouting priority srcnat + 10; policy accept;
    oifname "wan" ct direction original meta l4proto udp jump map_it
  }}
  chain map_it {{
    update @mappings {{ udp sport : ct original ip saddr . ct original proto-src }}
{remember}  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "wan" meta l4proto udp {accept}dnat ip to udp dport map @mappings
  }}""",
        _GUARD,
        _forward("ct status dnat accept"),
        _source_nat(f"snat to {wan}"),
    )


def full_cone(wan: IPv4Address) -> str:
    """Once a host has sent anything from a port, anybody may send to its mapping."""
    return _cone(wan, "", "", "")


def address_restricted(wan: IPv4Address) -> str:
    """As full cone, but only for addresses (with any port) that the host has sent to from that port."""
    return _cone(
        wan,
        "udp dport . ip saddr @talked ",
        f"""
  set talked {{
    type inet_service . ipv4_addr
    flags dynamic,timeout
    timeout {MAPPING_TIMEOUT_S}s
    size 65535
  }}""",
        "    update @talked { udp sport . ip daddr }\n",
    )


RULESETS: Mapping[NatKind, Callable[[IPv4Address], str]] = {
    NatKind.OPEN: open_box,
    NatKind.FIREWALL: firewall,
    NatKind.FULL_CONE: full_cone,
    NatKind.ADDRESS_RESTRICTED: address_restricted,
    NatKind.PORT_RESTRICTED: port_restricted,
    NatKind.PORT_CHANGED: port_changed,
    NatKind.ADDRESS_DEPENDENT: address_dependent,
    NatKind.SYMMETRIC_RANDOM: symmetric_random,
    NatKind.SYMMETRIC_SEQUENTIAL: symmetric_sequential,
    NatKind.PORT_BLOCK: port_block,
    NatKind.UDP_BLOCKED: udp_blocked,
}


def ruleset(kind: NatKind, wan: IPv4Address) -> str:
    """The nft text of a box of this kind whose public address is `wan`."""
    return RULESETS[kind](wan)
