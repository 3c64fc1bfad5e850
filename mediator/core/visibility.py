"""Who may see whom, from the document alone."""

from __future__ import annotations

from netctl.config.build import select
from netctl.model.document import Document, Network


def visible_members(document: Document) -> dict[str, frozenset[str]]:
    """For each present member the others that some network and ACL let it see, itself included."""
    seen: dict[str, set[str]] = {
        name: {name} for network in document.networks.values() for name in network.member_names
    }
    for network in document.networks.values():
        for group in _cliques(document, network):
            for name in group:
                seen[name] |= group
        for sources, destinations in _directions(document, network):
            for name in sources:
                seen[name] |= destinations
            for name in destinations:
                seen[name] |= sources
    return {name: frozenset(others) for name, others in seen.items()}


def _cliques(document: Document, network: Network) -> list[set[str]]:
    """Groups whose members all see each other: the whole network where no ACL parts it."""
    return [set(network.member_names)] if network.acls is None else []


def _directions(document: Document, network: Network) -> list[tuple[set[str], set[str]]]:
    """Sources and destinations of each rule; a gateway stands for the prefixes behind it."""
    members = {name: document.members[name] for name in network.member_names}
    gateways = {name for name, member in members.items() if member.routes}
    if network.hub is not None:
        gateways.add(network.hub)
    pairs = []
    for rule in network.acls or ():
        sides = []
        for selectors in (rule.src, rule.dst):
            names = set(select(selectors, members))
            if any("/" in selector for selector in selectors) or network.hub is not None:
                names |= gateways
            sides.append(names)
        pairs.append((sides[0], sides[1]))
    return pairs
