"""Owners of asyncio tasks and callbacks: failures are logged, and tasks that should run for ever are restarted.

asyncio keeps a task's exception until somebody asks for it. Nobody asks a task that nobody awaits: it would end
silently, and its work would no longer be done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from netctl.system.guard import Guard

T = TypeVar("T")

RESTART_S = 1.0
"""Seconds before a failed task is restarted: long enough that a task which fails at once costs nothing."""

CANCEL_AGAIN_S = 2.0
"""Seconds before a task is cancelled again: an orderly end (a last message, a thread's return) takes a fraction."""


class Tasks:
    """The tasks of one owner, in one event loop."""

    def __init__(self, guard: Guard, restart_s: float = RESTART_S) -> None:
        """`restart_s`: seconds before a failed task is restarted."""
        self._restart_s = restart_s
        self._guard = guard
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` once as a task. The guard counts and logs its exception, which ends no other task."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run `work` and restart it after each failure, until it returns."""
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
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait until all tasks have ended, at most `timeout_s` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def end(self) -> None:
        """Cancel all tasks until they have ended: before Python 3.12 asyncio.wait_for can lose a cancellation."""
        while self._tasks:
            self.cancel()
            await self.wait(CANCEL_AGAIN_S)

    def __len__(self) -> int:
        return len(self._tasks)


def awaited(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run `work` as a task. The caller must await it in the same function on every way out, to see it fail."""
    return asyncio.get_running_loop().create_task(work)


def watch_loop(loop: asyncio.AbstractEventLoop, guard: Guard) -> None:
    """Send exceptions of this loop's callbacks, and asyncio's complaints about tasks, to the guard.

    By default asyncio prints a traceback for each, without a bound.
    """

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        where = str(context.get("message", "something in the event loop"))
        guard.caught("a callback", error if error is not None else RuntimeError(where))

    loop.set_exception_handler(handle)
