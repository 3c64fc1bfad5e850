"""STUN answers leave from the address that was asked, on a socket that listens on all."""

from __future__ import annotations

import asyncio
import socket

import pytest

from mediator.shell.stunserver import StunServer, check_own
from netctl.model.addresses import SocketAddress
from netctl.model.errors import LocalError
from netctl.system import pktinfo
from netctl.wire import stun
from tests.support.patience import BUSY_S

TRANSACTION = bytes(range(12))


@pytest.mark.parametrize("listen", ["0.0.0.0", "::"])
@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.2", "127.1.2.3"])
def test_the_answer_comes_from_who_was_asked(listen: str, asked: str) -> None:
    async def main() -> None:
        server = StunServer(listen, 0)
        server.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.bind(("127.0.0.9", 0))
            loop = asyncio.get_running_loop()
            for garbage in (b"", b"\0", bytes(1400)):
                client.sendto(garbage, (asked, server.port))
            client.sendto(stun.binding_request(TRANSACTION), (asked, server.port))
            async with asyncio.timeout(BUSY_S):
                data, source = await loop.sock_recvfrom(client, 1500)
            assert source == (asked, server.port)
            assert stun.decode(data).mapped == SocketAddress.of(*client.getsockname())
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("listen", ["0.0.0.0", "::"])
@pytest.mark.parametrize(
    ("change", "second", "expected"),
    [
        (stun.CHANGE_PORT, "", ("127.0.0.2", True)),
        (stun.CHANGE_PORT, "127.0.0.3", ("127.0.0.2", True)),
        (stun.CHANGE_PORT | stun.CHANGE_ADDRESS, "127.0.0.3", ("127.0.0.3", True)),
        (stun.CHANGE_ADDRESS, "127.0.0.3", ("127.0.0.3", False)),
        (stun.CHANGE_PORT | stun.CHANGE_ADDRESS, "", ("127.0.0.2", False)),
        (stun.CHANGE_ADDRESS, "127.0.0.2", ("127.0.0.2", False)),
    ],
)
def test_the_answer_comes_from_where_the_client_wishes(
    listen: str, change: int, second: str, expected: tuple[str, bool]
) -> None:
    async def main() -> None:
        one, other = (StunServer(listen, 0, second) for _ in range(2))
        one.sibling, other.sibling = other, one
        one.start()
        other.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.bind(("127.0.0.9", 0))
            client.sendto(stun.binding_request(TRANSACTION, change), ("127.0.0.2", one.port))
            async with asyncio.timeout(BUSY_S):
                data, source = await asyncio.get_running_loop().sock_recvfrom(client, 1500)
            host, from_other = expected
            assert source == (host, other.port if from_other else one.port)
            refused = (host, from_other) == ("127.0.0.2", False)
            message = stun.decode(data)
            assert message.kind == (stun.BINDING_ERROR if refused else stun.BINDING_SUCCESS)
            if not refused:
                assert message.other == SocketAddress.of(second or "127.0.0.2", other.port)
        one.close()
        other.close()

    asyncio.run(main())


@pytest.mark.parametrize("address", ["192.0.2.77", "::1", "mediator.example.net", "0"])
def test_an_address_of_another_host_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(LocalError, match=r"no such IPv4 address.*leave the option out"):
        check_own(address)
    check_own("127.0.0.3")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "fe80::1%3", ""])
def test_what_makes_it_leave_reads_as_the_address_again(address: str, family: socket.AddressFamily) -> None:
    if family == socket.AF_INET and ":" in address:
        return
    controls = pktinfo.leave_from(address, family)
    assert pktinfo.asked_at([(17, 104, bytes(4)), *controls]) == address
    assert all(len(data) <= pktinfo.SPACE for _, _, data in controls)


def test_a_multicast_address_is_nobodys_source() -> None:
    to_many = pktinfo.leave_from("ff02::1", socket.AF_INET6)
    assert pktinfo.asked_at(to_many) == ""
    cut = [(level, kind, data[:5]) for level, kind, data in to_many]
    assert pktinfo.asked_at(cut) == ""
