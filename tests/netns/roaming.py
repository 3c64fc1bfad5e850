"""Pings whose answers are dated: what a change on the way cost, in seconds of silence."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from netctl.lab.internet import Lab
from tests.support.patience import BUSY_S

EVERY_S = 0.05
UNDER_WAY = 10
"""Pings of the last half second: whoever is stopped just then may have had no time for their answers."""
_ANSWER = re.compile(r"^\[(\d+\.\d+)\] .*icmp_seq=(\d+)", re.MULTILINE)


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
    argv = ["ping", "-n", "-D", "-i", str(EVERY_S), target]
    process = lab.node(one).popen(["sh", "-c", 'echo $$; exec "$@"', "ping", *argv])
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    heard = Silence()
    try:
        yield heard
    finally:
        lab.node(one).kill(pid, signal.SIGINT)
        said = process.communicate(timeout=BUSY_S)[0]
    found = _ANSWER.findall(said)
    heard.answers = [float(at) for at, _ in found]
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    assert counts is not None, said
    answered = {int(number) for _, number in found}
    newest = max(answered, default=0)
    unanswered_at_the_end = int(counts.group(1)) - newest
    heard.lost = newest - len(answered) + max(0, unanswered_at_the_end - UNDER_WAY)
    assert len(heard.answers) > 20, said
