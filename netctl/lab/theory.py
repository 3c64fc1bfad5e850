"""What two boxes allow a pair of hosts behind them, in RFC 4787's words; pure.

The mediator tells each host the outside port that it sees of the other, and both send at one moment. That is plain
hole punching; the rest needs a port to be guessed, or cannot be.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from netctl.lab.nat import NatKind


class Verdict(StrEnum):
    """How a pair can get a direct path."""

    DIRECT = "direct"  # plain hole punching
    PREDICTED = "predicted"  # the next ports of one side are tried
    BIRTHDAY = "birthday"  # many ports on one side, many guesses on the other
    RELAYED = "relayed"  # no way in theory


ENDPOINT_INDEPENDENT_FILTER = frozenset(
    kind for kind in NatKind if kind in ("open", "full-cone", "symmetric-full-cone")
)
"""Whoever sends to the port that the mediator sees gets in (RFC 4787 §5)."""
ADDRESS_DEPENDENT_FILTER = frozenset({NatKind.ADDRESS_RESTRICTED})
COUNTED = frozenset({NatKind.SYMMETRIC_SEQUENTIAL, NatKind.PORT_BLOCK})
"""The next port lies in a window small enough to try all of it."""
SCATTERED = frozenset({NatKind.SYMMETRIC_RANDOM, NatKind.ADDRESS_DEPENDENT})
"""The port towards a peer may be any: what the mediator sees holds for the mediator alone (§4.1)."""
HARD = COUNTED | SCATTERED


def theory(one: NatKind, other: NatKind) -> Verdict:
    """What is possible between hosts behind these, each behind a box of its own."""
    if NatKind.UDP_BLOCKED in (one, other):
        return Verdict.RELAYED
    if one in ENDPOINT_INDEPENDENT_FILTER or other in ENDPOINT_INDEPENDENT_FILTER:
        return Verdict.DIRECT  # that side's port is known and lets everybody in; the answer leaves by it
    hard = [kind for kind in (one, other) if kind in HARD]
    if not hard:
        return Verdict.DIRECT
    if len(hard) == 2:
        return Verdict.RELAYED
    easy = other if hard[0] is one else one
    if easy in ADDRESS_DEPENDENT_FILTER:
        return Verdict.DIRECT  # from whatever port the other comes
    return Verdict.PREDICTED if hard[0] in COUNTED else Verdict.BIRTHDAY


SHARES: Mapping[str, tuple[float, tuple[str, ...]]] = {
    "open": (8, ("open",)),
    "firewall only": (3, ("firewall",)),
    "full cone or port-mapped": (15, ("full-cone",)),
    "address-restricted": (4, ("address-restricted",)),
    "port-restricted, port kept": (40, ("port-restricted",)),
    "port changed, and CGN": (12, ("port-changed", "cgn")),
    "symmetric, random ports": (9, ("symmetric-random",)),
    "symmetric, sequential or block": (4, ("symmetric-sequential", "port-block")),
    "address-dependent mapping": (1, ("address-dependent",)),
    "symmetric, full-cone filter": (1, ("symmetric-full-cone",)),
    "UDP blocked": (3, ("udp-blocked",)),
}
"""Per cent of users, and the kinds of box that stand for them, in equal parts."""
BLOCKED = "UDP blocked"


def shares_of_kinds(present: frozenset[str], blocked_percent: float | None = None) -> dict[str, float]:
    """Share of users of each kind that is present, 0 to 1; the sum is 1.

    `blocked_percent`: another share of those whose UDP is blocked; the others grow in proportion. A group of which
    no kind is present is left out, and the others grow.
    """
    groups = {name: share for name, (share, kinds) in SHARES.items() if present & set(kinds)}
    if blocked_percent is not None and BLOCKED in groups:
        others = sum(groups.values()) - groups[BLOCKED]
        scale = (100 - blocked_percent) / others
        groups = {
            name: blocked_percent if name == BLOCKED else share * scale for name, share in groups.items()
        }
    total = sum(groups.values())
    found: dict[str, float] = {}
    for name, share in groups.items():
        kinds = [kind for kind in SHARES[name][1] if kind in present]
        for kind in kinds:
            found[kind] = share / total / len(kinds)
    return found
