"""The bus over NATS core, with nats-py: one subject for each store; NATS stores no message."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from mediator.shell.bus.messagebus import SEND_S, Bus, until_one_ends
from netctl.model.errors import LocalError
from netctl.system.tasks import awaited

CONNECT_S = 3
CLOSE_S = 0.3
"""A server that works takes the rest in milliseconds."""
PING_S = 2
"""Interval of pings: a server that vanishes silently is noticed within some six seconds."""
SUBJECTS = "netctl.*"
"""What the user needs permission for, to publish and to subscribe. In NATS `*` is a whole token of a subject."""


def subject_of(channel: str) -> str:
    """The subject of a store's channel: the channel's name as a token of its own."""
    return f"{SUBJECTS.removesuffix('*')}{channel.removeprefix('netctl_')}"


@dataclass(frozen=True, slots=True)
class NatsPlace:
    """The servers, and how to log in."""

    name: str
    """The name for people: only the hosts."""
    servers: tuple[str, ...]
    tls: ssl.SSLContext | None
    """None: without TLS."""
    entry: dict[str, Any] = field(repr=False)
    """User and password, or token."""


class _Client(Client):
    """Sends nothing, above all no password, to a server without TLS where TLS is wanted."""

    wants_tls = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self.wants_tls and not info.get("tls_required"):
            raise NatsError("the server offers no TLS; say ?tls=off for a network that you trust")
        await super()._process_info(info, initial_connection)


class NatsBus(Bus):
    """The connection of one mediator."""

    def __init__(self, place: NatsPlace) -> None:
        super().__init__(place.name)
        self._place = place
        self._reason = ""

    async def _serve(self) -> None:
        client, ended = _Client(), asyncio.Event()
        client.wants_tls = self._place.tls is not None
        self._reason = ""
        how: dict[str, Any] = dict(self._place.entry)
        if self._place.tls is not None:
            how["tls"] = self._place.tls

        async def closed() -> None:
            ended.set()

        async def said(error: Exception) -> None:
            self._reason = " ".join(str(error).split()) or type(error).__name__

        try:
            await client.connect(
                list(self._place.servers),
                name="netctl-mediator",
                allow_reconnect=False,  # `Bus` reconnects; nats-py would send old messages after a reconnect
                max_reconnect_attempts=1,  # with 0 nats-py would try for ever without an error
                reconnect_time_wait=0,
                connect_timeout=CONNECT_S,
                ping_interval=PING_S,
                max_outstanding_pings=2,
                no_echo=True,
                closed_cb=closed,
                error_cb=said,
                **how,
            )
            await client.subscribe(subject_of(self._channel), cb=self._message)
            await client.flush(CONNECT_S)
            self._works()
            await until_one_ends(awaited(self._end(ended)), awaited(self._send(client)))
        except (NatsError, TimeoutError, ValueError) as error:
            raise LocalError(self._reason or str(error) or type(error).__name__) from error
        finally:
            await _close(client)

    async def _message(self, message: Msg) -> None:
        self._came(message.data)

    async def _end(self, ended: asyncio.Event) -> None:
        await ended.wait()
        raise LocalError(self._reason or "the connection was closed")

    async def _send(self, client: Client) -> None:
        subject = subject_of(self._channel)
        while True:
            batch = await self._batch()
            with self._sent(len(batch)):
                for payload in batch:
                    await client.publish(subject, payload)
                await client.flush(int(SEND_S))


async def _close(client: Client) -> None:
    """Close the connection. nats-py would wait until the server has taken what is still to be sent."""
    with contextlib.suppress(NatsError, OSError):  # TimeoutError too
        async with asyncio.timeout(CLOSE_S):
            await client.close()
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()
    # What nats-py leaves running where its close was cut short, or is under way in one of these.
    tasks = [client._reading_task, client._flusher_task, client._ping_interval_task]
    tasks += [one._wait_for_msgs_task for one in client._subs.values()]
    pending = [task for task in tasks if task is not None and not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=CLOSE_S)
