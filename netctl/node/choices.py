"""What the people at a host have chosen beside its document: networks that are down, an invite and its terms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from netctl.model.document import Document


@dataclass(frozen=True, slots=True)
class Down:
    """What the user has taken down."""

    everything: bool = False
    networks: frozenset[str] = frozenset()

    def of(self, document: Document) -> Document:
        """The document without what is down."""
        kept = {
            name: network
            for name, network in document.networks.items()
            if not self.everything and name not in self.networks
        }
        return replace(document, networks=kept)


NOTHING_DOWN = Down()


@dataclass(frozen=True, slots=True)
class Joined:
    """This host joined by invite: its document comes with the mediator's views."""

    network: str
    routes: bool = False
    """Whether the person at this host takes whatever routes the mediator gives."""
