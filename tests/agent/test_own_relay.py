"""The relay that an agent runs as a child: whom it serves, what it may not do, and how it begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mediator.core.relay_grants import Grant, grant
from netctl.agent.ownrelay import PROGRAM, OwnRelay, order_of
from netctl.agent.storage.keyfiles import Keys
from netctl.config import load_document
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey
from netctl.system.guard import Guard
from netctl.system.ourselves import module
from netctl.wire import relay, stun
from netctl.wire.relayorders import RelayOrder, RelayReport, read_line, write_line
from netctl.wire.relaysecret import agreed_secret
from tests.mediator.loopbackkit import ANN, BOB, HOST, STRANGER
from tests.mediator.test_relay_apart import Member
from tests.support.freeports import free_port, free_ports
from tests.support.patience import BUSY_S


class Place:
    """A document with one member that relays on loopback, and its mediators' keys (here other members')."""

    def __init__(self) -> None:
        self.first, self.stun = free_ports(4).start, free_port(socket.SOCK_DGRAM)

    def document(
        self, *mediators: Keys, identity: IdentityKey = ANN.identity, relays: bool = True
    ) -> Document:
        own = (
            {"relay": {"stun": [self.stun], "relayPorts": f"{self.first}-{self.first + 3}"}} if relays else {}
        )
        text = {
            "apiVersion": "netctl/v1",
            "mediators": [
                {"url": f"netctl://192.0.2.{n}:8443", "identity": [str(one.identity)]}
                for n, one in enumerate(mediators, 1)
            ],
            "members": {
                "ann": {
                    "wireguard": str(ANN.wireguard),
                    "identity": str(identity),
                    "endpoints": [f"{HOST}:51820"],
                    **own,
                }
            },
            "networks": {"home": {"mode": "routed", "ipv4": "10.1.0.0/24", "members": ["*"]}},
        }
        return load_document(json.dumps(text)).document

    def granted(self, own: int, peer: int, by: Keys) -> Grant:
        secret = agreed_secret(by.identity_private, by.identity, ANN.identity)
        return grant(secret, self.first + own, self.first + peer, int(time.time()) + 3600)

    def binds(self, by: Keys) -> bool:
        """Whether the relay answers a member with a grant of this mediator."""
        return Member(self.granted(0, 1, by)).is_answered()

    def free(self) -> bool:
        """Whether nobody has its ports."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.bind((HOST, self.first))
        except OSError:
            return False
        return True


def run(story: Callable[[OwnRelay], Awaitable[None]]) -> list[str]:
    """Run a story; what the guard said."""
    lines: list[str] = []

    async def live() -> None:
        own = OwnRelay(ANN, Guard(lines.append))
        try:
            async with asyncio.timeout(4 * BUSY_S):
                await story(own)
        finally:
            await own.close()

    asyncio.run(live())
    return lines


async def until(own: OwnRelay, state: str) -> None:
    while own.status.state != state:
        await asyncio.sleep(0.02)


def child_of(own: OwnRelay) -> int:
    assert own._child is not None
    return own._child.pid


def test_it_relays_for_members_with_grants_of_the_documents_mediators() -> None:
    place = Place()

    async def story(own: OwnRelay) -> None:
        await own.follow(place.document(BOB))
        await until(own, "up")
        pid = child_of(own)
        assert not await asyncio.to_thread(place.binds, STRANGER)
        ann, bob = Member(place.granted(0, 1, BOB)), Member(place.granted(1, 0, BOB))
        await asyncio.to_thread(ann.bind)
        assert (await asyncio.to_thread(bob.bind)).flags is relay.BoundFlag.PEER_BOUND
        ann.socket.recv(2000)  # that bob has come
        data = b"\4\0\0\0".ljust(100, b"x")
        ann.send(data)
        assert await asyncio.to_thread(bob.socket.recv, 2000) == data
        while own.status.bindings != 2 or own.status.forwarded_bytes != len(data):
            await asyncio.sleep(0.02)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(BUSY_S)
            asking.sendto(stun.binding_request(b"t" * 12), (HOST, place.stun))
            assert stun.decode(await asyncio.to_thread(asking.recv, 2000)).mapped is not None
        # Another mediator comes and the first one goes: the same process, which lets the first one's members go.
        await own.follow(place.document(STRANGER))
        while not await asyncio.to_thread(place.binds, STRANGER):
            await asyncio.sleep(0.02)
        assert not await asyncio.to_thread(place.binds, BOB)
        assert child_of(own) == pid
        ann.close()
        bob.close()

    assert run(story) == []
    assert place.free()


