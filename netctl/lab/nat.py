"""Kinds of NAT (terms of RFC 4787) as nftables rulesets: pure functions from a WAN address to nft text.

Every box has two interfaces, `wan` and `lan`. By default all kinds drop new packets to the box itself on the WAN
side: a packet of the other side that arrives before the mapping exists would leave a conntrack entry, the mapping
would then take another port, and hole punching would fail as with hardly any real router.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Address

from netctl.lab.properties import PLAIN, Properties

TABLE = "lab_nat"
"""nftables table of a NAT."""
BESIDE_TABLE = "lab_beside"
"""nftables table of a NAT's special properties, such as hairpinning."""
OUT = 'oifname "wan"'
"""Match for packets that leave by the public side."""
TURNED_MARK = 1
"""Conntrack mark of hairpinned flows."""
TURNED = f'oifname "lan" ct mark {TURNED_MARK}'
"""Match for hairpinned packets that leave by `lan`: postrouting cannot match their input interface, so by a mark."""
MAPPING_TIMEOUT_S = 120
"""Lifetime of an idle endpoint-independent mapping (RFC 4787 REQ-5: no less than two minutes)."""
CHANGED_PORTS = (61000, 65000)
"""The port range of port-changed boxes (that of Linux's old masquerading)."""
COUNTED_PORTS = (20000, 1024)
"""First port and count of ports of boxes that compute the port; outside the range that hosts bind."""
BLOCK_PORTS = (40000, 40127)
"""First and last port of a port-block box: 128 ports, a common block size of a subscriber behind a CGN."""


class NatKind(StrEnum):
    """What a box between a private LAN and the public segment does."""

    OPEN = "open"  # routes without a filter: public addresses behind it
    FIREWALL = "firewall"  # public addresses behind a stateful firewall
    FULL_CONE = "full-cone"  # endpoint-independent mapping and filtering
    ADDRESS_RESTRICTED = "address-restricted"  # endpoint-independent mapping, address-dependent filtering
    PORT_RESTRICTED = "port-restricted"  # port kept, address- and port-dependent filtering
    PORT_CHANGED = "port-changed"  # as port-restricted, with a port from the box's range
    ADDRESS_DEPENDENT = "address-dependent"  # another port for each destination address
    SYMMETRIC_RANDOM = "symmetric-random"  # another random port for each destination
    SYMMETRIC_SEQUENTIAL = "symmetric-sequential"  # the next port for each destination
    SYMMETRIC_FULL_CONE = (
        "symmetric-full-cone"  # another random port for each destination, each open to any source
    )
    PORT_BLOCK = "port-block"  # another random port for each destination, all within one small block
    UDP_BLOCKED = "udp-blocked"  # TCP and ICMP only

    @property
    def translates(self) -> bool:
        """Whether the box translates; False: the hosts behind it have public addresses."""
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


def _table(*parts: str) -> str:
    return f"table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{{''.join(parts)}\n}}\n"


def _counted(number: str) -> str:
    """nft text for the port of a number. Uses a map: nft's numbers are in host byte order, ports in network order."""
    first, count = COUNTED_PORTS
    return f" : {number} mod {count} map {{ {', '.join(f'{n} : {first + n}' for n in range(count))} }}"


PORTS: Mapping[NatKind, str] = {
    NatKind.PORT_CHANGED: f":{CHANGED_PORTS[0]}-{CHANGED_PORTS[1]}",
    NatKind.ADDRESS_DEPENDENT: _counted("jhash ip saddr . udp sport . ip daddr"),
    NatKind.SYMMETRIC_RANDOM: " fully-random",
    NatKind.SYMMETRIC_SEQUENTIAL: _counted("numgen inc"),
    NatKind.SYMMETRIC_FULL_CONE: " fully-random",
    NatKind.PORT_BLOCK: f":{BLOCK_PORTS[0]}-{BLOCK_PORTS[1]} fully-random",
}
"""nft text after the WAN address in the translation of UDP. Other kinds keep the port if possible.

Without `fully-random` the kernel uses one mapping per source for all destinations.
"""


def _translate(kind: NatKind, wan: IPv4Address, where: str) -> str:
    """The statements that translate packets which match `where`."""
    lines = [f"{where} snat to {wan}"]
    if kind in PORTS:
        lines.insert(0, f"{where} meta l4proto 17 snat ip to {wan}{PORTS[kind]}")
    return "".join(f"\n    {line}" for line in lines)


