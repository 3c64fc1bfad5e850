"""The addresses of relays apart, while name servers come and go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from netctl.agent.storage.keyfiles import make_keys
from netctl.agent.storage.locations import Locations
from netctl.agent.transport import relayplaces
from netctl.agent.transport.relayplaces import AGAIN_S, Places, RelayPlaces
from netctl.model.addresses import SocketAddress
from netctl.model.document import Mediator
from netctl.system.guard import Guard
from tests.support.patience import BUSY_S


class Names:
    """A name server that may not be there, and the rests between questions to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.address: str | None = "192.0.2.1"
        self.rests: asyncio.Queue[float] = asyncio.Queue()
        self._next = asyncio.Event()
        monkeypatch.setattr(relayplaces, "look_up", self._look_up)
        monkeypatch.setattr(f"{relayplaces.__name__}.asyncio.sleep", self._rest)

    async def _look_up(self, host: str, port: int, kind: socket.SocketKind) -> tuple[SocketAddress, ...]:
        if self.address is None:
            raise socket.gaierror(socket.EAI_AGAIN, "no name server")
        return (SocketAddress(self.address, port),)

    async def _rest(self, seconds: float) -> None:
        self.rests.put_nowait(seconds)
        await self._next.wait()
        self._next.clear()

    def pass_time(self) -> None:
        self._next.set()


def test_names_that_are_not_found_after_a_move_are_asked_for_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop's routes come before its name servers: the old addresses stay until new ones are found."""
    root = tmp_path
    keys, _ = make_keys(Locations(root / "networks.yaml", root / "state", root / "run", root / "hosts"))
    relay = Mediator("relay.example", 8443, (keys.identity,), relay_only=True)
    name = str(keys.identity)

    async def story() -> None:
        names, found = Names(monkeypatch), list[Places]()
        lines: list[str] = []
        tell: Callable[[Places], None] = found.append
        places = RelayPlaces(tell, Guard(lines.append))
        try:
            async with asyncio.timeout(BUSY_S):
                places.follow((relay,))
                assert await names.rests.get() == AGAIN_S
                names.address = None
                places.network_changed()
                for _ in range(3):
                    assert await names.rests.get() <= relayplaces.RETRY_CAP_S
                    assert found[-1] == {name: ("192.0.2.1",)}
                    names.pass_time()
                names.address = "198.51.100.1"
                while await names.rests.get() != AGAIN_S:
                    names.pass_time()
                assert found[-1] == {name: ("198.51.100.1",)}
        finally:
            places.close()
        assert lines == []

    asyncio.run(story())
