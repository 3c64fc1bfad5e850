"""Sets of ports as spans, (first, last), both included: short for the wire and for people."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]


def spans(ports: Iterable[int], most: int = 65_535) -> list[Span]:
    """The ports as at most `most` spans, in order.

    Where there would be more, the spans with the smallest gaps between them are joined: the result then has ports that
    were not in the set, and all that were.
    """
    found: list[Span] = []
    for port in sorted(set(ports)):
        if found and found[-1][1] == port - 1:
            found[-1] = found[-1][0], port
        else:
            found.append((port, port))
    excess = len(found) - most
    if excess > 0:
        narrowest = sorted(range(1, len(found)), key=lambda at: found[at][0] - found[at - 1][1])[:excess]
        for at in sorted(narrowest, reverse=True):
            found[at - 1 : at + 1] = [(found[at - 1][0], found[at][1])]
    return found


def checked(rows: Iterable[Iterable[int]]) -> list[Span]:
    """Spans that somebody else wrote. Raises ValueError unless they are ports, in order and apart, as `spans` has them:
    so they name each port once at most.
    """
    found: list[Span] = []
    end = 0
    for first, last in rows:
        if not end < int(first) <= int(last) <= 65_535:
            raise ValueError("these are no spans of ports")
        end = int(last)
        found.append((int(first), end))
    return found


def ports_in(some: Iterable[Span]) -> frozenset[int]:
    """All ports of these spans."""
    return frozenset(port for first, last in some for port in range(first, last + 1))


def spans_text(some: Iterable[Span]) -> str:
    """For people: ``40007, 40100-40102``."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in some)
