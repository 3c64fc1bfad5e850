"""What two members know of each other's NATs, in words, and why their pair has no direct path. Pure."""

from __future__ import annotations

from collections.abc import Collection

from netctl.wire.control import Nat

OUTSIDE = frozenset({"srflx", "mapped", "explicit"})
"""Kinds of candidates that are addresses outside of a NAT, or of no NAT."""
MAPPINGS = {
    "fixed": "endpoint-independent mapping",
    "sequential": "symmetric mapping, ports counted",
    "block": "symmetric mapping, random ports of a block",
    "random": "symmetric mapping, random ports",
}


def peer_nat(nat: Nat | None, hosts: Collection[str], kinds: Collection[str]) -> str:
    """The peer's IPv4 NAT, from its last offer: `nat`, the addresses of its interfaces, the kinds of its candidates.

    Empty: it has offered nothing yet.
    """
    if not kinds:
        return ""
    if nat is None:
        return "unknown" if OUTSIDE & set(kinds) else "unknown: no server saw it over UDP"
    if nat.allocation == "fixed" and nat.address in hosts:
        return "none: it has a public address"
    return MAPPINGS[nat.allocation]


def hindrance(own: Nat | None, peer: Nat | None, kinds: Collection[str]) -> str | None:
    """Why a pair that tried has no direct path; None: nothing that the two sides know explains it.

    `kinds` are those of the peer's candidates.
    """
    if kinds and not OUTSIDE & set(kinds):
        return "no server saw the peer over UDP, which is probably blocked there"
    if own is None or peer is None:
        return None
    if own.allocation != "fixed" and peer.allocation != "fixed":
        return "both NATs give every destination another port, so neither side can know where to send"
    if "random" in (own.allocation, peer.allocation):
        whose = "this host's" if own.allocation == "random" else "the peer's"
        return f"{whose} NAT gives every destination another random port: only guessing finds it"
    if own.address == peer.address:
        return f"both are behind {own.address}, and neither their LAN nor its NAT lets them reach each other"
    if own.allocation == peer.allocation:
        return "both NATs would allow it, so a firewall on the way drops UDP, or an offer is out of date"
    return "one NAT gives every destination another port, and guessing the next one has not worked yet"
