"""Finds changed fixed endpoints, to which a document without mediators sends."""

from __future__ import annotations

from netctl.model.document import Document
from netctl.model.keys import WireGuardKey


def called_elsewhere(before: Document | None, after: Document) -> frozenset[WireGuardKey]:
    """The keys whose endpoints differ in `after`, so that even a live tunnel must move. `before` None: no keys."""
    if before is None or after.mediators:
        return frozenset()
    known = {member.wireguard: member.endpoints for member in before.members.values()}
    return frozenset(
        member.wireguard
        for member in after.members.values()
        if member.wireguard is not None and member.endpoints != known.get(member.wireguard, member.endpoints)
    )
