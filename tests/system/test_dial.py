"""TCP on whichever family answers first (RFC 8305), with real sockets on the loopback."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from netctl.model.addresses import SocketAddress
from netctl.system.dial import ATTEMPT_DELAY_S, away_from, by_turns, race

FIVE = [
    SocketAddress(host, 1) for host in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2")
]


def test_families_take_turns_in_the_systems_order() -> None:
    assert [one.host for one in by_turns(FIVE)] == [
        "2001:db8::1",
        "192.0.2.1",
        "2001:db8::2",
        "192.0.2.2",
        "2001:db8::3",
    ]
    assert by_turns([]) == ()
    assert [one.is_ipv6 for one in away_from(FIVE[0].address, by_turns(FIVE))] == [
        False,
        False,
        True,
        True,
        True,
    ]


TCP_S = 60.0
"""After as long, TCP has not given up yet."""
TRIES = 8


class Silent:
    """A port whose queue of connections is full: the kernel answers no SYN, as a black hole does."""

    def __init__(self, family: socket.AddressFamily, host: str) -> None:
        self._sockets = [socket.socket(family, socket.SOCK_STREAM)]
        self._sockets[0].bind((host, 0))
        self._sockets[0].listen(0)
        self.address = SocketAddress(host, self._sockets[0].getsockname()[1])
        for _ in range(3):
            one = socket.socket(family, socket.SOCK_STREAM)
            one.setblocking(False)
            one.connect_ex((host, self.address.port))
            self._sockets.append(one)

    def __enter__(self) -> SocketAddress:
        return self.address

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()


def _listen(family: socket.AddressFamily, host: str) -> tuple[socket.socket, SocketAddress]:
    server = socket.socket(family, socket.SOCK_STREAM)
    server.bind((host, 0))
    server.listen(8)
    return server, SocketAddress(host, server.getsockname()[1])


def _race(*addresses: SocketAddress) -> tuple[str, float]:
    began = time.monotonic()
    won = asyncio.run(race(addresses))
    took = time.monotonic() - began
    with won:
        return won.getpeername()[0], took


@pytest.mark.parametrize(
    ("dead", "alive"),
    [
        ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")),
        ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")),
    ],
    ids=["IPv6 dead", "IPv4 dead"],
)
def test_a_dead_family_costs_a_quarter_of_a_second(
    dead: tuple[socket.AddressFamily, str], alive: tuple[socket.AddressFamily, str]
) -> None:
    server, there = _listen(*alive)
    with server, Silent(*dead) as nowhere:
        host, took = _race(nowhere, there)
        assert host == there.host
        assert ATTEMPT_DELAY_S <= took < TCP_S, "a busy machine apart: not the minutes of TCP"
        host, took = _race(there, nowhere)
        assert host == there.host


def test_a_family_that_refuses_costs_nothing() -> None:
    server, there = _listen(socket.AF_INET, "127.0.0.1")
    with server:
        gone, refusing = _listen(socket.AF_INET6, "::1")
        gone.close()
        tries = [_race(refusing, there) for _ in range(TRIES)]
    assert {host for host, _ in tries} == {"127.0.0.1"}
    assert min(took for _, took in tries) < ATTEMPT_DELAY_S, "a busy machine holds up one or the other"


def test_the_reason_is_the_last_addresss_where_none_answers() -> None:
    gone, refusing = _listen(socket.AF_INET, "127.0.0.1")
    gone.close()
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(race([refusing]))
    with pytest.raises(OSError, match="no address"):
        asyncio.run(race([]))


def test_what_is_given_up_leaves_no_socket_behind() -> None:
    async def give_up(address: SocketAddress) -> None:
        async with asyncio.timeout(0.05):
            await race([address])

    with Silent(socket.AF_INET, "127.0.0.1") as nowhere, pytest.raises(TimeoutError):
        asyncio.run(give_up(nowhere))
