"""The bus over PostgreSQL: `LISTEN` on one connection, `NOTIFY` on another, so that neither waits for the other.

A `NOTIFY` carries text below 8,000 bytes: a message goes as base64. What gathered while the last batch was on its way
goes out in one transaction, because PostgreSQL lets one transaction with notifications commit at a time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii

import psycopg
from psycopg import AsyncConnection, sql

from mediator.shell.bus.messagebus import SEND_S, Bus, until_one_ends
from mediator.shell.postgresplace import PostgresPlace
from netctl.model.errors import LocalError
from netctl.system.tasks import awaited

_NOTIFY = "SELECT count(pg_notify(%s, one)) FROM unnest(%s::text[]) AS one"


class PostgresBus(Bus):
    """One mediator's two connections, apart from those of a store."""

    def __init__(self, place: PostgresPlace) -> None:
        super().__init__(place.name)
        self._place = place

    async def _serve(self) -> None:
        try:
            async with await self._connect() as listener, await self._connect() as sender:
                await listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                self._works()
                own = sender.info.backend_pid
                await until_one_ends(awaited(self._read(listener, own)), awaited(self._send(sender)))
        except psycopg.Error as error:
            raise LocalError(" ".join(str(error).split()) or type(error).__name__) from error
        except TimeoutError as error:
            raise LocalError(f"it took no message for {SEND_S:.0f} s") from error

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
            async with asyncio.timeout(SEND_S):
                await sender.execute(_NOTIFY, (self._channel, batch))
