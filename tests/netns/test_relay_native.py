"""The relay's two data paths, C and Python, side by side: the same datagrams come out, in the same order."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from mediator.core.relay_limits import Limits
from mediator.core.relay_table import BINDING_TTL_S, RelayTable
from mediator.shell import native
from mediator.shell.relayserver import UDP_SEGMENT, RelayServer
from tests.netns.test_relay_real import DATA, SECRET, SO_RCVBUFFORCE, Member

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None, reason="there is no C compiler"
)
PORTS = range(46110, 46114)
P_A, P_B, P_C = PORTS[0], PORTS[1], PORTS[2]
SIZES = (32, 33, 100, 100, 1000, 1200, 1200, 1200, 1432)


class World:
    """A relay whose turns the test makes, and members around it."""

    def __init__(self, stack: ExitStack, path: str, limits: Limits) -> None:
        before = os.environ.get(native.SWITCH)
        os.environ[native.SWITCH] = "" if path == "native" else "0"
        try:
            table = RelayTable(SECRET, b"c" * 32, PORTS, limits)
            self.server = stack.enter_context(closing(RelayServer("127.0.0.1", PORTS, table)))
        finally:
            del os.environ[native.SWITCH]
            if before is not None:
                os.environ[native.SWITCH] = before
        assert self.server.data_path == path
        self._stack = stack
        self.now = 1000.0

    def member(self, host: str, own: int, peer: int) -> Member:
        member = Member(host, own, peer)
        self._stack.enter_context(closing(member.socket))
        member.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        member.ask = self._asked(member)  # type: ignore[method-assign]
        return member

    def _asked(self, member: Member):  # type: ignore[no-untyped-def]
        from netctl.wire import relay

        def ask(message, timeout=0.5):  # type: ignore[no-untyped-def]
            member.send(relay.seal(message, member.key))
            self.turn(member.relay[1])
            answer = member.receive(timeout)
            return None if answer is None else relay.open_message(answer[0], member.key)

        return ask

    def turn(self, port: int) -> None:
        """All that waits at a port."""
        for _ in range(8):
            self.server._drain(port, self.now, time.time)

    @property
    def sent(self) -> int:
        """What the first member's account says, once nothing is set aside."""
        self.server.settle()
        return self.server.table.ledger.account(P_A, self.now).sent


@contextmanager
def world(path: str, limits: Limits | None = None) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, path, limits or Limits())


def everything(member: Member) -> list[bytes]:
    """What has arrived."""
    member.socket.setblocking(False)
    found = []
    try:
        while True:
            found.append(member.socket.recv(65535))
    except BlockingIOError:
        return found


