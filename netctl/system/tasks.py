"""Owners of asyncio tasks and callbacks: nothing dies unseen, and what should live for ever is started again.

asyncio keeps an exception of a task until somebody asks for it, which for a task that nobody awaits is never: it is
simply gone, and what it did is no longer done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from netctl.system.guard import Guard

T = TypeVar("T")

RESTART_S = 1.0
"""Before a task that failed is started again: long enough that one which fails at once costs nothing."""

CANCEL_AGAIN_S = 2.0
"""A task that ends in an orderly way (it says goodbye, a thread of it returns) takes a fraction of that."""


class Tasks:
    """The tasks of one owner, in one event loop."""

    def __init__(self, guard: Guard, restart_s: float = RESTART_S) -> None:
        """`restart_s`: how long one that failed rests before it is started again."""
        self._restart_s = restart_s
        self._guard = guard
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it once. What it raises is counted and said, and ends nobody else."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run it for ever: after a failure it is begun anew. One that returns is over."""
        return self.start(name, self._for_ever(name, work))

    async def _for_ever(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
                return
            except Exception as error:
                self._guard.caught(f"a turn of {name}", error)
            await asyncio.sleep(self._restart_s)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._guard.caught(task.get_name(), error)

    def cancel(self) -> None:
        """End them all."""
        for task in self._tasks:
            task.cancel()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Until all are over, or so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def end(self) -> None:
        """End them all, however often one has to be told: before Python 3.12 asyncio.wait_for can lose a cancel."""
        while self._tasks:
            self.cancel()
            await self.wait(CANCEL_AGAIN_S)

    def __len__(self) -> int:
        return len(self._tasks)


def awaited(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run it now. Only for who awaits it in the same function, on every way out: nobody else would see it fail."""
    return asyncio.get_running_loop().create_task(work)


def watch_loop(loop: asyncio.AbstractEventLoop, guard: Guard) -> None:
    """What a callback of this loop raises, and what asyncio finds out about tasks, goes to the guard.

    The default is a traceback for each, without a bound.
    """

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        where = str(context.get("message", "something in the event loop"))
        guard.caught("a callback", error if error is not None else RuntimeError(where))

    loop.set_exception_handler(handle)
