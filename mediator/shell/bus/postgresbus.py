"""The bus over PostgreSQL: `LISTEN` on one connection, `NOTIFY` on another, so that neither waits for the other.

`NOTIFY` carries text of less than 8,000 bytes, so a message is sent as base64. Messages that gather while a batch is
being sent are the next batch, one transaction: PostgreSQL commits one transaction with notifications at a time.
"""

from __future__ import annotations

import base64
import binascii
import time

import psycopg
from psycopg import AsyncConnection, sql

from mediator.shell.bus.messagebus import SEND_S, Bus, until_one_ends
from mediator.shell.postgresplace import PostgresPlace
from mediator.shell.severed import severed_after
from netctl.model.errors import LocalError
from netctl.system.tasks import awaited

_NOTIFY = "SELECT count(pg_notify(%s, one)) FROM unnest(%s::text[]) AS one"


class PostgresBus(Bus):
    """The two connections of one mediator. The store has others."""

    def __init__(self, place: PostgresPlace) -> None:
        super().__init__(place.name)
        self._place = place

    async def _serve(self) -> None:
        try:
            async with await self._connect() as listener, await self._connect() as sender:
                with severed_after(listener, SEND_S):
                    await listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                self._works()
                own = sender.info.backend_pid
                await until_one_ends(awaited(self._read(listener, own)), awaited(self._send(sender)))
        except psycopg.Error as error:
            raise LocalError(" ".join(str(error).split()) or type(error).__name__) from error

    async def _connect(self) -> AsyncConnection[tuple[object, ...]]:
        parameters = {**self._place.parameters, "application_name": "netctl-mediator bus"}
        return await AsyncConnection.connect(autocommit=True, **parameters)

    async def _read(self, listener: AsyncConnection[tuple[object, ...]], own: int) -> None:
        async for found in listener.notifies():
            if found.pid == own:
                continue
            try:
                payload = base64.b64decode(found.payload, validate=True)
            except (binascii.Error, ValueError):
                self._garbage()
                continue
            self._came(payload)

    async def _send(self, sender: AsyncConnection[tuple[object, ...]]) -> None:
        while True:
            batch = [base64.b64encode(payload).decode() for payload in await self._batch()]
            began = time.monotonic()
            try:
                with self._sent(len(batch)), severed_after(sender, SEND_S):
                    await sender.execute(_NOTIFY, (self._channel, batch))
            except psycopg.Error as error:
                if time.monotonic() - began < SEND_S:
                    raise
                raise LocalError(f"it took no message for {SEND_S:.0f} s") from error