def segments(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def sends(dice: random.Random, number: int) -> Iterator[tuple[int, bytes, int]]:
    """(sender, data, segment size or 0): what a well-meaning or, seldom, a careless member may send."""
    for count in range(number):
        is_odd = dice.random() < 0.03
        kind = dice.choice((1, 2, 3, 0, 5, 0x0104)) if is_odd else 4
        size = dice.randrange(0, 40) if is_odd else dice.choice(SIZES)
        sender = dice.choice((0, 0, 0, 0, 1, 1, 2))
        data = struct.pack("<II", kind, count)[:size] + bytes(max(0, size - 8))
        if dice.random() < 0.1 and size >= 32:
            times = dice.randrange(2, max(3, min(45, 60000 // size)))
            tail = dice.choice((b"", DATA + bytes(40), DATA + bytes(40)))[: size - 1]
            yield sender, data * times + tail, size
        elif dice.random() < 0.1:
            for again in range(dice.randrange(2, 100)):
                yield sender, data[:4] + struct.pack("<I", again) + data[8:] if size >= 8 else data, 0
        else:
            yield sender, data, 0


def arrives(path: str, seed: int, limits: Limits) -> tuple[list[list[bytes]], tuple[int, ...], int]:
    """What three members got: one is bound to two others, the third sender is a stranger."""
    dice = random.Random(seed)
    with world(path, limits) as here:
        a, b = here.member("127.0.0.1", P_A, P_B), here.member("127.0.0.2", P_B, P_A)
        c, stranger = here.member("127.0.0.3", P_C, P_B), here.member("127.0.0.4", P_A, P_B)
        for member in (a, b, c):
            member.bind()
        here.member("127.0.0.2", P_B, P_C).bind()
        for member in (a, b, c):
            everything(member)
        got: list[list[bytes]] = [[], [], []]
        for _ in range(6):
            for sender, data, segment in sends(dice, 60):
                sock = (a, c, stranger)[sender].socket
                option = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("H", segment))] if segment else []
                sock.sendmsg([data], option, 0, ("127.0.0.1", P_B))
            here.turn(P_B)
            here.now += 0.01
            for rows, member in zip(got, (a, b, c), strict=True):
                rows += everything(member)
        here.server.settle()
        counted = here.server.counters
        counts = (counted.forwarded_bytes, counted.dropped_stranger, counted.dropped_type)
        return got, counts, here.sent


@pytest.mark.parametrize("seed", range(8))
def test_both_paths_let_the_same_through(seed: int) -> None:
    there, counts, sent = arrives("native", seed, Limits())
    here, counted, accounted = arrives("Python", seed, Limits())
    assert there == here
    assert any(there)
    assert (counts, sent) == (counted, accounted)


@pytest.mark.parametrize("path", ["native", "Python"])
def test_limits_hold_to_the_byte(path: str) -> None:
    """A rate and a quota: what passes is what the account says, and not more than the limit."""
    limits = Limits(pair_rate=4_000_000, quota=3_000_000)
    with world(path, limits) as here:
        a, b = here.member("127.0.0.1", P_A, P_B), here.member("127.0.0.2", P_B, P_A)
        a.bind()
        b.bind()
        everything(a)
        data, passed, at_second = DATA + bytes(1196), 0, Counter[int]()
        for step in range(200):
            for _ in range(20):
                a.send(data)
            here.turn(P_B)
            here.now += 0.01
            arrived = sum(map(len, everything(b)))
            passed += arrived
            at_second[step // 100] += arrived
        assert passed == here.sent == here.server.counters.forwarded_bytes
        assert 2_990_000 <= passed <= 3_000_000
        assert at_second[0] <= 4_000_000 + 400_000
        here.now += 86_400  # the next day; the binding has been kept up
        for binding in here.server.table.bindings():
            binding.refreshed_at = here.now
        a.send(data)
        here.turn(P_B)
        assert everything(b) == [data]


@pytest.mark.parametrize("path", ["native", "Python"])
def test_a_member_that_moves_or_goes_is_followed_at_once(path: str) -> None:
    with world(path) as here:
        a, b = here.member("127.0.0.1", P_A, P_B), here.member("127.0.0.2", P_B, P_A)
        a.bind()
        b.bind()
        everything(a)
        data = DATA + bytes(100)
        for _ in range(5):
            a.send(data)
        here.turn(P_B)
        assert everything(b) == [data] * 5
        moved = here.member("127.0.0.9", P_B, P_A)
        moved.bind()
        a.send(data)
        here.turn(P_B)
        assert (everything(b), everything(moved)) == ([], [data])
        here.now += BINDING_TTL_S + 1
        here.server.table.expire(here.now)
        a.send(data)
        here.turn(P_B)
        assert everything(moved) == []
        assert here.server.counters.dropped_stranger == 1


def test_garbage_is_refused_by_the_part_in_c() -> None:
    forwarder = native.load()
    assert forwarder is not None
    good = (socket.AF_INET, bytes(4), 5, 0)
    for bad in (
        (socket.AF_INET, bytes(3), 5, 0),
        (socket.AF_INET6, bytes(4), 5, 0),
        (socket.AF_INET, bytes(4), 0, 0),
        (socket.AF_INET, bytes(4), 65536, 0),
        (7, bytes(4), 5, 0),
    ):
        with pytest.raises(ValueError, match="an address is"):
            forwarder.set_flow(1, bad, 0, good, b"", False)
        with pytest.raises(ValueError, match="an address is"):
            forwarder.set_flow(1, good, 0, bad, b"", False)
    with pytest.raises(ValueError, match="ancillary"):
        forwarder.set_flow(1, good, 0, good, bytes(65), False)
    assert forwarder.drain(-1, 1) == []
    assert forwarder.grant(1, good, 5) == 0, "a flow that is not there gets nothing"
    flows = [(socket.AF_INET, struct.pack(">I", number), 5, 0) for number in range(1 << 14)]
    assert all(forwarder.set_flow(1, flow, 0, good, b"", False) for flow in flows)
    assert not forwarder.set_flow(1, (socket.AF_INET, b"\xff" * 4, 5, 0), 0, good, b"", False)
    assert (forwarder.grant(1, flows[7], 5), forwarder.grant(1, flows[7], 0)) == (0, 5)
    forwarder.forget()
    assert forwarder.grant(1, flows[7], 5) == 0
