"""Time that jumps from event to event."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

UNIX_EPOCH = 1_800_000_000
"""What the wall clock shows when the world's own shows 0."""
TRACE_LINES = 80
"""Of the end of a story: what is printed when it fails."""


class Clock:
    """A heap of things to do, and what was said about them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.trace: deque[str] = deque(maxlen=TRACE_LINES)
        self.steps = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    @property
    def unix(self) -> int:
        """Seconds since 1970."""
        return UNIX_EPOCH + int(self.now)

    def say(self, text: str) -> None:
        """A line of the story."""
        self.trace.append(f"{self.now:10.3f} {text}")

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at a time; what is due at one time is done in the order it was asked for."""
        self._order += 1
        heapq.heappush(self._queue, (max(when, self.now), self._order, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later."""
        self.at(self.now + seconds, action)

    def run(self, seconds: float, after_step: Callable[[], None]) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            self.steps += 1
            action()
            after_step()
        self.now = end


class Timer:
    """One deadline that may be moved: the newest time counts."""

    def __init__(self, clock: Clock, action: Callable[[], None]) -> None:
        self._clock = clock
        self._action = action
        self._due: float | None = None

    def set(self, due: float | None) -> None:
        """When to call; None: not at all."""
        if due is None:
            self._due = None
        elif self._due is None or due < self._due:
            due = max(due, self._clock.now)
            self._due = due
            self._clock.at(due, lambda: self._fire(due))

    def _fire(self, due: float) -> None:
        if self._due == due:
            self._due = None
            self._action()


@contextmanager
def telling(clock: Clock, which: str) -> Iterator[None]:
    """A story: what goes wrong in it is raised as an AssertionError with its end, and `which` story it was."""
    try:
        yield
    except Exception as error:
        story = "\n".join(clock.trace)
        raise AssertionError(f"{error}\n{story}\n{which}") from error
