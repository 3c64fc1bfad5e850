"""Hearing from the kernel that this host has moved: links and addresses that come and go (rtnetlink(7))."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_LINK

from netctl.model.errors import EngineError

GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
SETTLE_S = 0.2
"""A new address comes as several messages, and a link that goes up as a dozen."""


async def moves() -> AsyncIterator[None]:
    """One item for each burst of changes, as soon as it is over. Raises EngineError when the kernel cannot be heard."""
    try:
        async with AsyncIPRoute() as route:
            await route.bind(GROUPS)
            while True:
                await _next(route)
                with contextlib.suppress(TimeoutError):
                    while True:
                        await asyncio.wait_for(_next(route), SETTLE_S)
                yield None
    except OSError as error:
        raise EngineError(f"rtnetlink does not answer: {error.strerror or error}") from error


async def vanished(name: str) -> AsyncIterator[None]:
    """One item each time that a link of this name goes, at once. Raises EngineError when the kernel cannot be heard."""
    try:
        async with AsyncIPRoute() as route:
            await route.bind(RTMGRP_LINK)
            while True:
                async for message in route.get():
                    if message.get("event") == "RTM_DELLINK" and message.get("ifname") == name:
                        yield None
    except OSError as error:
        raise EngineError(f"rtnetlink does not answer: {error.strerror or error}") from error


async def _next(route: AsyncIPRoute) -> None:
    async for _ in route.get():
        return
