"""Pins leases that a host has seen: the mediator cannot move an address, nor give it to another key.

The first lease of a key in a network is pinned. After that only the document moves it: with `addresses:`, with another
pool, or by removing the key that held the address from the network. A lease of the mediator that contradicts a pin is
refused and reported; a person can agree to it with `netctl leases forget`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from netctl.config.resolve.guests import guests_in, with_guests
from netctl.config.resolve.resolution import Condition
from netctl.model.document import Document, Network
from netctl.model.keys import WireGuardKey
from netctl.model.view import Lease, View

Pins = Mapping[tuple[str, WireGuardKey], IPv4Address]
"""Pinned addresses by network id and key."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A view without the leases that contradict pins."""

    view: View | None
    pins: Pins
    """The pins from now on."""
    conditions: tuple[Condition, ...] = ()
    refused: Mapping[tuple[str, WireGuardKey], IPv4Address] = field(default_factory=dict)
    """The mediator's addresses that contradict the pins, by network id and key."""


def judge_leases(document: Document, view: View | None, pins: Pins) -> Judged:
    """The view with all leases at their pinned addresses, and the pins with new leases added."""
    if view is None or not document.mediators:
        return Judged(view, pins)
    whole, _ = with_guests(document, guests_in(document, view))
    judge = _Judge(view, dict(pins), dict(view.leases))
    for network in whole.networks.values():
        if network.ipv4 is not None:
            judge.network(whole, network)
    judged = replace(view, leases=judge.leases) if judge.refused else view
    return Judged(judged, judge.pins, tuple(judge.conditions), judge.refused)


@dataclass(slots=True)
class _Judge:
    view: View
    pins: dict[tuple[str, WireGuardKey], IPv4Address]
    leases: dict[tuple[str, WireGuardKey], Lease]
    conditions: list[Condition] = field(default_factory=list)
    refused: dict[tuple[str, WireGuardKey], IPv4Address] = field(default_factory=dict)

    def network(self, document: Document, network: Network) -> None:
        """Judge all leases of one network."""
        names = {document.members[name].wireguard: name for name in network.member_names}
        fixed = {address for found in network.addresses.values() for address in found}
        own = {names_key for names_key, name in names.items() if _fixes(network, name)}
        for where, address in list(self.pins.items()):
            moved = where[1] in own or address in fixed or network.ipv4 is None or address not in network.ipv4
            if where[0] == network.id and moved:
                del self.pins[where]  # the document has moved the lease
        holders = {address: key for (where, key), address in self.pins.items() if where == network.id}
        for key, name in names.items():
            lease = self.leases.get((network.name, key)) if key is not None and key not in own else None
            told = _ipv4(lease)
            if lease is None or told is None or key is None:
                continue
            pinned, holder = self.pins.get((network.id, key)), holders.get(told)
            if pinned is not None and pinned != told:
                self._refuse(network, key, told, (pinned,))
                self.conditions.append(
                    Condition(
                        name,
                        f"the mediator moves its address in '{network.name}' from {pinned} to {told}: refused, "
                        f"{pinned} stays. If it is meant, put it under `addresses:` in the document, or "
                        f"`netctl leases forget {name}`",
                    )
                )
            elif pinned is None and holder is not None and holder in names:
                self._refuse(network, key, told, ())
                self.conditions.append(
                    Condition(
                        name,
                        f"the mediator gives it {told} in '{network.name}', the address of '{names[holder]}': "
                        f"refused. If it is meant, `netctl leases forget {names[holder]}`",
                    )
                )
            elif pinned is None and network.ipv4 is not None and told in network.ipv4 and told not in fixed:
                if holder is not None:
                    del self.pins[network.id, holder]  # the holder is no longer a member of this network
                self.pins[network.id, key] = told
                holders[told] = key

    def _refuse(
        self, network: Network, key: WireGuardKey, told: IPv4Address, instead: tuple[IPv4Address, ...]
    ) -> None:
        where = network.name, key
        lease = self.leases[where]
        others = tuple(address for address in lease.addresses if address.version != 4)
        self.leases[where] = replace(lease, addresses=(*instead, *others))
        self.refused[network.id, key] = told


def _ipv4(lease: Lease | None) -> IPv4Address | None:
    addresses = lease.addresses if lease is not None else ()
    return next((address for address in addresses if isinstance(address, IPv4Address)), None)


def _fixes(network: Network, name: str) -> bool:
    return any(address.version == 4 for address in network.addresses.get(name, ()))
