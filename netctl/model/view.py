"""The view: the membership and leases that the mediator sends to one member."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netctl.model.addresses import Address
from netctl.model.keys import WireGuardKey


@dataclass(frozen=True, slots=True)
class Lease:
    """An address in a network, bound to a member's key for as long as the key is kept."""

    network: str
    key: WireGuardKey
    addresses: tuple[Address, ...]
    """IPv4 from the pool, IPv6 derived; either may be missing when the network has no such pool."""


@dataclass(frozen=True, slots=True)
class ViewMember:
    """A member, with the facts that the view's owner may know."""

    name: str
    key: WireGuardKey
    online: bool | None = False
    """None: not known. In a large view the mediator tells of those alone that this host is interested in."""


@dataclass(frozen=True, slots=True)
class View:
    """Membership and leases visible to one member, at one generation. Includes the member itself."""

    generation: int = 0
    members: Mapping[WireGuardKey, ViewMember] = field(default_factory=dict)
    leases: Mapping[tuple[str, WireGuardKey], Lease] = field(default_factory=dict)
    """By network name and key."""
    document: str = ""
    """The excerpt that a member without a document uses (`netctl.config.edit.excerpt`); empty for all others."""
