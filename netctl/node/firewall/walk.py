"""Walks a packet through a host's packet filter: every base chain of its hook, by priority.

There are three answers: passes, dropped, unknown. Where a match or a statement is not understood, both branches are
walked, and the packet counts as dropped (or passed) only where all branches end so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from netctl.model.addresses import Prefix
from netctl.model.packetfilter import (
    Chain,
    Judgement,
    Match,
    Packet,
    PacketFilter,
    Place,
    Rule,
    Table,
    Value,
)

MAX_DEPTH = 64
"""Depth of chains inside chains; the kernel allows 16 (NFT_JUMP_STACK_SIZE)."""
EPHEMERAL = (32768, 60999)
"""The source port of a new flow (net.ipv4.ip_local_port_range as Linux has it)."""
UNPRIVILEGED = (1024, 65535)
Skips = Callable[[Table, Chain, Rule], bool]
"""Which rules the walk ignores."""


def _skip_none(table: Table, chain: Chain, rule: Rule) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class _Ends:
    """How a walk of one chain may end. `returns`: the packet may reach the chain's end."""

    accepts: bool = False
    drops: tuple[Place, ...] = ()
    unknown: tuple[Place, ...] = ()
    returns: bool = False


def judge(found: PacketFilter, packet: Packet, skips: Skips = _skip_none) -> Judgement:
    """What happens to this packet in all tables of a host."""
    families = ("inet", "ip" if packet.version == 4 else "ip6")
    bases = [
        (chain, table)
        for table in found.tables
        if table.family in families
        for chain in table.chains.values()
        if chain.hook == packet.hook and chain.kind != "nat"
    ]
    doubt: Place | None = None
    for chain, table in sorted(bases, key=lambda one: one[0].priority):
        ends = _Walk(table, packet, chain, skips).base()
        if ends.drops and not ends.accepts and not ends.unknown:
            # Whatever the earlier chains do, the packet is dropped here.
            return Judgement("dropped", ends.drops[-1])  # the last reason is certain, no guess
        if doubt is None:
            doubt = (*ends.unknown, *ends.drops, None)[0]
    if doubt is not None:
        return Judgement("unknown", doubt, f"what is not understood decides about it: {doubt}")
    return Judgement("unknown", None, found.unread) if found.unread else Judgement("passes")


class _Walk:
    """The walk of one packet from one base chain."""

    def __init__(self, table: Table, packet: Packet, base: Chain, skips: Skips) -> None:
        self._table, self._packet, self._base, self._skips = table, packet, base, skips
        self._known: dict[str, _Ends] = {}

    def base(self) -> _Ends:
        """How the walk of a base chain ends, its policy included."""
        ends = self._chain(self._base, 0)
        if not ends.returns:
            return ends
        if self._base.policy == "accept":
            return _Ends(True, ends.drops, ends.unknown)
        place = Place(self._table, self._base.name, self._base.name)
        return _Ends(ends.accepts, (*ends.drops, place), ends.unknown)

    def _place(self, chain: Chain, rule: Rule) -> Place:
        return Place(self._table, self._base.name, chain.name, rule)

    def _named(self, name: str, caller: Place, depth: int) -> _Ends:
        """The walk of a chain that is jumped to. A missing chain, or one that leads to itself, is not understood."""
        if name in self._known:
            return self._known[name]
        chain = self._table.chains.get(name)
        if chain is None or depth > MAX_DEPTH:
            return _Ends(unknown=(caller,), returns=True)
        # the entry stands while the chain is walked, so a loop is found
        self._known[name] = _Ends(unknown=(caller,), returns=True)
        self._known[name] = ends = self._chain(chain, depth)
        return ends

    def _chain(self, chain: Chain, depth: int) -> _Ends:
        accepts = returns = False
        drops: list[Place] = []
        unknown: list[Place] = []
        for rule in chain.rules:
            if rule.action == "continue" or self._skips(self._table, chain, rule):
                continue
            applies = _all(rule.matches, self._packet)
            if applies is False:
                continue
            place = self._place(chain, rule)
            leaves = applies is True
            """Whether no packet reaches the next rule."""
            match rule.action:
                case "accept":
                    accepts = True
                case "drop" | "reject":
                    drops.append(place)
                case "return":
                    returns = True
                case "jump" | "goto":
                    ends = self._named(rule.target, place, depth + 1)
                    accepts = accepts or ends.accepts
                    drops += ends.drops
                    unknown += ends.unknown
                    if rule.action == "goto":
                        returns = returns or ends.returns
                    else:
                        leaves = leaves and not ends.returns
                case _:
                    unknown.append(place)
                    leaves = False
            if leaves:
                return _Ends(accepts, tuple(drops), tuple(unknown), returns)
        return _Ends(accepts, tuple(drops), tuple(unknown), True)


