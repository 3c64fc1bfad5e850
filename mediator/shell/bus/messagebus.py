"""The seam: messages go out to all other mediators of the store, now or never. A bus may lose, double and reorder."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from mediator.core.busmessages import Message, decode, encode
from netctl.model.errors import LocalError, RemoteError
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks

_LOG = logging.getLogger("mediator.bus")

Heard = Callable[[Message], None]
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 3.0
"""Between tries to connect, doubled each time: a server that restarts is back at once, an absent one is not flooded."""
MAX_QUEUE = 4_096
"""Messages that wait to be sent, 24 MB at most: a server that takes none for seconds has lost them."""
BATCH = 256
"""Messages that go out in one turn."""
SEND_S = 3.0
"""A server that takes no message for so long is as good as gone: other mediators have missed three beats."""

LAST_WORD_S = 0.3
"""At the end a server may take so long for what still waits."""


def channel_of(store: str) -> str:
    """Mediators of one store meet there, also where a server carries the messages of several stores."""
    return f"netctl_{hashlib.sha256(store.encode()).hexdigest()[:24]}"


class Bus(ABC):
    """Reaches the other mediators, and finds its server again whenever it loses it."""

    def __init__(self, name: str) -> None:
        """`name`: for people, without a password in it."""
        self.name = name
        self.away: str | None = f"{name} is not reached yet"
        """Why nothing goes out or comes in; None: it works."""
        self.lost = 0
        """Messages that were not sent: the bus was away or too slow. Nobody sends them again."""
        self.dropped = 0
        """What came and was no message: garbage, too long, or another release's."""
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._tasks: Tasks | None = None
        self._guard: Guard | None = None
        self._heard: Heard | None = None
        self._on_works: Callable[[], None] | None = None
        self._channel = ""

    def start(
        self, channel: str, heard: Heard, guard: Guard, works: Callable[[], None] | None = None
    ) -> None:
        """Connect, in the background, and hand each message of others to `heard`.

        `works`: called whenever the bus is there, or there again.
        """
        self._channel, self._heard, self._guard = channel, heard, guard
        self._on_works = works
        self._tasks = Tasks(guard)
        self._tasks.keep("the bus", self._work)

    def publish(self, message: Message) -> None:
        """Tell the others. Never waits; raises ValueError for a message that is too long."""
        payload = encode(message)
        if self.away is not None or len(self._queue) >= MAX_QUEUE:
            self.lost += 1
            return
        self._queue.append(payload)
        self._wake.set()

    async def close(self) -> None:
        """What still waits goes out, if the server takes it at once."""
        if self._tasks is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD_S):
                    while self._queue and self.away is None:
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
            if self.away is None:
                _LOG.warning(f"the bus {self.name} is lost: {reason}; it is tried again")
                wait = FIRST_RETRY_S
            self.away = f"{self.name}: {reason}"
            self.lost += len(self._queue)
            self._queue.clear()
            await asyncio.sleep(wait)
            wait = min(LAST_RETRY_S, 2 * wait)

    def _works(self) -> None:
        _LOG.info(f"the bus {self.name} works")
        self.away = None
        if self._on_works is not None:
            self._on_works()

    async def _batch(self) -> list[bytes]:
        """What is to be sent, at least one."""
        while not self._queue:
            self._wake.clear()
            await self._wake.wait()
        return [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]

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
            _LOG.warning(f"the bus {self.name} brought what is no message of this release; such are dropped")
        self.dropped += 1


async def until_one_ends(reading: asyncio.Task[None], sending: asyncio.Task[None]) -> None:
    """Both halves of a connection: the end of one is the end of both. Raises what ended it."""
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
