"""Names of hosts to addresses, by the system's resolver, in threads that hold up nothing.

`loop.getaddrinfo` shares asyncio's few threads with all else that blocks, and a process cannot end before its
resolver does: where that one is silent, each name takes one of them for half a minute.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import ParamSpec, TypeVar

from netctl.model.addresses import SocketAddress

P = ParamSpec("P")
T = TypeVar("T")
MAX_THREADS = 8
"""Names that are looked up at once; others wait their turn."""


class _DaemonThreads(Executor):
    """Threads that are begun as they are needed, and that the end of the process does not wait for."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._begun = self._open = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call it in a thread."""
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        with self._lock:
            self._open += 1
            if self._open > self._begun and self._begun < MAX_THREADS:
                self._begun += 1
                threading.Thread(target=self._run, name="lookup", daemon=True).start()
        self._queue.put(work)
        return future

    def _run(self) -> None:
        while True:
            self._queue.get()()
            with self._lock:
                self._open -= 1


_THREADS = _DaemonThreads()


async def look_up(
    host: str, port: int, kind: socket.SocketKind, family: int = socket.AF_UNSPEC
) -> tuple[SocketAddress, ...]:
    """The addresses of a host in the system's order (RFC 6724); an address is its own. Raises OSError (gaierror)."""
    try:
        return (SocketAddress.of(host, port),)
    except ValueError:
        pass  # a name, or an address with a scope
    ask = partial(socket.getaddrinfo, family=family, type=kind)
    try:
        found = await asyncio.get_running_loop().run_in_executor(_THREADS, ask, host, port)
    except UnicodeError as error:  # no label of a name is so long, or empty
        raise socket.gaierror(socket.EAI_NONAME, "no name of a host") from error
    return tuple(dict.fromkeys(_socket_address(sockaddr) for *_, sockaddr in found))


def _socket_address(sockaddr: tuple[object, ...]) -> SocketAddress:
    return SocketAddress.of(str(sockaddr[0]), int(str(sockaddr[1])))
