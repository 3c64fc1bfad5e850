"""One engine call that fails stops nobody else's path."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.agent.storage.keyfiles import Keys
from netctl.agent.transport.pathrunner import PathRunner
from netctl.engine.filter.rewrites import Rewrites
from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey
from netctl.paths.effects import PathChanged, PathStatus, SetEndpoint
from netctl.system.guard import Guard

ONE, OTHER = WireGuardKey(bytes([9]) * 32), WireGuardKey(bytes([8]) * 32)
PLACE = SocketAddress("192.0.2.7", 7)


class Runner:
    """A path runner whose engine does not answer the first time."""

    def __init__(self, state: Path) -> None:
        self.steered: asyncio.Queue[WireGuardKey] = asyncio.Queue()
        self.calls = 0
        self.lines: list[str] = []
        self.guard = Guard(self.lines.append)
        keys = Keys(X25519PrivateKey.generate(), Ed25519PrivateKey.generate())
        rewrites = Rewrites(state / "rewrites.json")
        self.paths = PathRunner(keys, self.steer, lambda _: None, self.changed, rewrites, self.guard)

    async def steer(self, key: WireGuardKey, _: SocketAddress) -> None:
        self.calls += 1
        if self.calls == 1:
            raise TimeoutError("the engine does not answer")
        await self.steered.put(key)

    def changed(self, key: WireGuardKey, _: PathStatus) -> None:
        raise KeyError(key)


def test_an_engine_that_does_not_answer_once_is_steered_on(tmp_path: Path) -> None:
    async def main() -> None:
        runner = Runner(tmp_path)
        runner.paths._perform([SetEndpoint(ONE, PLACE), SetEndpoint(OTHER, PLACE)])
        async with asyncio.timeout(30):
            assert await runner.steered.get() == OTHER
        assert runner.guard.dropped == 1
        assert "TimeoutError" in runner.lines[0]
        runner.paths.close()

    asyncio.run(main())


def test_what_fails_for_one_pair_is_done_for_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        runner = Runner(tmp_path)
        runner.calls = 1
        runner.paths._perform([PathChanged(ONE, PathStatus("none")), SetEndpoint(OTHER, PLACE)])
        async with asyncio.timeout(30):
            assert await runner.steered.get() == OTHER
        assert runner.guard.dropped == 1
        runner.paths.close()

    asyncio.run(main())


def test_an_engine_that_starts_anew_is_told_all_endpoints_again(tmp_path: Path) -> None:
    async def main() -> None:
        runner = Runner(tmp_path)
        runner.calls = 1
        runner.paths._perform([SetEndpoint(ONE, PLACE), SetEndpoint(OTHER, PLACE)])
        runner.paths.engine_gone()
        async with asyncio.timeout(30):
            assert [await runner.steered.get() for _ in range(4)] == [ONE, OTHER, ONE, OTHER]
        runner.paths.peers(frozenset({OTHER}))
        runner.paths.engine_gone()
        async with asyncio.timeout(30):
            assert await runner.steered.get() == OTHER, "who is no peer any more is not told of"
        runner.paths.close()

    asyncio.run(main())
