"""What people chose on a host beside its document: which networks are down, and the terms of an invite."""

from __future__ import annotations

from dataclasses import dataclass, replace

from netctl.model.document import Document
from netctl.model.errors import LocalError


@dataclass(frozen=True, slots=True)
class Down:
    """The networks that the user has taken down."""

    everything: bool = False
    networks: frozenset[str] = frozenset()

    def of(self, document: Document) -> Document:
        """The document without the networks that are down."""
        kept = {
            name: network
            for name, network in document.networks.items()
            if not self.everything and name not in self.networks
        }
        return replace(document, networks=kept)

    def switched(self, document: Document | None, network: str | None, *, down: bool) -> Down:
        """The same choice with one network, or all (None), down or up. Raises LocalError when no network has that
        name.
        """
        if document is None:
            raise LocalError("this host has no document yet: run `netctl apply`")
        known = document.networks
        if network is not None and network not in known:
            raise LocalError(f"there is no network '{network}'; there are: {', '.join(known)}")
        if down:
            return Down(self.everything, self.networks | {network}) if network else Down(True, self.networks)
        if network is None:
            return Down()
        others = frozenset(known) if self.everything else self.networks
        return Down(False, others - {network})


NOTHING_DOWN = Down()


@dataclass(frozen=True, slots=True)
class Joined:
    """The record of a host that joined by invite: its document comes with the mediator's views."""

    network: str
    routes: bool = False
    """Whether the user of this host accepts every route that the mediator names."""
