"""Pings whose answers are dated: what a change on the way cost, in seconds of silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from netctl.lab.internet import Lab
from tests.support.lablife import Pinging


@dataclass
class Silence:
    """What was heard; complete when `pings` has ended."""

    answers: list[float] = field(default_factory=list)
    """Unix times."""
    lost: int = 0

    @property
    def longest_s(self) -> float:
        """Between two answers that follow each other."""
        return max(after - before for before, after in zip(self.answers, self.answers[1:], strict=False))


@contextmanager
def pings(lab: Lab, one: str, target: str) -> Iterator[Silence]:
    """Ping all the time, until the end of the block."""
    running = Pinging(lab.node(one), target)
    heard = Silence()
    try:
        yield heard
    finally:
        running.tell_to_end()
        pinged = running.ended()
    heard.answers, heard.lost = pinged.answers, pinged.lost
    assert len(heard.answers) > 20, pinged
