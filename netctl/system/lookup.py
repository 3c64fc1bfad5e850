"""Resolves host names to addresses with the system's resolver, in threads that delay nothing else.

`loop.getaddrinfo` shares asyncio's few threads with all other blocking calls, and the process cannot end before those
threads do: with a silent name server, each name occupies one of them for half a minute.
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
"""Names that are looked up at the same time; more of them wait."""


class _DaemonThreads(Executor):
    """Threads that are started on demand, and that the end of the process does not wait for."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._begun = self._open = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn` in a thread."""
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
    """The addresses of a host in the system's order (RFC 6724). `host` may be an address. Raises OSError (gaierror)."""
    try:
        return (SocketAddress.of(host, port),)
    except ValueError:
        pass  # a name, or an address with a scope
    ask = partial(socket.getaddrinfo, family=family, type=kind)
    try:
        found = await asyncio.get_running_loop().run_in_executor(_THREADS, ask, host, port)
    except UnicodeError as error:  # a label of the name is too long, or empty
        raise socket.gaierror(socket.EAI_NONAME, "no name of a host") from error
    return tuple(dict.fromkeys(_socket_address(sockaddr) for *_, sockaddr in found))


def _socket_address(sockaddr: tuple[object, ...]) -> SocketAddress:
    return SocketAddress.of(str(sockaddr[0]), int(str(sockaddr[1])))
