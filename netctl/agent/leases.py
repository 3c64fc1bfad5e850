"""The leases that this host has seen and holds its mediator to (`netctl.config.pins`)."""

from __future__ import annotations

import sys
from typing import Any

from netctl.agent.memory import Memory
from netctl.config import Judged, Pins, judge_leases
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.model.view import View


class LeaseBook:
    """What is pinned, and what of the last view was believed."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.pins: Pins = memory.pins()
        self.judged = Judged(None, self.pins)

    def judge(self, document: Document, view: View | None, *, trusting: bool) -> Judged:
        """What to believe of a view. `trusting`: a host that joined has no document to hold against its mediator."""
        return judge_leases(document, view, {} if trusting else self.pins)

    def keep(self, *, trusting: bool) -> None:
        """The host lives by what was judged last: from now on only the document moves these."""
        if not trusting and self.judged.pins != self.pins:
            self.pins = self.judged.pins
            try:
                self._memory.keep_pins(self.pins)
            except OSError as error:  # a full disk stops no network
                reason = f"cannot keep the leases for the next start: {error.strerror}"
                print(reason, file=sys.stderr, flush=True)

    def rows(self, document: Document | None) -> list[dict[str, Any]]:
        """For people: every pinned lease, and what the mediator says against it."""
        networks = {network.id: network.name for network in document.networks.values()} if document else {}
        names = {
            key: member.name for key, member in (self.judged.view.members if self.judged.view else {}).items()
        }
        if document is not None:
            names |= {member.wireguard: name for name, member in document.members.items() if member.wireguard}
        told = self.judged.refused
        return [
            {
                "network": networks.get(network, network),
                "member": names.get(key),
                "key": str(key),
                "address": str(self.pins[network, key]) if (network, key) in self.pins else None,
                "refused": str(told[network, key]) if (network, key) in told else None,
            }
            for network, key in sorted({*self.pins, *told})
        ]

    def forget(self, who: str | None, document: Document | None) -> int:
        """Pin these anew when the mediator names them next; how many. None: all. Raises LocalError."""
        rows = [row for row in self.rows(document) if who is None or who in (row["member"], row["key"])]
        keys = {WireGuardKey.parse(row["key"]) for row in rows}
        if who is not None and not keys:
            raise LocalError(f"this host has seen no lease of '{who}'; `netctl leases` shows all")
        kept = {where: address for where, address in self.pins.items() if where[1] not in keys}
        try:
            self._memory.keep_pins(kept)
        except OSError as error:
            raise LocalError(f"cannot write down what is forgotten: {error.strerror}") from error
        gone, self.pins = len(self.pins) - len(kept), kept
        return gone
