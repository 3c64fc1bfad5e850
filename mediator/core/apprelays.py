"""At which relay a stock WireGuard app meets each of its peers: what its exported configuration names.

| the pair                                                  | its relay                                          |
|-----------------------------------------------------------|----------------------------------------------------|
| the document names a relay for the app                    | that one; of two apps the one that stands first    |
| the peer has told how far the relays are, and one that    | the nearest to the peer: wherever the app is, that |
| knows the pairs is much nearer to it than the mediator's  | is hardly a detour                                 |
| (one apart that has registered, or one beside another     |                                                    |
| mediator of the store)                                    |                                                    |
| any other                                                 | the one beside the mediator                        |

The peer's agent is bound at all of them (`netctl.paths.relaychoice`), so an older configuration goes on working.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from netctl.model.document import Document, Mediator, Member
from netctl.paths.relaychoice import BESIDE, OUT_OF_REACH_MS, much_better


def relay_of_pair(
    document: Document,
    app: Member,
    peer: Member,
    distances: Mapping[str, int],
    registered: Container[str],
    beside: Mapping[str, Mediator],
) -> Mediator | None:
    """The relay of a pair; None: the one beside the mediator.

    `distances`: the peer's round trips to relays in milliseconds, by name. `registered`: the relays apart that have
    been told the pairs; `beside`: the mediators of the store by their relays' names.
    """
    if (host := named(document, app, peer)) is not None:
        return next((one for one in document.mediators if one.host == host and one.relay_only), None)
    own = distances.get(BESIDE)
    near = [
        (distances[name], one)
        for one in document.mediators
        if (name := one.relay_name) in distances and name in (registered if one.relay_only else beside)
    ]
    if peer.stock or own is None or not near:
        return None
    rtt_ms, best = min(near, key=lambda found: found[0])
    return best if rtt_ms < OUT_OF_REACH_MS and much_better(rtt_ms, own) else None


def named(document: Document, app: Member, peer: Member) -> str | None:
    """The host of the relay that the document names for this pair; None: none."""
    first = (name for name in document.members if name in (app.name, peer.name))
    hosts = (document.members[name].at_relay for name in first)
    return next((host for host in hosts if host), None)
