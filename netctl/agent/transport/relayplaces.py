"""Looks up the addresses of the document's relays that have names, and keeps them up to date."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Mapping

from netctl.model.document import Mediator
from netctl.session import Backoff
from netctl.system.guard import Guard
from netctl.system.lookup import look_up
from netctl.system.tasks import Tasks

RETRY_BASE_S = 2.0
RETRY_CAP_S = 60.0
"""Back-off between look-ups while a name is not found: the host may have no network yet."""
AGAIN_S = 3600.0
"""Interval of look-ups of names that were found: a name may belong to another machine later."""
MAX_ADDRESSES = 4
"""Most addresses of one name: a machine has one or two in each family."""

Places = Mapping[str, tuple[str, ...]]
"""Addresses by the relay's name."""


class RelayPlaces:
    """For the agent's event loop."""

    def __init__(self, on_change: Callable[[Places], None], guard: Guard) -> None:
        """`on_change`: called with all known addresses after each look-up."""
        self._on_change = on_change
        self._tasks = Tasks(guard)
        self._relays: dict[str, Mediator] = {}
        self._found: dict[str, tuple[str, ...]] = {}
        self._task: asyncio.Task[None] | None = None

    def follow(self, named: tuple[Mediator, ...]) -> None:
        """Set the document's relays with names: they are looked up from now on."""
        relays = {one.relay_name: one for one in named}
        if relays == self._relays:
            return
        self._relays = relays
        self._found = {name: found for name, found in self._found.items() if name in relays}
        self._begin()
        if not relays:
            self._on_change({})

    def network_changed(self) -> None:
        """After a change of links, addresses or routes: look all names up again."""
        if self._relays:
            self._begin()

    def relay(self, name: str) -> Mediator | None:
        """The document's entry of the relay with this name; None: it has none."""
        return self._relays.get(name)

    def close(self) -> None:
        """End all look-ups."""
        self._tasks.cancel()

    def _begin(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = self._tasks.keep("looking up relays", self._run) if self._relays else None

    async def _run(self) -> None:
        backoff = Backoff(RETRY_BASE_S, RETRY_CAP_S)
        while True:
            looked_up = await asyncio.gather(*(self._look_up(*one) for one in self._relays.items()))
            self._on_change({name: self._found[name] for name in self._relays if name in self._found})
            await asyncio.sleep(AGAIN_S if all(looked_up) else backoff.next_delay(random.random()))

    async def _look_up(self, name: str, relay: Mediator) -> bool:
        """Look up one relay; False: its name was not found, and the addresses of the last look-up stay."""
        try:
            addresses = await look_up(relay.host, relay.stun[0], socket.SOCK_DGRAM)
        except OSError:
            return False
        found = tuple(dict.fromkeys(address.host for address in addresses))[:MAX_ADDRESSES]
        if found:
            self._found[name] = found
        return bool(found)
