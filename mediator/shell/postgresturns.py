"""Whose turn it is: the transactions that wait for one connection, in the order in which they came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from mediator.shell.storesql import Body
from netctl.model.errors import LocalError

T = TypeVar("T")
TOO_BUSY = "the store is busy with what it was asked before"


@dataclass(slots=True, eq=False)
class Wish(Generic[T]):
    """A transaction that waits for its turn, and what became of it."""

    what: str
    body: Body[T]
    deadline: float
    called: asyncio.Future[None]
    """Done when the wish is over, or has its turn."""
    value: T | None = None
    error: Exception | None = None
    over: bool = False

    def call(self) -> None:
        """Wake the asker, unless that one has gone."""
        if not self.called.done():
            self.called.set_result(None)

    def result(self) -> T:
        """What the body returned. Raises what it raised, or why it was not carried out."""
        if self.error is not None:
            raise self.error
        return cast(T, self.value)


class Turns:
    """Gives one after another the turn, in which that one alone may use the connection."""

    def __init__(self) -> None:
        self.taken = False
        """Whether somebody has the turn."""
        self.idle = asyncio.Event()
        """The contrary."""
        self.idle.set()
        self._waiting: list[Wish[Any]] = []

    def __len__(self) -> int:
        """The count of those that wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Wish[Any]]:
        return iter(self._waiting)

    async def wait(self, what: str, body: Body[T], deadline: float) -> Wish[T]:
        """Wait for the turn, or until the wish is over: carried out in the turn of another, or too late."""
        loop = asyncio.get_running_loop()
        wish: Wish[T] = Wish(what, body, deadline, loop.create_future())
        if not self.taken:
            self.take()
            return wish
        self._waiting.append(wish)
        late = loop.call_later(max(0.0, deadline - time.monotonic()), self._too_late, wish)
        try:
            await wish.called
        except BaseException:
            if wish in self._waiting:
                self._waiting.remove(wish)
            elif wish.called.done() and not wish.called.cancelled() and not wish.over:
                self.pass_on()  # it had just got its turn
            raise
        finally:
            late.cancel()
        return wish

    def _too_late(self, wish: Wish[Any]) -> None:
        if wish in self._waiting:  # else it is under way
            self._waiting.remove(wish)
            wish.error, wish.over = LocalError(TOO_BUSY), True
            wish.call()

    def take(self) -> None:
        """Take the turn, which nobody has."""
        self.taken = True
        self.idle.clear()

    def pass_on(self) -> None:
        """Whoever has waited longest has the turn now."""
        while self._waiting:
            wish = self._waiting.pop(0)
            if not wish.called.done():
                wish.call()
                return
        self.taken = False
        self.idle.set()

    def leave(self, wish: Wish[Any]) -> None:
        """A wish that waits is carried out in the turn of another."""
        self._waiting.remove(wish)

    def return_to(self, wishes: Sequence[Wish[Any]]) -> None:
        """Let wishes go on waiting, at the head."""
        for wish in reversed(wishes):
            if not wish.called.done():  # else the asker has gone
                self._waiting.insert(0, wish)
