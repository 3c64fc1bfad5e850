"""Generations of views: they never decrease, despite restarts, clock steps, and restored backups.

A member refuses a view whose generation is below one that it has seen (docs/protocol.md, "Views"). So a run of the
mediator begins above all earlier generations, in two ways at once:

- the clock is the upper part of the number: a run that starts in a later second begins above all earlier runs, even if
  their store is lost or an old copy was restored;
- the store holds the generations that earlier runs reserved: a clock that went back has no effect.

Only a wrong clock together with an old store gives a lower generation. `netctl-mediator restore` refuses that.
"""

from __future__ import annotations

PER_SECOND_BITS = 20
"""A run reserves 2^20 numbers at once and uses one per change: with fewer than a million changes a second, and less
than one start a second, the number stays behind the clock. 33 bits of seconds plus these fit into JSON's 53 bits.
"""
RESERVE = 1 << PER_SECOND_BITS
"""Generations reserved by one write to the store: one write per start, not per change."""
AHEAD_S = 86_400
"""Most seconds that a store may be ahead of the clock: many restarts within seconds, time zones set by hand."""


def first_generation(unix_s: int, reserved: int) -> int:
    """The first generation of a run, from the clock (seconds since 1970) and the reserved generation in the store."""
    return max(unix_s << PER_SECOND_BITS, reserved)


def clock_is_behind(unix_s: int, reserved: int) -> bool:
    """Whether the store was written at a time ahead of this clock by more than AHEAD_S."""
    return reserved >> PER_SECOND_BITS > unix_s + AHEAD_S


def written_s(reserved: int) -> int:
    """Roughly when the store was written, in seconds since 1970."""
    return reserved >> PER_SECOND_BITS
