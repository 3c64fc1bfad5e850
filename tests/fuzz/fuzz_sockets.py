"""Fuzz what reads from sockets with atheris: ``python tests/fuzz/fuzz_sockets.py [corpus] [-max_total_time=60]``.

The recvmmsg ring and what netctl-wg and the relay make of it, and the lines of the mediator's operator socket. The
datagrams of an input are sent over real loopback sockets, many at a time, so lengths and ancillary data are the
kernel's. A finding is any exception, and any fault that a guard had to catch.
"""

import json
import secrets
import socket
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(
    include=[
        "netctl.system.mmsg",
        "netctl.wg.inbox",
        "netctl.wire",
        "mediator.shell.relayserver",
        "mediator.shell.admin",
    ]
):
    from mediator.core.relay_table import RelayTable
    from mediator.shell.relayserver import RelayServer
    from mediator.shell.store import STORE_FILE, Store
    from netctl.model.addresses import SocketAddress
    from netctl.system import mmsg
    from netctl.tunnel import Device
    from netctl.wg.inbox import Inbox
    from netctl.wg.tun import Tun
    from netctl.wire import operatorrequests
    from tests.mediator.test_admin import Desk

UDP_SEGMENT, UDP_GRO, SOL_UDP = 103, 104, 17
PORTS = range(47100, 47102)
FAILED = "the mediator itself failed"
NOW = 1000.0


def datagrams(data: bytes) -> list[bytes]:
    """Cut into datagrams: each begins with its length divided by four."""
    found: list[bytes] = []
    while data and len(found) < mmsg.COUNT:
        length = data[0] * 4 + (data[0] & 3)
        found.append(data[1 : 1 + length])
        data = data[1 + length :]
    return found


class Ring:
    """A real socket with GRO, and what netctl-wg makes of its datagrams, with nothing behind it."""

    def __init__(self) -> None:
        self.receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.receiving.setsockopt(SOL_UDP, UDP_GRO, 1)
        self.receiving.bind(("127.0.0.1", 0))
        self.sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sending.connect(self.receiving.getsockname())
        device = Device(secrets.token_bytes(32), secrets.token_bytes)
        self.inbox = Inbox(device, Tun(-1, "fuzz0", offload=True, uso=True))
        self.others = 0

    def other(self, datagram: bytes, source: SocketAddress) -> None:
        self.others += len(datagram) >= 0

    def turn(self, sent: list[bytes]) -> None:
        for datagram in sent:
            self.sending.send(datagram)
        merged = sent[0] if sent else b""
        if len(sent) > 1 and 0 < len(merged) * len(sent) < 60_000:
            segment = len(merged).to_bytes(2, "little")
            self.sending.sendmsg(
                [b"".join(d.ljust(len(merged))[: len(merged)] for d in sent)],
                [(SOL_UDP, UDP_SEGMENT, segment)],
            )
        ring = self.inbox.ring
        assert ring is not None
        seen = 0
        while taken := ring.receive(self.receiving.fileno()):
            for first, count, total, size in ring.runs(taken):
                assert 0 <= first < first + count <= taken
                assert 0 <= size <= total
                ring.extra(first)
                source = SocketAddress.of(*ring.source(first)[:2])
                assert source.port == self.sending.getsockname()[1]
                seen += total * count
                if size < total:
                    self.inbox.receive_merged(first, total, size, source, NOW, self.other)
                else:
                    self.inbox.receive_run(first, count, size, source, NOW, self.other)
        assert seen >= sum(map(len, sent)), "every byte came"


class Relay:
    """The relay on real ports, turn by turn."""

    def __init__(self) -> None:
        self.server = RelayServer("127.0.0.1", PORTS, RelayTable(bytes(32), b"c" * 32, PORTS))
        self.sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sending.bind(("127.0.0.9", 0))

    def turn(self, sent: list[bytes]) -> None:
        for number, datagram in enumerate(sent):
            self.sending.sendto(datagram, ("127.0.0.1", PORTS[number % len(PORTS)]))
        for port in PORTS:
            self.server._drain(port, NOW, lambda: 1e9)
        assert self.server.guard.dropped == 0
        assert self.server.counters.forwarded_bytes == 0, "nothing goes on for a stranger"
        asked, answered = sum(map(len, sent)), 0
        try:
            while True:
                answered += len(self.sending.recv(65_536))
        except BlockingIOError:
            pass
        assert answered <= asked, "no amplifier"


RING, RELAY = Ring(), Relay()
DIRECTORY = tempfile.TemporaryDirectory(prefix="netctl-fuzz-")
STATE = Path(DIRECTORY.name)
DESK = Desk(Store(STATE / STORE_FILE), STATE)
OPERATIONS = sorted(operatorrequests.OPERATIONS)


def admin(data: bytes) -> None:
    """A line as it is, and its object as the rest of each request in turn."""
    lines = [data]
    try:
        plain = json.loads(data[1:])
    except (ValueError, RecursionError):
        plain = None
    if isinstance(plain, dict) and data:
        lines.append(json.dumps({**plain, "op": OPERATIONS[data[0] % len(OPERATIONS)]}).encode())
    for line in lines:
        answer = DESK.answer(line)
        json.dumps(answer)
        message = str(answer.get("error", {}).get("message", ""))
        assert not message.startswith(FAILED), message


def one_input(data: bytes) -> None:
    """The first byte chooses."""
    if not data:
        return
    kind, rest = data[0] % 3, data[1:]
    if kind == 0:
        RING.turn(datagrams(rest))
    elif kind == 1:
        RELAY.turn(datagrams(rest))
    else:
        admin(rest)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
