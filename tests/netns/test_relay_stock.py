"""A stock app's pair port on real sockets: it is learned, it moves, batches stay whole, strangers get silence."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from mediator.core.relay_pairs import PairMember, PairPort
from mediator.core.relay_table import RelayTable
from mediator.shell.relayserver import UDP_GRO, UDP_SEGMENT, RelayServer
from netctl.model.keys import WireGuardKey
from netctl.wire import relay
from tests.mediator.test_relay_pairs import initiation, response, transport
from tests.netns.test_relay_real import P_A, P_B, PORTS, SECRET, Member
from tests.support.patience import BUSY_S, wait_for

pytestmark = pytest.mark.netns

AGENT, PHONE = WireGuardKey(b"\1" * 32), WireGuardKey(b"\2" * 32)
PAIR = PORTS[2]
AT = ("127.0.0.1", PAIR)


@pytest.fixture
def server() -> Iterator[RelayServer]:
    relays = RelayServer("127.0.0.1", PORTS, RelayTable(SECRET, b"c" * 32, PORTS))
    sides = (PairMember(AGENT, P_A, False), PairMember(PHONE, P_B, True))
    relays.pairs.load([PairPort(PAIR, sides)], 0.0)
    thread = threading.Thread(target=relays.serve)
    thread.start()
    yield relays
    relays.stop()
    thread.join(BUSY_S)
    relays.close()


class App:
    """A socket that knows nothing of relays."""

    def __init__(self, host: str) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(BUSY_S)

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, AT)

    def hears(self, data: bytes) -> bool:
        got, source = self.socket.recvfrom(65535)
        return (got, source) == (data, AT)


def test_an_app_meets_an_agent_moves_and_sends_batches(server: RelayServer) -> None:
    agent, app, elsewhere, eve = (
        Member("127.0.0.2", P_A, PAIR),
        App("127.0.0.3"),
        App("127.0.0.4"),
        App("127.0.0.5"),
    )
    try:
        assert not agent.bind().flags
        question, answer = initiation(7, AGENT), response(8, 7, PHONE)
        app.send(question)
        assert agent.receive() == (question, AT)
        agent.send(answer)
        assert app.hears(answer)
        notice = agent.receive()
        assert notice is not None
        assert isinstance(relay.open_message(notice[0], agent.key), relay.Bound)
        batch = b"".join(bytes(transport(8, number)) for number in range(20))
        agent.socket.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
        app.socket.sendmsg([batch], [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("H", 96))], 0, AT)
        got = b""
        while len(got) < len(batch):
            part = agent.receive()
            assert part is not None
            got += part[0]
        assert got == batch
        for wrong in (transport(8, 19), transport(9, 40)):
            eve.send(bytes(wrong))
        eve.send(response(8, 7, AGENT))
        elsewhere.send(bytes(transport(8, 20)))
        assert agent.receive() == (bytes(transport(8, 20)), AT)
        back = bytes(transport(7, 0))
        agent.send(back)
        assert elsewhere.hears(back)
        eve.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            eve.socket.recv(1)
        wait_for("all are counted", lambda: server.counters.dropped_stranger == 3)
    finally:
        for member in (agent, app, elsewhere, eve):
            member.socket.close()
