"""What a small server answers to a request, byte for byte."""

from __future__ import annotations

import asyncio


async def fetched(port: int, request: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer
