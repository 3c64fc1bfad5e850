"""Counts the packets that the filter has dropped since it was loaded, by reason, and explains the reasons."""

from __future__ import annotations

import json
from collections import Counter

from netctl.engine.filter.nft import nft
from netctl.engine.filter.ruleset_acl import FAMILY
from netctl.model.errors import EngineError
from netctl.model.hoststate import FILTER_TABLE

MEANINGS = {
    "default deny": "no ACL allows them",
    "overlay address from elsewhere": "sent to an overlay address of this host by a way that is no tunnel",
    "overlay source from elsewhere": "in the name of a member, by a way that is no tunnel",
    "source from elsewhere": "towards a member, by a link that does not lead back to their sender",
    "forwarded into the tunnel": "sent on by this host, from a network that is not in its `routes`",
    "segment from elsewhere": "frames for a `lan` network by a way that is no tunnel",
    "tunnel in a tunnel": "WireGuard's own, inside a tunnel",
    "forged MAC": "frames of a member with the address of another",
    "forged IPv4": "frames of a member with the IPv4 address of another",
    "forged IPv6": "frames of a member with the IPv6 address of another",
    "forged ARP": "ARP of a member for an address of another",
    "forged ND": "neighbour discovery of a member for an address of another",
    "foreign sender": "frames of somebody who is not in that `lan` network",
    "foreign segment": "frames for a `lan` network that their sender is not in",
    "no start": "of a connection that an ACL has ended, to be begun again in its middle",
    "VLAN tag": "frames with a VLAN tag",
    "ethertype": "frames of a kind that `ethertypes:` does not name",
    "flood": "more broadcast of one member than a LAN makes",
    "outer fragment": "frames in fragments",
    "stock destination": "to a stock app, which no ACL allows",
}
"""Descriptions of dropped packets, by the comment of the rule that counted and dropped them."""


def counted(listing: str) -> dict[str, int]:
    """Packets by reason, from the output of `nft -j list table`. Raises ValueError, KeyError or TypeError."""
    found: Counter[str] = Counter()
    for entry in json.loads(listing)["nftables"]:
        rule = entry.get("rule", {})
        if "comment" not in rule or {"drop": None} not in rule["expr"]:
            continue
        for part in rule["expr"]:
            if "counter" in part:
                found[rule["comment"]] += part["counter"]["packets"]
    return {reason: packets for reason, packets in found.items() if packets}


def dropped() -> dict[str, int]:
    """Packets by reason since the filter was loaded, without zero counts. Blocking: seconds for 10,000 rules.

    Empty where there is no filter. Raises EngineError.
    """
    listing = nft(["-j", "list", "table", FAMILY, FILTER_TABLE])
    if listing.returncode != 0:
        return {}
    try:
        return counted(listing.stdout)
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError("nft gave another listing than was expected") from error
