"""Through a proxy to a host that this machine's DNS knows nothing of: names there are the proxy's business."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from netctl.agent.mediators.proxy import connect
from netctl.session.mediatorchoice import LIMIT_S
from tests.support.connectproxy import ConnectProxy

NAMELESS = "mediator.example.net"


class SilentDns(asyncio.SelectorEventLoop):
    """As on a host whose nameserver drops what it is asked."""

    def run_in_executor(self, executor: Any, call: Any, *words: Any) -> Any:  # type: ignore[override]
        if words[:1] == (NAMELESS,):
            return self.create_future()
        return super().run_in_executor(executor, call, *words)


def test_a_silent_resolver_keeps_nobody_from_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        proxy = ConnectProxy(answer=b"HTTP/1.1 200 Connection established\r\n\r\n")
        port = await proxy.start("127.0.0.1", 0)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        try:
            async with asyncio.timeout(LIMIT_S):
                connected = await connect(NAMELESS, 8443)
            connected.socket.close()
            assert connected.reached == ()
            assert proxy.asked == [f"{NAMELESS}:8443"]
        finally:
            await proxy.close()

    with asyncio.Runner(loop_factory=SilentDns) as runner:
        runner.run(scenario())
