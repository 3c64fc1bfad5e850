"""The files of the state directory, in a thread of their own: the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """One thread, so that two writes to one place keep their order."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="files")

    async def run(self, call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Do it there. Raises what it raises; once begun it ends, also when whoever waits is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: call(*arguments, **options)
        )

    def close(self) -> None:
        """No more calls; one that is under way ends."""
        self._thread.shutdown(wait=False)
