"""Pings whose late answers count."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Run = Callable[[Sequence[str]], str]
"""Runs a program on the host that pings; returns what it wrote, whatever its exit status."""

WAIT_S = 2.0
"""Seconds that late answers have by default: a thousand times the round trip inside one machine."""
_ANSWER = re.compile(r"icmp_seq=(\d+) (?:ttl|hlim)=")
_MEAN = re.compile(r"= [\d.]+/([\d.]+)/")


@dataclass(frozen=True, slots=True)
class Pings:
    """What became of some pings."""

    lost: int
    """Those that had no answer."""
    mean_ms: float | None
    """Mean round-trip time; None: no ping was answered."""
    said: str
    """What ping wrote."""


def pinged(
    run: Run, target: str, count: int, *options: str, interval_s: float = 0.2, wait_s: float = WAIT_S
) -> Pings:
    """Send `count` pings to an address or name; answers may come up to `wait_s` seconds after the last ping.

    A ping (iputils) that was told a count alone ends after twice the longest round trip so far: on a busy machine its
    last answer comes later. Told a deadline too, it goes on until it has so many answers; the pings that it sends
    meanwhile are not counted here.
    """
    deadline_s = math.ceil(count * interval_s + wait_s)
    said = run(
        ["ping", "-n", "-c", str(count), "-i", str(interval_s), "-w", str(deadline_s), *options, target]
    )
    answered = {int(number) for number in _ANSWER.findall(said)}
    mean = _MEAN.search(said)
    return Pings(count - sum(number <= count for number in answered), float(mean[1]) if mean else None, said)
