"""Doorbells on this host's real loopback: one socket, and it is known for which peer a datagram came."""

from __future__ import annotations

import asyncio
import socket

import pytest

from netctl.agent.log import warn
from netctl.agent.transport.doorbells import IDLE_VARIABLE, Doorbells, idle_s
from netctl.model.addresses import SocketAddress
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.paths.constants import LAZY_IDLE
from netctl.system.guard import Guard
from tests.support.patience import BUSY_S

ONE, TWO = WireGuardKey(bytes([1]) * 32), WireGuardKey(bytes([2]) * 32)


def address(bells: Doorbells, key: WireGuardKey) -> tuple[str, int]:
    found = bells.of(key)
    assert found is not None
    return found.host, found.port


def test_each_peer_has_its_own_and_only_the_engine_may_ring() -> None:
    async def ring() -> None:
        rung: asyncio.Queue[tuple[WireGuardKey, bytes]] = asyncio.Queue()
        bells = Doorbells(lambda key, data: rung.put_nowait((key, data)), Guard(warn))
        assert bells.of(ONE) is None
        assert bells.open()
        assert bells.open()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as engine,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        ):
            engine.bind(("0.0.0.0", 0))
            bells.engine(engine.getsockname()[1])
            stranger.sendto(b"not the engine", address(bells, ONE))
            engine.sendto(b"to two", address(bells, TWO))
            engine.sendto(b"to one", address(bells, ONE))
            async with asyncio.timeout(BUSY_S):
                assert await rung.get() == (TWO, b"to two")
                assert await rung.get() == (ONE, b"to one")
            old = address(bells, TWO)
            assert bells.is_one(SocketAddress(*old))
            bells.keep({ONE})
            assert not bells.is_one(SocketAddress(*old))
            engine.sendto(b"to nobody", old)
            engine.sendto(b"again", address(bells, ONE))
            async with asyncio.timeout(BUSY_S):
                assert await rung.get() == (ONE, b"again")
            assert rung.empty()
        bells.close()
        bells.close()
        assert bells.of(ONE) is None

    asyncio.run(ring())


def test_a_doorbell_stays_the_same_and_is_nobody_elses() -> None:
    async def ask() -> None:
        bells = Doorbells(lambda key, data: None, Guard(warn))
        assert bells.open()
        keys = [WireGuardKey(number.to_bytes(32)) for number in range(300)]
        found = [bells.of(key) for key in keys]
        assert len(set(found)) == len(keys)
        assert [bells.of(key) for key in keys] == found
        bells.close()

    asyncio.run(ask())


def test_no_other_program_can_take_a_doorbell() -> None:
    """With SO_REUSEADDR any user could: the socket of the more exact address receives."""

    async def take() -> None:
        bells = Doorbells(lambda key, data: None, Guard(warn))
        assert bells.open()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(address(bells, ONE))
        bells.close()

    asyncio.run(take())


def test_doorbells_that_leave_their_port_ring_at_another() -> None:
    async def ring() -> None:
        rung: asyncio.Queue[tuple[WireGuardKey, bytes]] = asyncio.Queue()
        bells = Doorbells(lambda key, data: rung.put_nowait((key, data)), Guard(warn))
        assert bells.leave(7) == {}
        assert bells.open()
        old = address(bells, ONE)
        assert bells.leave(old[1] - 1) == {}
        assert bells.leave(old[1]) == {ONE: bells.of(ONE)}
        assert address(bells, ONE)[0] == old[0]
        assert address(bells, ONE)[1] != old[1]
        assert not bells.is_one(SocketAddress(*old))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as engine,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stand_in,
        ):
            engine.bind(("0.0.0.0", 0))
            stand_in.bind(old)
            bells.engine(engine.getsockname()[1])
            engine.sendto(b"first", address(bells, ONE))
            async with asyncio.timeout(BUSY_S):
                assert await rung.get() == (ONE, b"first")
        bells.close()

    asyncio.run(ring())


@pytest.mark.parametrize("text", ["1", "nan", "-5", "five", "1e9", "inf"])
def test_an_idle_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LocalError, match="NETCTL_LAZY_IDLE_S is seconds, from 2 to 86400"):
        idle_s({IDLE_VARIABLE: text})


def test_the_idle_time() -> None:
    assert idle_s({}) == idle_s({IDLE_VARIABLE: ""}) == LAZY_IDLE
    assert idle_s({IDLE_VARIABLE: "7.5"}) == 7.5
