"""The numbers of views: they never go back, over restarts, clocks that step, and backups put back.

A member refuses a view whose generation is below one that it has seen (docs/protocol.md, "Views"). A run therefore
begins above all that was ever shown, in two ways at once:

- its clock is the upper part of the number: a run that starts in a later second begins higher than any run before,
  also where the store of those runs is lost or an old copy of it was put back;
- the store has what earlier runs have reserved: a clock that went back changes nothing.

Only a clock that is wrong *and* a store that is old show less. `netctl-mediator restore` refuses that.
"""

from __future__ import annotations

PER_SECOND_BITS = 20
"""A run reserves 2^20 numbers at once and uses one a change: fewer than a million changes a second, and less than one
start a second, keep the number behind the clock. 33 bits of seconds and these fit into 53, which JSON carries."""
RESERVE = 1 << PER_SECOND_BITS
"""Changes for which the store is asked at once: one write a start, not one a change."""
AHEAD_S = 86_400
"""So far a store may be ahead of the clock: restarts by the thousand within seconds, time zones set by hand."""


def first_generation(unix_s: int, reserved: int) -> int:
    """Where a run begins, by the clock (seconds since 1970) and what the store has reserved."""
    return max(unix_s << PER_SECOND_BITS, reserved)


def clock_is_behind(unix_s: int, reserved: int) -> bool:
    """Whether the store was written at a time that this clock has not reached yet."""
    return reserved >> PER_SECOND_BITS > unix_s + AHEAD_S


def written_s(reserved: int) -> int:
    """Roughly when the store was written, in seconds since 1970."""
    return reserved >> PER_SECOND_BITS
