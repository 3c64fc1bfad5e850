"""Which documents a mediator accepts: valid ones that name it."""

from __future__ import annotations

from netctl.config import load_document
from netctl.model.document import Document, Mediator
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey


def accept(text: str, where: str, identity: IdentityKey) -> tuple[Document, Mediator]:
    """A document and its entry for this server. Raises ConfigError or LocalError with the faults."""
    document = load_document(text, where).document
    return document, find_mediator(document, identity)


def find_mediator(document: Document, identity: IdentityKey) -> Mediator:
    """The document's entry for this server. Raises LocalError."""
    for mediator in document.mediators:
        if identity in mediator.identity:
            return mediator
    raise LocalError(f'no mediator of the document has this server\'s identity; add identity: ["{identity}"]')


def other_ports(document: Document, mediator: Mediator) -> str | None:
    """A warning if another entry with the same identity (a standby) names other ports; else None."""
    for other in document.mediators:
        same = set(other.identity) & set(mediator.identity) and not other.relay_only
        if same and (other.port, other.tls, other.stun, other.relay_ports) != (
            mediator.port,
            mediator.tls,
            mediator.stun,
            mediator.relay_ports,
        ):
            return (
                f"{other.host}:{other.port} has the identity of {mediator.host}:{mediator.port} in the document and "
                "other ports: the ports of the first are those that this server listens on"
            )
    return None
