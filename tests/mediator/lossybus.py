"""A bus in memory that loses, doubles and reorders, between the cores of several mediators. Time is a number."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from mediator.core import busmessages as b


@dataclass
class LossyBus:
    """What was published comes to all runs that are not cut off, after a while of its own."""

    chance: random.Random
    loss: float = 0.0
    doubled: float = 0.0
    delay_s: float = 0.01
    jitter_s: float = 0.0
    cut: set[bytes] = field(default_factory=set)
    published: list[b.Message] = field(default_factory=list)
    _due: list[tuple[float, int, bytes, bytes]] = field(default_factory=list)
    _order: int = 0

    def publish(self, message: b.Message, runs: list[bytes], now: float) -> None:
        self.published.append(message)
        payload = b.encode(message)
        if message.run in self.cut:
            return
        for run in runs:
            if run == message.run or run in self.cut or self.chance.random() < self.loss:
                continue
            for _ in range(2 if self.chance.random() < self.doubled else 1):
                self._order += 1
                due = now + self.delay_s + self.chance.random() * self.jitter_s
                heapq.heappush(self._due, (due, self._order, run, payload))

    @property
    def due(self) -> float:
        """When the next message comes."""
        return self._due[0][0] if self._due else float("inf")

    def pop(self, now: float) -> list[tuple[bytes, b.Message]]:
        """What has come by now: the run it came to, and the message."""
        found = []
        while self._due and self._due[0][0] <= now:
            _, _, run, payload = heapq.heappop(self._due)
            if run not in self.cut:
                found.append((run, b.decode(payload)))
        return found
