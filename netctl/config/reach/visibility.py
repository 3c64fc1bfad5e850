"""Computes which members each member may see, from the document alone.

Members with the same groups share one set object: ten thousand members of one network need one set, and the views
made from it are made once.
"""

from __future__ import annotations

from netctl.config.load.build import Selection
from netctl.model.document import Document, Network


def visible_members(document: Document) -> dict[str, frozenset[str]]:
    """For each present member, the members that some network and ACL let it see, including itself."""
    groups: dict[str, list[frozenset[str]]] = {}
    for network in document.networks.values():
        for name in network.member_names:
            groups.setdefault(name, [])
        for viewers, seen in _groups(document, network):
            for name in viewers:
                groups[name].append(seen)
    made: dict[frozenset[frozenset[str]], frozenset[str]] = {}
    found: dict[str, frozenset[str]] = {}
    for name, sets in groups.items():
        which = frozenset(sets)
        union = made.get(which)
        if union is None:
            union = made[which] = next(iter(which)) if len(which) == 1 else frozenset().union(*which)
        found[name] = union if name in union else union | {name}
    return found


def _groups(document: Document, network: Network) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Pairs of a group and the members that all of the group may see; without ACLs both are the whole network."""
    if network.acls is None:
        everybody = frozenset(network.member_names)
        return [(everybody, everybody)]
    pairs = []
    for sources, destinations in _directions(document, network):
        pairs += [(sources, destinations), (destinations, sources)]
    return pairs


def _directions(document: Document, network: Network) -> list[tuple[frozenset[str], frozenset[str]]]:
    """The members that are source and destination of each rule; gateways stand for the prefixes behind them."""
    selection = Selection({name: document.members[name] for name in network.member_names})
    gateways = {name for name in network.member_names if document.members[name].routes}
    if network.hub is not None:
        gateways.add(network.hub)
    pairs = []
    for rule in network.acls or ():
        sides = []
        for selectors in (rule.src, rule.dst):
            names = set(selection.names(selectors))
            if any("/" in selector for selector in selectors) or network.hub is not None:
                names |= gateways
            sides.append(frozenset(names))
        pairs.append((sides[0], sides[1]))
    return pairs
