"""Shared by the tests of stores: whatever stands behind `MemberStore`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mediator.core import admissions as a
from mediator.shell.memberstore import MemberStore
from tests.mediator.test_admissions import LAN, NOW, host

Open = Callable[[], MemberStore]


def run(open_store: Open, main: Callable[[MemberStore], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = open_store()
        await store.open()
        try:
            await main(store)
        finally:
            await store.close()

    asyncio.run(whole())


async def invited(store: MemberStore, uses: int = 1) -> bytes:
    _, token = await store.invite(
        LAN, called="lan", uses=uses, made_s=NOW, expires_s=NOW + 100, name="", by="amy"
    )
    return token


def applicant(number: int, token: bytes, name: str = "newbie") -> a.Applicant:
    who = host(number, name)
    return a.Applicant(who.key, who.identity, who.name, False, token)