def test_it_has_no_rights_but_its_open_sockets() -> None:
    place = Place()

    async def story(own: OwnRelay) -> None:
        await own.follow(place.document(BOB))
        await until(own, "up")
        of = Path(f"/proc/{child_of(own)}")
        status = dict(
            line.split(":\t", 1) for line in (of / "status").read_text().splitlines() if ":\t" in line
        )
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapAmb"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        words = (of / "environ").read_bytes() + (of / "cmdline").read_bytes()
        secret = agreed_secret(BOB.identity_private, BOB.identity, ANN.identity)
        assert secret.hex().encode() not in words

    assert run(story) == []


def test_a_taken_port_is_said_and_tried_again_while_the_others_work() -> None:
    """Without any right: the socket for the port was opened before the relay gave up its rights."""
    place = Place()

    async def story(own: OwnRelay) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((HOST, place.first + 2))
            await own.follow(place.document(BOB))
            await until(own, "up")
            assert own.status.unheld == ((place.first + 2, place.first + 2),)
            assert await asyncio.to_thread(place.binds, BOB)
        while own.status.unheld:
            await asyncio.sleep(0.02)
        member = Member(place.granted(0, 2, BOB))
        await asyncio.to_thread(member.bind)
        member.close()

    assert run(story) == []


def test_a_relay_without_any_of_its_ports_waits_for_them() -> None:
    place = Place()

    async def story(own: OwnRelay) -> None:
        with contextlib.ExitStack() as others:
            for port in range(place.first, place.first + 4):
                other = others.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                other.bind((HOST, port))
            await own.follow(place.document(BOB))
            await until(own, "waiting")
            assert f"cannot listen on UDP :: port {place.first}-{place.first + 3}" in str(own.status.error)
        await until(own, "up")
        assert own.status.error is None

    assert run(story) == []


def test_it_ends_with_the_line_of_the_document_and_returns_with_it() -> None:
    place = Place()

    async def story(own: OwnRelay) -> None:
        await own.follow(place.document(BOB))
        await until(own, "up")
        await own.follow(place.document(BOB, relays=False))
        assert own.status.state == "off"
        assert place.free()
        await own.follow(place.document(BOB))
        await until(own, "up")
        own.stop()
        await own.follow(place.document(BOB))
        await until(own, "up")
        place.stun = free_port(socket.SOCK_DGRAM)
        before = child_of(own)
        await own.follow(place.document(BOB))
        await until(own, "up")
        assert child_of(own) != before

    assert run(story) == []


def test_a_relay_that_was_killed_is_started_again() -> None:
    place = Place()

    async def story(own: OwnRelay) -> None:
        await own.follow(place.document(BOB))
        await until(own, "up")
        assert own._child is not None
        own._child.send_signal(signal.SIGKILL)
        await until(own, "waiting")
        assert "it ended (status -9)" in str(own.status.error)
        await until(own, "up")

    assert run(story) == []


def test_nobody_could_use_a_relay_under_another_identity() -> None:
    place = Place()

    async def story(own: OwnRelay) -> None:
        for _ in range(2):
            await own.follow(place.document(BOB, identity=STRANGER.identity))
            assert own.status.state == "waiting"
            assert "the identity" in str(own.status.error)
        await own.follow(None)
        assert own.status.state == "off"

    assert run(story) == []
    assert order_of(place.document(BOB, relays=False), ANN) is None
    assert order_of(place.document(BOB), BOB) is None, "the document wants it of another member"


def test_it_ends_when_its_agent_is_killed() -> None:
    place = Place()
    order = order_of(place.document(BOB), ANN)
    assert order is not None
    child = subprocess.Popen(module(PROGRAM), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(write_line(order))
        child.stdin.flush()
        assert read_line(child.stdout.readline(), RelayReport).error is None
        assert not place.free()
        child.stdin.close()
        assert child.wait(BUSY_S) == 0
    assert place.free()


def test_wrong_lines_end_it() -> None:
    place = Place()
    order = order_of(place.document(BOB), ANN)
    assert order is not None
    good = write_line(order)
    for lines in (
        b"{}\n",
        b"\xff\n",
        b'{"stun": [0], "relay_ports": [1, 2], "secrets": []}\n',
        b"x" * 40_000,
        good + b"[]\n",
    ):
        ended = subprocess.run(module(PROGRAM), input=lines, capture_output=True, timeout=BUSY_S, check=False)
        assert ended.returncode in (0, 1)
        assert b"Traceback" not in ended.stderr
    ended = subprocess.run(module(PROGRAM), input=b"", capture_output=True, timeout=BUSY_S, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_without_a_mediator_there_is_nothing_to_check_grants_by() -> None:
    document = Place().document(BOB)
    bare = Document(document.members, document.networks, ())
    with pytest.raises(LocalError, match="names no mediator"):
        order_of(bare, ANN)


def test_a_line_is_read_as_it_was_written() -> None:
    order = RelayOrder([3478, 3479], (40000, 40999), ["ab" * 32])
    assert read_line(write_line(order), RelayOrder) == order
