"""Connects the hub with the bus: messages in both directions, and the timers of `mediator.core.peers`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

from mediator.core.busmessages import RUN_LEN, Message
from mediator.core.effects import Effect, Publish
from mediator.core.hub import Hub
from mediator.shell.bus.messagebus import Bus, channel_of
from netctl.system.guard import Guard


class BusLink:
    """The bus of one mediator."""

    def __init__(self, bus: Bus, hub: Hub, perform: Callable[[list[Effect]], None], guard: Guard) -> None:
        self._bus, self._hub, self._perform, self._guard = bus, hub, perform, guard
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0.0
        self._shown = 0
        """The number of the store's state that the hub was last told of."""
        self._sooner = -1
        """`Hub.bus_sooner` when the timer was set."""
        self._closed = False

    def start(self, name: str) -> None:
        """Start, before the first login, once the store's name is known. `name`: this mediator's name for people."""
        self._hub.join_bus(secrets.token_bytes(RUN_LEN), name, time.monotonic())
        self._shown = 0  # before, nobody could be told
        self._bus.start(channel_of(self._hub.store), self._heard, self._guard, self._works)
        self.look()

    def publish(self, message: Message) -> None:
        """Send a message to the others."""
        self._bus.publish(message)

    def look(self, number: int = 0) -> None:
        """Set the timer: the hub may have something due earlier than before.

        `number`: the number of the store's state that the hub shows.
        """
        if number and number != self._shown:
            self._shown = number
            for told in self._hub.shows(number):
                if isinstance(told, Publish):
                    self._bus.publish(told.message)
        if self._timer is not None and self._sooner == self._hub.bus_sooner:
            return  # so nearly always: this is called several times for each login
        self._sooner = self._hub.bus_sooner
        due = self._hub.next_bus_timer()
        if due is None or self._closed:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        wait, self._timer_due = max(0.0, due - time.monotonic()), due
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(wait, self._guard.over("the bus's timer", self._due))

    def status(self) -> dict[str, Any]:
        """The bus in `netctl-mediator status`."""
        return {
            "bus": self._bus.name,
            "bus_away": self._bus.away,
            "bus_lost": self._bus.lost,
            "bus_dropped": self._bus.dropped + self._hub.bus_refused,
            "mediators": [
                {
                    "name": row.name or row.run[:8],
                    "run": row.run,
                    "alive": row.alive,
                    "silent_s": round(row.silent_s, 1),
                    "online": row.online,
                    "state": row.state,
                    "current": row.current,
                }
                for row in self._hub.peers(time.monotonic())
            ],
        }

    def gauges(self) -> dict[str, tuple[str, float]]:
        """The bus on `/metrics`."""
        rows = self._hub.peers(time.monotonic())
        return {
            "bus_away": ("1 while the bus carries nothing", float(self._bus.away is not None)),
            "bus_lost": ("Messages that did not go out on the bus", float(self._bus.lost)),
            "bus_dropped": (
                "Payloads from the bus that were no message",
                float(self._bus.dropped + self._hub.bus_refused),
            ),
            "other_mediators": ("Other mediators that are heard", float(sum(row.alive for row in rows))),
            "other_mediators_silent": ("Those not heard", float(sum(not row.alive for row in rows))),
        }

    async def close(self) -> None:
        """Close the bus; messages that wait are sent before."""
        if self._timer is not None:
            self._timer.cancel()
        self._closed = True
        await self._bus.close()

    def _works(self) -> None:
        self._hub.bus_works(time.monotonic())
        self.look()

    def _heard(self, message: Message) -> None:
        self._perform(self._hub.heard(message, time.monotonic()))

    def _due(self) -> None:
        self._timer = None
        try:
            self._perform(self._hub.handle_bus_timer(time.monotonic()))
        finally:
            self.look()
