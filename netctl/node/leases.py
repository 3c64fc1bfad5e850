"""The lease pins: the addresses that this host has seen and holds its mediator to (`netctl.config.resolve.pins`)."""

from __future__ import annotations

from typing import Any

from netctl.config import Pins
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.node.state import NodeState


def rows(state: NodeState) -> list[dict[str, Any]]:
    """The rows of `netctl leases`: every pinned lease, and where the mediator contradicts it."""
    document, told = state.document, state.leases_refused
    networks = {network.id: network.name for network in document.networks.values()} if document else {}
    names = {key: member.name for key, member in (state.believed.members if state.believed else {}).items()}
    if document is not None:
        names |= {member.wireguard: name for name, member in document.members.items() if member.wireguard}
    return [
        {
            "network": networks.get(network, network),
            "member": names.get(key),
            "key": str(key),
            "address": str(state.pins[network, key]) if (network, key) in state.pins else None,
            "refused": str(told[network, key]) if (network, key) in told else None,
        }
        for network, key in sorted({*state.pins, *told})
    ]


def without(state: NodeState, who: str | None) -> Pins:
    """The pins without those of one member, by name or key; None: of all. Raises LocalError when it has none."""
    keys = {
        WireGuardKey.parse(row["key"])
        for row in rows(state)
        if who is None or who in (row["member"], row["key"])
    }
    if who is not None and not keys:
        raise LocalError(f"this host has seen no lease of '{who}'; `netctl leases` shows all")
    return {where: address for where, address in state.pins.items() if where[1] not in keys}