def _source_nat(kind: NatKind, wan: IPv4Address) -> str:
    return (
        "\n  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;"
        f"{_translate(kind, wan, OUT)}\n  }}"
    )


_NO_UDP = """
  chain no_udp {
    type filter hook forward priority filter - 1; policy accept;
    iifname "wan" meta l4proto 17 drop
    oifname "wan" meta l4proto 17 drop
  }"""
"""A strict company network: drops all UDP, established flows too."""

_TALKED = "udp dport . ip saddr @talked"


def _noted(timeout_s: int, remembered: str = "", remember: str = "") -> str:
    """An nft map from external port to inner address and port, filled by outgoing packets.

    It is filled after translation (priority above srcnat), so it holds the external port.
    """
    return f"""
  map mappings {{
    type inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout {timeout_s}s
    size 65535
  }}{remembered}
  chain note {{
    type filter hook postrouting priority srcnat + 10; policy accept;
    oifname "wan" ct direction original meta l4proto 17 jump map_it
  }}
  chain map_it {{
    update @mappings {{ udp sport : ct original ip saddr . ct original proto-src }}
{remember}  }}"""


def _redirect(where: str) -> str:
    """Translate packets that match `where` to the host of the mapping at their destination port."""
    return f"""
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    {where} dnat ip to udp dport map @mappings
  }}"""


def _cone(kind: NatKind, wan: IPv4Address, timeout_s: int) -> str:
    """Incoming packets to a mapping: from any source, or if address-restricted, from addresses the port has sent to."""
    if kind is not NatKind.ADDRESS_RESTRICTED:
        return _noted(timeout_s) + _redirect(f'iifname "wan" ip daddr {wan} meta l4proto 17')
    talked = f"""
  set talked {{
    type inet_service . ipv4_addr
    flags dynamic,timeout
    timeout {timeout_s}s
    size 65535
  }}"""
    noted = _noted(timeout_s, talked, "    update @talked { udp sport . ip daddr }\n")
    return noted + _redirect(f'iifname "wan" ip daddr {wan} {_TALKED}')


CONES = (NatKind.FULL_CONE, NatKind.ADDRESS_RESTRICTED, NatKind.SYMMETRIC_FULL_CONE)
"""Kinds that admit packets besides replies."""


def ruleset(kind: NatKind, wan: IPv4Address, properties: Properties = PLAIN) -> str:
    """The nft text of a box of this kind whose public address is `wan`."""
    parts = [] if properties.wan_input_accepts else [_GUARD]
    if kind is NatKind.UDP_BLOCKED:
        parts.append(_NO_UDP)
    if kind in CONES:
        parts += [
            _cone(kind, wan, properties.udp_timeout_s or MAPPING_TIMEOUT_S),
            _forward("ct status dnat accept"),
        ]
    elif kind is not NatKind.OPEN:
        parts.append(_forward())
    if kind.translates:
        parts.append(_source_nat(kind, wan))
    return _table(*parts) + _beside(kind, wan, properties)


def _beside(kind: NatKind, wan: IPv4Address, properties: Properties) -> str:
    """A separate table for the properties of a box besides its kind."""
    parts = []
    if properties.loss_percent:
        parts.append(
            "\n  chain loss {\n    type filter hook forward priority raw; policy accept;"
            f"\n    numgen random mod 100 < {properties.loss_percent} drop\n  }}"
        )
    if properties.hairpin:
        parts += [
            _noted(properties.udp_timeout_s or MAPPING_TIMEOUT_S),
            _redirect(f'iifname "lan" ip daddr {wan} meta l4proto 17 ct mark set {TURNED_MARK}'),
            "\n  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;"
            f"{_translate(kind, wan, TURNED)}\n  }}",
            # A packet before the mapping must not leave a conntrack entry, as on the WAN side.
            "\n  chain input {\n    type filter hook input priority filter; policy accept;"
            f'\n    iifname "lan" ip daddr {wan} meta l4proto 17 drop\n  }}',
        ]
    name = BESIDE_TABLE
    return f"table ip {name}\ndelete table ip {name}\n" + (
        f"table ip {name} {{{''.join(parts)}\n}}\n" if parts else ""
    )
