"""A link and an address on one, as the kernel has them."""

from __future__ import annotations

from dataclasses import dataclass

from netctl.model.addresses import Address


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
    """Of a VXLAN link, and the next one too."""
    local: Address | None = None
    lower: int = 0
    """The index of the link that it is made on (VLAN, VXLAN, macvlan); 0: none."""
    holds_port: int = 0
    """The UDP port of a VXLAN link that no other kind of it can share, over IPv6; 0: none."""


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address on a link."""

    index: int
    address: Address
    prefix_len: int
    flags: int
