"""Describes a peer's NAT in words, and explains from both NATs why a pair has no direct path. Without I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from netctl.model.addresses import SocketAddress
from netctl.paths.candidates import is_private
from netctl.wire.control import Nat

OUTSIDE = frozenset({"srflx", "mapped", "explicit"})
"""Kinds of candidates that are addresses outside a NAT, or of a host without a NAT."""
MAPPINGS = {
    "fixed": "endpoint-independent mapping",
    "sequential": "symmetric mapping, ports counted",
    "block": "symmetric mapping, random ports of a block",
    "random": "symmetric mapping, random ports",
}


def _seen_outside(remote: Mapping[SocketAddress, str]) -> bool:
    """Whether any of a peer's candidates is an address outside a NAT: seen by a server, or a public one of its own."""
    return any(kind in OUTSIDE or not is_private(address) for address, kind in remote.items())


def peer_nat(nat: Nat | None, remote: Mapping[SocketAddress, str]) -> str:
    """The peer's IPv4 NAT in words, from its last offer: `nat`, and its candidates with their kinds.

    Empty: the peer has offered nothing yet.
    """
    if not remote:
        return ""
    if nat is None:
        return "unknown" if _seen_outside(remote) else "unknown: no server saw it over UDP"
    if nat.allocation == "fixed" and any(
        address.host == nat.address and kind == "host" for address, kind in remote.items()
    ):
        return "none: it has a public address"
    return MAPPINGS[nat.allocation]


def blocker(
    own: Nat | None,
    peer: Nat | None,
    remote: Mapping[SocketAddress, str],
    ours: Collection[SocketAddress] = (),
) -> str | None:
    """Why a pair has no direct path after an attempt; None: the knowledge of both sides does not explain it.

    `remote`: the peer's candidates and their kinds; `ours`: our own addresses.
    """
    families, theirs = {one.is_ipv6 for one in ours}, {one.is_ipv6 for one in remote}
    if families and theirs and not families & theirs:
        mine, other = ("IPv6", "IPv4") if True in families else ("IPv4", "IPv6")
        return f"this host has {mine} alone and the peer {other} alone: only the relay joins the two"
    if remote and not _seen_outside(remote):
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
