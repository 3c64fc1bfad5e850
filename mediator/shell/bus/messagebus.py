"""The interface of a bus: it sends messages to all other mediators of the store, at once or not at all.

A bus may lose, double and reorder messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator

from mediator.core.busmessages import Message, decode, encode
from netctl.model.errors import LocalError, RemoteError
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks

_LOG = logging.getLogger("mediator.bus")

Heard = Callable[[Message], None]
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 3.0
"""Intervals of connection attempts, doubled each time: short for a restarting server, no flood for an absent one."""
MAX_QUEUE = 4_096
"""Most messages that wait to be sent, 24 MB. Further messages are lost."""
BATCH = 256
"""Most messages sent at once."""
SEND_S = 3.0
"""A server that takes no message for so long counts as lost: other mediators have missed three beats."""
LAST_WORD_S = 0.3
"""Longest wait, at the end, for messages that are yet to be sent."""


def channel_of(store: str) -> str:
    """The channel of the mediators of one store. A server may carry the messages of several stores."""
    return f"netctl_{hashlib.sha256(store.encode()).hexdigest()[:24]}"


class Bus(ABC):
    """A connection to the other mediators, made anew whenever it is lost."""

    def __init__(self, name: str) -> None:
        """`name`: the server's name for people, without a password."""
        self.name = name
        self.away: str | None = f"{name} is not reached yet"
        """Why no messages pass; None: the bus works."""
        self.lost = 0
        """Count of messages that were not sent, and never will be, because the bus was away or too slow."""
        self.dropped = 0
        """Count of received payloads that were no message: malformed, too long, or of another release."""
        self._queue: deque[bytes] = deque()
        self._sending = False
        """Whether a batch is being sent."""
        self._wake = asyncio.Event()
        self._tasks: Tasks | None = None
        self._guard: Guard | None = None
        self._heard: Heard | None = None
        self._on_works: Callable[[], None] | None = None
        self._channel = ""
        self.took: Callable[[float, int, bool], None] | None = None
        """Called after each batch: seconds until the server had taken it, its count of messages, whether it did."""

    def start(
        self, channel: str, heard: Heard, guard: Guard, works: Callable[[], None] | None = None
    ) -> None:
        """Connect, in the background, and hand each message of others to `heard`.

        `works`: called whenever a connection was made.
        """
        self._channel, self._heard, self._guard = channel, heard, guard
        self._on_works = works
        self._tasks = Tasks(guard)
        self._tasks.keep("the bus", self._work)

    def publish(self, message: Message) -> None:
        """Send a message to the others, without waiting. Raises ValueError if it is too long."""
        payload = encode(message)
        if self.away is not None or len(self._queue) >= MAX_QUEUE:
            self.lost += 1
            return
        self._queue.append(payload)
        self._wake.set()

    async def close(self) -> None:
        """Close the connection. Messages that wait are sent before, if the server takes them at once."""
        if self._tasks is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD_S):
                    while (self._queue or self._sending) and self.away is None:
                        await asyncio.sleep(0.01)
            await self._tasks.end()

    @abstractmethod
    async def _serve(self) -> None:
        """Connect, say `_works`, and pass messages until the connection ends. Raises LocalError with the reason."""

    async def _work(self) -> None:
        wait = FIRST_RETRY_S
        while True:
            reason = "the connection was closed"
            try:
                await self._serve()
            except (LocalError, OSError) as error:
                reason = str(error)
            except Exception as error:  # the library's: it must end only this connection
                assert self._guard is not None
                self._guard.caught("the bus's connection", error)
                reason = type(error).__name__
            if self.away is None:
                _LOG.warning(f"the bus {self.name} is lost: {reason}; it is tried again")
                wait = FIRST_RETRY_S
            self.away = f"{self.name}: {reason}"
            self.lost += len(self._queue)
            self._queue.clear()
            self._sending = False
            await asyncio.sleep(wait)
            wait = min(LAST_RETRY_S, 2 * wait)

    def _works(self) -> None:
        _LOG.info(f"the bus {self.name} works")
        self.away = None
        if self._on_works is not None:
            self._on_works()

    async def _batch(self) -> list[bytes]:
        """The next messages to send, at least one; the messages of the last call were sent."""
        self._sending = False
        while not self._queue:
            self._wake.clear()
            await self._wake.wait()
        self._sending = True
        return [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]

    @contextlib.contextmanager
    def _sent(self, messages: int) -> Iterator[None]:
        """Around the sending of a batch, until the server has answered that it has all of it."""
        began, done = time.monotonic(), False
        try:
            yield
            done = True
        finally:
            if self.took is not None:
                self.took(time.monotonic() - began, messages, done)

    def _came(self, payload: bytes) -> None:
        assert self._heard is not None
        assert self._guard is not None
        try:
            message = decode(payload)
        except RemoteError:
            self._garbage()
            return
        self._guard.run("a message of the bus", self._heard, message)

    def _garbage(self) -> None:
        if self.dropped == 0:
            _LOG.warning(
                f"the bus {self.name} brought what is no message of this release: dropped, as all such"
            )
        self.dropped += 1


async def until_one_ends(reading: asyncio.Task[None], sending: asyncio.Task[None]) -> None:
    """Run both halves of a connection until one of them ends; end the other one too. Raises what ended it."""
    both = {reading, sending}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        results = await asyncio.gather(*both, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
