"""The bus over NATS core, by nats-py: one subject for a store, nothing stored."""

from __future__ import annotations

import asyncio
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
PING_S = 2
"""A server that is gone without a word is noticed within some six seconds."""


@dataclass(frozen=True, slots=True)
class NatsPlace:
    """Where the servers are, and how they are entered."""

    name: str
    """For people: hosts alone."""
    servers: tuple[str, ...]
    tls: ssl.SSLContext | None
    """None: in clear."""
    entry: dict[str, Any] = field(repr=False)
    """User and password, or token."""


class _Client(Client):
    """Says nothing, above all no password, to a server that does not offer TLS where TLS is wanted."""

    wants_tls = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self.wants_tls and not info.get("tls_required"):
            raise NatsError("the server offers no TLS; say ?tls=off for a network that you trust")
        await super()._process_info(info, initial_connection)


class NatsBus(Bus):
    """One mediator's connection."""

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
                allow_reconnect=False,  # `Bus` connects anew; nats-py would keep what nobody wants to hear later
                max_reconnect_attempts=1,  # with 0 it would try for ever, without a word
                reconnect_time_wait=0,
                connect_timeout=CONNECT_S,
                ping_interval=PING_S,
                max_outstanding_pings=2,
                no_echo=True,
                closed_cb=closed,
                error_cb=said,
                **how,
            )
            await client.subscribe(self._channel, cb=self._message)
            await client.flush(CONNECT_S)
            self._works()
            await until_one_ends(awaited(self._end(ended)), awaited(self._send(client)))
        except (NatsError, TimeoutError, ValueError) as error:
            raise LocalError(self._reason or str(error) or type(error).__name__) from error
        finally:
            await client.close()

    async def _message(self, message: Msg) -> None:
        self._came(message.data)

    async def _end(self, ended: asyncio.Event) -> None:
        await ended.wait()
        raise LocalError(self._reason or "the connection was closed")

    async def _send(self, client: Client) -> None:
        while True:
            for payload in await self._batch():
                await client.publish(self._channel, payload)
            await client.flush(int(SEND_S))