def _all(matches: tuple[Match, ...], packet: Packet) -> bool | None:
    """Whether all conditions of a rule hold; None: unknown."""
    known = True
    for match in matches:
        holds = _holds(match, packet)
        if holds is False:
            return False
        known = known and holds is True
    return True if known else None


def _holds(match: Match, packet: Packet) -> bool | None:
    if match.subject == "oifname" and packet.hook == "input":
        # the value does not exist on this host; kernels differ in what "not this one" then means
        return None if match.negated else False
    test = _TESTS.get(match.subject)
    found = test(packet, match.values) if test is not None else None
    return found if found is None or not match.negated else not found


def _any(answers: Iterator[bool | None]) -> bool | None:
    known = True
    for answer in answers:
        if answer:
            return True
        known = known and answer is False
    return False if known else None


def _one_of(*names: str) -> Callable[[tuple[Value, ...]], bool | None]:
    return lambda values: _any(value in names if isinstance(value, str) else None for value in values)


def _link(name: str, values: tuple[Value, ...]) -> bool | None:
    def fits(value: Value) -> bool | None:
        if not isinstance(value, str) or not name:
            return None
        return name.startswith(value[:-1]) if value.endswith("*") else name == value

    return _any(map(fits, values))


def _inside(mine: Prefix, values: tuple[Value, ...]) -> bool | None:
    def fits(value: Value) -> bool | None:
        if isinstance(value, str | tuple):
            return None
        if value.version != mine.version or not mine.overlaps(value):
            return False
        return True if mine.prefixlen >= value.prefixlen else None

    return _any(map(fits, values))


def _number(low: int, high: int, values: tuple[Value, ...]) -> bool | None:
    def fits(value: Value) -> bool | None:
        if not isinstance(value, tuple):
            return None
        first, last = value
        if last < low or high < first:
            return False
        return True if first <= low and high <= last else None

    return _any(map(fits, values))


def _dport(packet: Packet, values: tuple[Value, ...]) -> bool | None:
    return _number(packet.port, packet.port, values) if packet.port else None


def _sport(packet: Packet, values: tuple[Value, ...]) -> bool | None:
    if packet.state != "new":
        return None
    if _number(*EPHEMERAL, values) is True:
        return True
    return False if _number(*UNPRIVILEGED, values) is False else None


def _protocol(packet: Packet) -> str:
    return "ipv6-icmp" if packet.protocol == "icmp" and packet.version == 6 else packet.protocol


def _destination_type(packet: Packet) -> str:
    if packet.is_broadcast:
        return "broadcast"
    return "local" if packet.hook == "input" else "unicast"


def _status(packet: Packet, values: tuple[Value, ...]) -> bool | None:
    return _any(False if value in ("dnat", "snat") else None for value in values)


def _flags(packet: Packet, values: tuple[Value, ...]) -> bool | None:
    """(flags looked at, flags set), joined by commas: a flow begins with SYN alone."""
    if packet.state != "new" or len(values) != 2 or not all(isinstance(value, str) for value in values):
        return None
    looked, wanted = (frozenset(str(value).split(",")) - {""} for value in values)
    return frozenset({"syn"}) & looked == wanted


_TESTS: dict[str, Callable[[Packet, tuple[Value, ...]], bool | None]] = {
    "iifname": lambda packet, values: _link(packet.iif, values),
    "oifname": lambda packet, values: _link(packet.oif, values),
    "nfproto": lambda packet, values: _one_of(f"ipv{packet.version}")(values),
    "l4proto": lambda packet, values: _one_of(_protocol(packet))(values),
    "saddr": lambda packet, values: _inside(packet.source, values),
    "daddr": lambda packet, values: _inside(packet.destination, values),
    "sport": _sport,
    "dport": _dport,
    "ctstate": lambda packet, values: _one_of(packet.state)(values),
    "ctstatus": _status,
    "ctdirection": lambda packet, values: _one_of("original" if packet.state == "new" else "reply")(values),
    "pkttype": lambda packet, values: _one_of(
        *(("broadcast",) if packet.is_broadcast else ("host", "unicast"))
    )(values),
    "daddrtype": lambda packet, values: _one_of(_destination_type(packet))(values),
    "saddrtype": lambda packet, values: _one_of("unicast")(values),
    "icmptype": lambda packet, values: _one_of("echo-request")(values),
    "tcpflags": _flags,
    "extension": lambda packet, values: False,
}
"""The subjects that are understood; a match on any other is unknown."""
