"""Values for a host's packet filter (nftables, iptables), as far as netctl understands it, and for packets to examine.

Parts that netctl does not understand are kept and marked: a walk that reaches such a part answers "unknown".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from netctl.model.addresses import Prefix

Action = Literal["accept", "drop", "reject", "return", "jump", "goto", "continue", "unknown"]
Hook = Literal["input", "forward"]
NOT_UNDERSTOOD = "?"
"""The subject of a match that netctl does not understand.

The subjects that it understands are: iifname, oifname, nfproto, l4proto, saddr, daddr, sport, dport, ctstate,
ctstatus, ctdirection, pkttype, daddrtype, saddrtype, icmptype, tcpflags, and extension (headers of IPv6, fragments),
which no examined packet has.
"""

Range = tuple[int, int]
"""First and last number, inclusive."""
Value = str | Range | Prefix


@dataclass(frozen=True, slots=True)
class Match:
    """One condition of a rule: the subject must have one of the values (`negated`: none of them)."""

    subject: str
    values: tuple[Value, ...] = ()
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. The action `unknown` may do anything, or nothing."""

    matches: tuple[Match, ...]
    action: Action
    target: str = ""
    """The chain to jump or go to."""
    handle: int = 0
    """The number that nftables gives the rule in its table; 0: unknown."""
    text: str = ""
    """As `iptables -S` writes it, else empty."""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; a base chain has a hook (``input``, ``forward`` and others)."""

    name: str
    rules: tuple[Rule, ...] = ()
    hook: str = ""
    priority: int = 0
    policy: Literal["accept", "drop"] = "accept"
    kind: str = "filter"


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `family`: ip, ip6 or inet."""

    family: str
    name: str
    chains: Mapping[str, Chain] = field(default_factory=dict)
    is_iptables: bool = False
    """Written by iptables, which must also be used to change the table."""
    is_legacy: bool = False
    """Written by the old iptables, which works beside nftables."""


@dataclass(frozen=True, slots=True)
class PacketFilter:
    """All tables of the host that are not ours."""

    tables: tuple[Table, ...] = ()
    unread: str = ""
    """Why a part of it could not be read, for people; empty: all of it was read."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as it arrives at a hook. An address may be a prefix, which stands for any address in it."""

    hook: Hook
    iif: str
    source: Prefix
    destination: Prefix
    protocol: str
    """``tcp``, ``udp`` or ``icmp`` (an echo request, of ICMPv6 in IPv6)."""
    port: int = 0
    """The destination port; 0: the protocol has none."""
    oif: str = ""
    """Only in the hook forward."""
    state: Literal["new", "established"] = "new"
    is_broadcast: bool = False

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.destination.version


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk ended: a rule, or without one the policy of a base chain. `base`: the base chain that the walk
    began in.
    """

    table: Table = field(repr=False)
    base: str
    chain: str
    rule: Rule | None = None

    def __str__(self) -> str:
        where = f"chain {self.chain} of table {self.table.family} {self.table.name}"
        if self.rule is None:
            return f"policy drop, {where}"
        if self.rule.text:
            return f"{self.rule.text}, {where}"
        handle = f" handle {self.rule.handle}" if self.rule.handle else ""
        comment = f' "{self.rule.comment}"' if self.rule.comment else ""
        return f"{self.rule.action}{comment}, {where}{handle}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a packet: it passes, it is dropped (or rejected) at `at`, or the verdict is unknown."""

    kind: Literal["passes", "dropped", "unknown"]
    at: Place | None = None
    why: str = ""
    """For `unknown`: what is not understood."""
