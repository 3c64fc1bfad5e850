"""The flows that are allowed from one member to another, as a set with subtraction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from netctl.model.document import Rule

Ranges = tuple[tuple[int, int], ...]
"""Closed ranges of ports, or of ethertypes for ``ethernet``; sorted, not adjacent."""
EVERY_PORT: Ranges = ((0, 65535),)
ETHERNET = "ethernet"


@dataclass(frozen=True, slots=True)
class Flows:
    """A set of flows. `everything`: any protocol; then `by_proto` is empty."""

    everything: bool = False
    by_proto: Mapping[str, Ranges] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.everything or bool(self.by_proto)

    def minus(self, other: Flows) -> Lost:
        """The flows in this set that are not in the other."""
        if other.everything:
            return Lost()
        if self.everything:
            return Lost(everything=True, but=tuple(other.words()))
        left = {
            proto: ranges
            for proto, mine in self.by_proto.items()
            if (ranges := _minus(mine, other.by_proto.get(proto, ())))
        }
        return Lost(words=tuple(Flows(by_proto=left).words()))

    def words(self) -> Iterator[str]:
        """The flows in words: ``tcp/22``, ``udp/1000-2000``, ``icmp``, ``ethernet/0x8137``, or ``everything``."""
        if self.everything:
            yield "everything"
        for proto, ranges in sorted(self.by_proto.items()):
            if ranges == EVERY_PORT:
                yield proto
                continue
            for first, last in ranges:
                ends = [f"{end:#06x}" if proto == ETHERNET else str(end) for end in (first, last)]
                yield f"{proto}/{ends[0] if first == last else '-'.join(ends)}"


@dataclass(frozen=True, slots=True)
class Lost:
    """A difference of two sets in words: some flows, or everything `but` some."""

    words: tuple[str, ...] = ()
    everything: bool = False
    but: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.everything or bool(self.words)

    def plain(self) -> list[str]:
        """The difference as a list of words; ``everything but tcp/22, icmp`` is one word."""
        if not self.everything:
            return list(self.words)
        return [f"everything but {', '.join(self.but)}" if self.but else "everything"]


def flows_of(rules: Iterable[Rule]) -> Flows:
    """The flows that these rules allow together."""
    by_proto: dict[str, list[tuple[int, int]]] = {}
    for rule in rules:
        if rule.proto is None and not rule.ports:
            return Flows(everything=True)
        ranges = [(port.first, port.last) for port in rule.ports] or [
            (kind, kind) for kind in rule.ethertypes
        ]
        by_proto.setdefault(rule.proto or "any", []).extend(ranges or EVERY_PORT)
    return Flows(by_proto={proto: _joined(ranges) for proto, ranges in by_proto.items()})


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def _minus(mine: Ranges, other: Ranges) -> Ranges:
    left = list(mine)
    for first, last in other:
        kept = []
        for low, high in left:
            if high < first or low > last:
                kept.append((low, high))
                continue
            if low < first:
                kept.append((low, first - 1))
            if high > last:
                kept.append((last + 1, high))
        left = kept
    return tuple(left)
