"""A bus within one process, for tests."""

from __future__ import annotations

import asyncio

from mediator.shell.bus.messagebus import Bus, until_one_ends
from netctl.model.errors import LocalError
from netctl.system.tasks import awaited


class Medium:
    """The medium that the mediators of one process share."""

    def __init__(self) -> None:
        self.up = True
        self.ends: set[LocalBus] = set()

    def stop(self) -> None:
        """End all connections, as a server that is gone."""
        self.up = False
        for end in list(self.ends):
            end.ended.set()

    def inject(self, channel: str, payload: bytes) -> None:
        """Send any bytes to all of them."""
        for end in list(self.ends):
            end.take(channel, payload)


class LocalBus(Bus):
    """The connection of one mediator."""

    def __init__(self, medium: Medium) -> None:
        super().__init__("in this process")
        self._medium = medium
        self.ended = asyncio.Event()

    def take(self, channel: str, payload: bytes) -> None:
        """Receive a payload."""
        if channel == self._channel:
            self._came(payload)

    async def _serve(self) -> None:
        if not self._medium.up:
            raise LocalError("it is stopped")
        self.ended.clear()
        self._medium.ends.add(self)
        self._works()
        try:
            await until_one_ends(awaited(self._end()), awaited(self._send()))
        finally:
            self._medium.ends.discard(self)

    async def _end(self) -> None:
        await self.ended.wait()

    async def _send(self) -> None:
        while True:
            batch = await self._batch()
            with self._sent(len(batch)):
                for payload in batch:
                    for end in list(self._medium.ends - {self}):
                        end.take(self._channel, payload)
