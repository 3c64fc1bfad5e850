"""A real mediator and the process of a relay apart: it registers, knows the pairs with apps, and keeps them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from mediator.core.relay_grants import grant
from mediator.shell.credentials import Identity
from mediator.shell.relayregister import TOLD_FILE, Gathering, Told, pinned
from mediator.shell.server import Server
from mediator.shell.stateroles import mark_apart
from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from netctl.wire import registration as w
from netctl.wire import relay
from tests.mediator.loopbackkit import ANN, BOB, HOST, Raw, Site, client_context
from tests.mediator.test_relay_apart import Member
from tests.mediator.test_relay_pairs import initiation, response
from tests.support.freeports import free_port, free_ports
from tests.support.patience import BUSY_S, wait_for

PHONE, TABLET = (
    WireGuardKey(X25519PrivateKey.from_private_bytes(bytes([n]) * 32).public_key().public_bytes_raw())
    for n in (8, 9)
)
PORTS = 20


@dataclass
class Place:
    """A mediator's site, and beside it the state of a relay apart."""

    site: Site
    state: Path
    log: Path

    def __post_init__(self) -> None:
        self.apart = Identity.create(self.state)
        mark_apart(self.state)
        self.first, self.stun = free_ports(PORTS).start, free_port(socket.SOCK_DGRAM)
        self.write("phone")

    def write(self, *apps: str) -> None:
        self.site.write({"ann": ANN, "bob": BOB})
        text = json.loads(self.site.document.read_text())
        text["mediators"][0]["relayPorts"] = f"20000-{20000 + PORTS - 1}"
        text["mediators"].append(
            {
                "url": f"netctl://{HOST}:1",
                "identity": [str(self.apart.public)],
                "role": "relay",
                "stun": [self.stun],
                "relayPorts": f"{self.first}-{self.first + PORTS - 1}",
            }
        )
        keys = {"phone": PHONE, "tablet": TABLET}
        text["members"].update({name: {"wireguard": str(keys[name])} for name in apps})
        self.site.document.write_text(json.dumps(text))

    @contextlib.contextmanager
    def relaying(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [
            sys.executable,
            "-P",
            "-m",
            "mediator.shell.main",
            "relay",
            "--listen",
            HOST,
            "--place",
            "here",
        ]
        command += ["--document", str(self.site.document), "--state", str(self.state)]
        with self.log.open("ab") as out:
            process = subprocess.Popen(command, stderr=out)
        try:
            yield process
            assert process.poll() is None, self.log.read_text()
        finally:
            process.terminate()
            assert process.wait(BUSY_S) == 0

    def told(self) -> dict[frozenset[str], int]:
        """The port of each pair, by the keys, as the relay has been told."""
        try:
            found = json.loads((self.state / TOLD_FILE).read_text())["pairs"]
        except FileNotFoundError:
            return {}
        return {frozenset(member["key"] for member in row["members"]): row["port"] for row in found}

    def meets(self, port: int, own: int) -> bool:
        """Whether the phone's first packet reaches ann at this port of the relay, and ann's answer the phone."""
        secret = self.site.identity.agree(self.apart.public)
        ann = Member(grant(secret, own, port, int(time.time()) + 3600))
        phone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            phone.bind((HOST, 0))
            phone.settimeout(BUSY_S)
            ann.bind()
            question, answer = initiation(7, ANN.wireguard), response(8, 7, PHONE)
            phone.sendto(question, (HOST, port))
            assert ann.socket.recv(2000) == question
            ann.send(answer)
            assert phone.recv(2000) == answer
            bound = relay.open_message(ann.socket.recv(2000), ann.key)
            assert isinstance(bound, relay.Bound)
            return bound.flags is relay.BoundFlag.PEER_BOUND
        finally:
            phone.close()
            ann.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(Site(tmp_path), tmp_path / "relay", tmp_path / "log")


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(4 * BUSY_S):
            await story()

    asyncio.run(limited())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(BUSY_S):
        while not true():
            await asyncio.sleep(0.02)


def registered(server: Server) -> bool:
    (row,) = server.status()["relays"]
    return row["registered"] is True and row["bindings"] is not None


def test_an_app_and_a_member_meet_there_also_when_the_mediator_is_gone(place: Place) -> None:
    async def story() -> None:
        async with place.site.serving() as (server, _):
            with place.relaying():
                await until(lambda: registered(server))
                (row,) = server.status()["relays"]
                assert (row["place"], row["bindings"]) == ("here", 0)
                await until(lambda: len(place.told()) == 2)
                port = place.told()[frozenset({str(ANN.wireguard), str(PHONE)})]
                ann = server._hub.relay_port(ANN.wireguard)
                assert ann is not None
                own = ann - 20000 + place.first
                assert place.first <= port < place.first + PORTS
                await until_met(place, port, own)
                place.write("phone", "tablet")
                await until(lambda: len(place.told()) == 5)
                assert place.told()[frozenset({str(ANN.wireguard), str(PHONE)})] == port
        # The mediator is gone, and the relay starts anew: it has kept what it was told.
        with place.relaying():
            await asyncio.to_thread(
                wait_for, "it relays", lambda: place.log.read_text().count("not registered") > 0
            )
            await until_met(place, port, own)

    run(story)
    assert "Traceback" not in place.log.read_text()
    assert (place.state / TOLD_FILE).stat().st_mode & 0o777 == 0o640


async def until_met(place: Place, port: int, own: int) -> None:
    """The relay reads the list within half a second; before, it drops the phone's packet."""
    await asyncio.sleep(1.2)
    assert await asyncio.to_thread(place.meets, port, own)


def test_a_relay_comes_back_to_a_mediator_that_comes_back(place: Place) -> None:
    async def story() -> None:
        with place.relaying():
            for _ in range(2):
                async with place.site.serving() as (server, _):
                    await until(partial(registered, server))

    run(story)


def test_a_stranger_at_that_door_is_told_nothing_and_keeps_nobody_out(place: Place) -> None:
    async def story() -> None:
        async with place.site.serving() as (server, mediator):
            context = client_context(w.REGISTER_ALPN)
            for line in (b"\0\0\0\2{}", b"\xff" * 64, b"\0\0\0\x05[[[[["):
                raw = await Raw.connect(mediator.port, context)
                raw.writer.write(line)
                assert b"pairs" not in await raw.ended()
                await raw.close()
            assert server.status()["relays"][0]["registered"] is False
            with place.relaying():
                await until(lambda: registered(server))

    run(story)


def test_another_server_at_the_mediators_place_is_told_nothing(place: Place, tmp_path: Path) -> None:
    other = Identity.create(tmp_path / "other")
    pem = other.certificate()
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    entry = place.site.entry()
    with pytest.raises(RemoteError, match="another identity"):
        pinned(der, entry)
    own = x509.load_pem_x509_certificate(place.site.identity.certificate()).public_bytes(Encoding.DER)
    assert pinned(own, entry) == place.site.identity.public
    for wrong in (None, b"", b"x" * 100):
        with pytest.raises(RemoteError):
            pinned(wrong, entry)


def test_parts_that_do_not_follow_each_other_are_refused() -> None:
    def part(number: int, parts: int, generation: int = 1) -> w.Pairs:
        return w.Pairs(generation, 40000, number, parts, [])

    gathering = Gathering()
    assert gathering.add(part(0, 2)) is None
    assert gathering.add(part(1, 2)) == [part(0, 2), part(1, 2)]
    assert gathering.add(part(0, 2)) is None
    assert gathering.add(part(0, 1)) == [part(0, 1)], "a newer list begins before the older one has ended"
    for wrong in (part(1, 2), part(2, 2)):
        with pytest.raises(RemoteError):
            Gathering().add(wrong)
    gathering = Gathering()
    gathering.add(part(0, 2))
    with pytest.raises(RemoteError):
        gathering.add(part(1, 2, generation=2))


def test_an_older_list_does_not_replace_a_newer_one_and_ports_beyond_the_range_are_left_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / TOLD_FILE
    told = Told(path, (50_000, 50_002))

    def rows(*ports: int) -> list[w.PairRow]:
        keys = (str(ANN.wireguard), str(PHONE))
        return [w.PairRow(port, keys, (40_000, 0), (False, True)) for port in ports]

    told.take([w.Pairs(5, 40_000, 0, 1, rows(40_001, 40_002, 40_003))])
    found = json.loads(path.read_text())["pairs"]
    assert [row["port"] for row in found] == [50_001, 50_002]
    assert [member["port"] for member in found[0]["members"]] == [50_000, 0]
    told.take([w.Pairs(4, 40_000, 0, 1, [])])
    assert len(json.loads(path.read_text())["pairs"]) == 2
    told.take([w.Pairs(6, 40_000, 0, 1, [])])
    assert json.loads(path.read_text())["pairs"] == []
