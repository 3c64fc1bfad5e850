"""The SQLite store in its own thread, so that a locked file or a full disk does not block the event loop."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mediator.shell.memberstore import PATIENCE_S
from mediator.shell.store import Store
from mediator.shell.storesql import Body, SqlStore
from netctl.model.errors import LocalError

T = TypeVar("T")


class StoreThread(SqlStore):
    """A `MemberStore` in SQLite. Its one thread runs the transactions in order."""

    def __init__(self, store: Store, patience_s: float = PATIENCE_S) -> None:
        """`store`: used only by this object from now on."""
        self._store = store
        self._patience_s = patience_s
        self._thread = ThreadPoolExecutor(1, "store")

    @property
    def takes_nothing(self) -> str | None:
        """Of `MemberStore`."""
        return self._store.takes_nothing

    @property
    def in_doubt(self) -> bool:
        """Of `MemberStore`: an answer of SQLite is never lost."""
        return False

    @property
    def shared(self) -> bool:
        """Of `MemberStore`: a lock on the file keeps others out."""
        return False

    @property
    def replaced(self) -> str | None:
        """Of `MemberStore`: a lock on the file keeps others out."""
        return None

    async def _do(self, call: Callable[[], T]) -> T:
        """Run a call in the thread. Raises the call's exceptions, or LocalError if its turn does not come in time."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        asked = self._thread.submit(self._in_thread, call, time.monotonic() + self._patience_s)

        def settle() -> None:
            if answer.done():  # the caller is cancelled
                return
            if asked.cancelled():
                answer.set_exception(LocalError("the store is busy with what it was asked before"))
            elif (error := asked.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(asked.result())

        asked.add_done_callback(lambda _: None if loop.is_closed() else loop.call_soon_threadsafe(settle))
        timer = loop.call_later(self._patience_s, asked.cancel)
        try:
            return await answer
        finally:
            timer.cancel()
            asked.cancel()  # a call that has begun completes without its caller

    async def open(self) -> None:
        """Of `MemberStore`: the caller has opened `store` already."""

    async def within(self, what: str, body: Body[T], *, writes: bool = True) -> T:
        """Of `SqlStore`."""
        return await self._do(functools.partial(self._store.perform, what, body, writes=writes))

    def _in_thread(self, call: Callable[[], T], deadline: float) -> T:
        self._store.wait_at_most(deadline - time.monotonic())
        return call()

    async def close(self) -> None:
        """Of `MemberStore`."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._thread.shutdown)
        self._store.close()
