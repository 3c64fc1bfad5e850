"""A thread for file access, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """One thread, so that writes to one file keep their order."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="files")

    async def run(self, call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Run a call in the thread; raises its exceptions. A call that has begun completes even after a cancel."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: call(*arguments, **options)
        )

    def close(self) -> None:
        """Accept no more calls; a running call completes."""
        self._thread.shutdown(wait=False)
