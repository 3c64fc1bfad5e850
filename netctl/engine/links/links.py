"""Values for a link and for an address on a link, as the kernel has them."""

from __future__ import annotations

from dataclasses import dataclass

from netctl.model.addresses import Address

IFF_UP = 1
"""The flag of a link that is administratively up (netdevice(7))."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel has it."""

    index: int
    flags: int
    name: str
    mtu: int
    alias: str | None
    mac: str
    kind: str | None
    vni: int | None = None
    """VXLAN links only, like `local`."""
    local: Address | None = None
    lower: int = 0
    """The index of the lower link, on which this one is made (VLAN, VXLAN, macvlan); 0: none."""
    holds_port: int = 0
    """The UDP port over IPv6 of a VXLAN link that our segments cannot share; 0: none."""


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address on a link."""

    index: int
    address: Address
    prefix_len: int
    flags: int
