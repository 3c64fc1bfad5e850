"""The small HTTP server that agent and mediator share: strangers hold up nobody for long, and end nothing."""

from __future__ import annotations

import asyncio

from netctl.system.pageserver import MAX_CLIENTS, PageServer
from tests.support.fetch import fetched

ASKED = b"GET /one HTTP/1.1\r\nHost: x\r\n\r\n"


def test_strangers_who_say_nothing_take_its_places_and_no_more() -> None:
    async def scenario() -> None:
        server = PageServer("127.0.0.1:9", {"/one": lambda: (200, "text/plain", b"1\n")}, example_port=1)
        server._port = 0
        await server.start()
        assert server._server is not None
        port = server._server.sockets[0].getsockname()[1]
        try:
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CLIENTS)]
            while server._clients < MAX_CLIENTS:
                await asyncio.sleep(0)
            assert await fetched(port, b"") == b""
            assert server._clients >= MAX_CLIENTS, "one too many is let go before those who came first"
            for _, writer in silent:
                writer.close()
            while server._clients:
                await asyncio.sleep(0)
            assert (await fetched(port, ASKED)).endswith(b"\r\n\r\n1\n")
            assert (await fetched(port, ASKED.replace(b"GET", b"POST"))).startswith(b"HTTP/1.1 404 ")
            assert (await fetched(port, b"\x00" * 9000)).startswith(b"HTTP/1.1 400 ")
        finally:
            server.close()

    asyncio.run(scenario())
