"""Other programs hold some of a relay's ports: it works with the others, grants none that it lacks, and tries again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mediator.core.hub import Hub
from mediator.core.portsbeside import LEAVE_AFTER_S, MAX_UNHELD, PortsBeside
from mediator.core.relay_grants import GRANT_TTL_S, usable
from mediator.shell.main import main
from mediator.shell.relayplace import UNHELD_FILE, UnheldPorts
from mediator.shell.stateroles import mark_apart
from netctl.model.keys import IdentityKey
from netctl.wire import control as c
from netctl.wire import relay
from netctl.wire.relaysecret import agreed_secret
from tests.mediator.loopbackkit import HOST, Site
from tests.mediator.test_hub import APART, MEDIATOR, PIN, Shell, key, with_relays
from tests.mediator.test_relay_apart import Member, Place, counted, page, relaying
from tests.mediator.test_relay_registered import Place as Registering
from tests.mediator.test_relay_registered import registered, run, until
from tests.support.freeports import free_ports
from tests.support.patience import BUSY_S, wait_for


@contextlib.contextmanager
def held(*ports: int) -> Iterator[None]:
    """Another program's sockets."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            other = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            other.bind((HOST, port))
        yield


def test_a_relay_works_with_the_ports_that_it_can_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(contextlib.ExitStack())
        other.enter_context(held(place.first + 2))
        stack.enter_context(relaying(place))
        assert (
            f"1 of 4 relay ports cannot be had, because other programs hold them: UDP {place.first + 2};"
            in (place.said())
        )
        ann, bob = (Member(place.granted(n, 1 - n, place.mediators[0])) for n in (0, 1))
        ann.bind()
        assert bob.bind().flags is relay.BoundFlag.PEER_BOUND
        ann.close()
        bob.close()
        assert not Member(place.granted(2, 1, place.mediators[0])).is_answered(), (
            "from that port nothing could be sent, so nobody is bound with it"
        )
        assert counted(place)["netctl_relay_ports_unheld"] == 1
        assert page(place.metrics, "/readyz") == (200, "ok, without 1 of 4 relay ports\n")
        mark_apart(place.state)
        assert main(["status", "--state", str(place.state), "-o", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["relay"]["unheld"] == [[place.first + 2, place.first + 2]]
        other.close()
        wait_for("the port is had by now", lambda: "the relay has all its ports" in place.said())
        wait_for("the pages say so", lambda: page(place.metrics, "/readyz") == (200, "ok\n"))
        one, two = (Member(place.granted(n, 3 - n, place.mediators[0])) for n in (1, 2))
        one.bind()
        assert two.bind().flags is relay.BoundFlag.PEER_BOUND
        one.socket.recv(2000)  # that the other has come
        data = b"\4\0\0\0".ljust(100, b"x")
        two.send(data)
        assert one.socket.recvfrom(2000) == (data, (HOST, place.first + 2))
        one.close()
        two.close()


def test_a_relay_that_can_have_no_port_does_not_start(tmp_path: Path) -> None:
    place = Place(tmp_path)
    command = [sys.executable, "-P", "-m", "mediator.shell.main", "relay", "--listen", HOST]
    command += ["--document", str(place.document), "--state", str(place.state)]
    with held(*range(place.first, place.first + 4)):
        found = subprocess.run(command, capture_output=True, text=True, timeout=BUSY_S, check=False)
    assert found.returncode == 1
    assert f"the relay cannot listen on UDP {HOST} port {place.first}-{place.first + 3}" in found.stderr


def test_the_mediator_of_a_relay_apart_grants_no_port_that_it_lacks(tmp_path: Path) -> None:
    place = Registering(Site(tmp_path), tmp_path / "relay", tmp_path / "log")

    async def story() -> None:
        async with place.site.serving() as (server, _):
            with held(place.first), place.relaying():
                await until(lambda: registered(server))
                (row,) = server.status()["relays"]
                assert row["unheld"] == [(place.first, place.first)]
                name = str(place.apart.public)
                assert server._hub.unheld_apart(name) == {place.first}
                granted = server._hub._apart.grant
                for own, peer in ((20_000, 20_001), (20_001, 20_000)):
                    assert (
                        granted(name, 20_000, own, peer, int(time.time()), server._hub.unheld_apart(name))
                        is None
                    )
                assert granted(name, 20_000, 20_001, 20_002, 1, server._hub.unheld_apart(name)) is not None
                app = granted(name, 20_000, 20_000, 20_003, 1, server._hub.unheld_apart(name), at_pair=True)
                assert app is not None, "a pair with an app needs its own port alone"

    run(story)


def test_the_relay_beside_its_mediator_tells_it_and_nothing_is_granted_there(tmp_path: Path) -> None:
    site = Site(tmp_path)
    text = json.loads(site.document.read_text())
    ports = free_ports(4)
    text["mediators"][0]["relayPorts"] = f"{ports[0]}-{ports[-1]}"
    site.document.write_text(json.dumps(text))

    async def story() -> None:
        async with site.serving() as (server, _):
            command = [sys.executable, "-P", "-m", "mediator.shell.main", "relay", "--listen", HOST]
            command += ["--document", str(site.document), "--state", str(site.state)]
            with held(ports[0], ports[2]):
                process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
                try:
                    await until(lambda: server._hub.beside.unheld == (ports[0], ports[2]))
                    assert not usable(ports[0], ports[1], server._hub.beside.unheld, at_pair=False)
                    assert not usable(ports[1], ports[2], server._hub.beside.unheld, at_pair=True)
                    assert usable(ports[0], ports[1], server._hub.beside.unheld, at_pair=True)
                finally:
                    process.terminate()
                    await asyncio.to_thread(process.wait, BUSY_S)

    run(story)


def test_a_member_gets_another_port_when_the_relay_does_not_get_its_own() -> None:
    shell = Shell()
    shell.login(1, "ann")
    shell.unix_s = 1_000_000
    ports = dict(shell.stores[0].ports)
    ann = ports[key("ann")]
    shell.hub.beside.told(frozenset({ann}), 0.0)
    assert shell.give(1, c.RelayRequest(str(key("bob")))) == [], "the relay could send nothing from there"
    shell.perform(shell.hub.handle_timer(1.0, shell.unix_s))
    assert shell.hub.relay_port(key("ann")) == ann, "the relay tries again"
    shell.hub.beside.told(frozenset({ann}), LEAVE_AFTER_S)
    shell.perform(shell.hub.handle_timer(LEAVE_AFTER_S, shell.unix_s))
    moved = shell.hub.relay_port(key("ann"))
    assert moved is not None
    assert moved not in ports.values()
    assert ann in {port for port, _ in shell.stores[-1].resting}
    (answer,) = shell.give(1, c.RelayRequest(str(key("bob"))))
    assert isinstance(answer, c.RelayGrant)
    assert relay.Allocation.unpack(bytes.fromhex(answer.allocation)).own_port == moved
    before = len(shell.stores)
    shell.perform(shell.hub.handle_timer(LEAVE_AFTER_S + 1, shell.unix_s))
    assert len(shell.stores) == before


def test_a_member_is_refused_a_grant_at_a_relay_apart_that_lacks_one_of_the_two_ports() -> None:
    shell = Shell(with_relays())
    shell.hub = Hub(
        PIN, MEDIATOR.sign, bytes(32), generation=200, agree=lambda other: agreed_secret(MEDIATOR, PIN, other)
    )
    shell.load(with_relays())
    shell.login(1, "ann")
    apart = str(IdentityKey(APART.public_key().public_bytes_raw()))
    ports = dict(shell.stores[-1].ports)
    lacking: set[int] = set()
    shell.hub.unheld_apart = lambda name: lacking if name == apart else ()
    assert shell.give(1, c.RelayRequest(str(key("bob")), apart))
    for name in ("ann", "bob"):
        lacking = {ports[key(name)] + 10_000}
        assert shell.give(1, c.RelayRequest(str(key("bob")), apart)) == []
        assert shell.give(1, c.RelayRequest(str(key("bob")))), "the relay beside the mediator is another one"


def test_few_ports_are_heeded_and_a_port_that_came_and_went_begins_anew() -> None:
    ports = PortsBeside()
    ports.told(frozenset(range(40_000, 41_000)), 0.0)
    assert ports.unheld == tuple(range(40_000, 40_000 + MAX_UNHELD))
    ports.told(frozenset({40_000}), 1.0)
    ports.told(frozenset(), 2.0)
    ports.told(frozenset({40_000}), 3.0)
    assert not ports.handle_timer(LEAVE_AFTER_S + 1)
    assert ports.handle_timer(LEAVE_AFTER_S + 3)
    assert not ports.handle_timer(LEAVE_AFTER_S + 4), "said once"


def test_a_relay_in_wrong_hands_moves_few_members_whatever_it_says() -> None:
    ports, left, now = PortsBeside(), set[int](), 0.0
    for first in range(40_000, 41_000, MAX_UNHELD):
        ports.told(frozenset(range(first, first + MAX_UNHELD)), now)
        now += LEAVE_AFTER_S
        ports.handle_timer(now)
        left |= ports.left
    assert left == set(range(40_000, 40_000 + MAX_UNHELD))
    ports.handle_timer(now + GRANT_TTL_S)
    assert len(ports.left) == MAX_UNHELD, "and after their rest some more"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"ports": 7}',
        '{"ports": [[1]]}',
        '{"ports": [["x", 2]]}',
        '{"ports": [[-1000000000000000, 2]]}',
        '{"ports": [[5, 4]]}',
        '{"ports": [[65000, 65536]]}',
        '{"ports": [' + ", ".join(["[1, 65535]"] * 80_000) + "]}",
    ],
    ids=lambda text: text[:24],
)
def test_a_damaged_file_names_no_port(tmp_path: Path, text: str) -> None:
    (tmp_path / UNHELD_FILE).write_text(text)
    assert UnheldPorts(tmp_path).look() == frozenset()
