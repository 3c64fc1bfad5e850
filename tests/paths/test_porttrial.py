"""A port that no peer knows: it is compared with fresh sockets before any peer is told of it."""

from __future__ import annotations

from functools import partial

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths import constants as c
from netctl.paths.effects import SendControl
from netctl.paths.porttrial import PortTrial
from netctl.wire.control import Candidate, RelayRequest
from tests.support.pathsim import STUN, Host, World

HOME, OFFICE = "203.0.113.7", "203.0.113.8"
STEP_S = 0.02
STREAM_S = 10.0
SETTLE_S = 0.35
"""The side that does not choose sets its first endpoint so much later."""


def one_router(moves_after: float) -> World:
    """Two hosts with one port behind one router, and a third one elsewhere."""
    world = World()
    world.moves_after = moves_after
    nat = world.nat(HOME)
    for number, name in enumerate(("a", "b")):
        # Sockets without a port of their own get others in each host.
        world.host(name, f"192.168.1.{10 + number}", nat).next_port += 1000 * number
    world.host("c", "10.0.0.10", world.nat(OFFICE))
    return world


def has_path(host: Host, peer: Host) -> bool:
    path = host.manager.status().get(peer.key)
    return path is not None and path.kind != "none"


class Streams:
    """From every host to every other one, as soon as both ends have a path. The receiver has counted from 0."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.pairs = [(one, peer) for one in world.hosts for peer in world.hosts if one is not peer]
        self._waiting = list(self.pairs)
        self._look()

    def _look(self) -> None:
        for one, peer in [pair for pair in self._waiting if has_path(*pair) and has_path(*reversed(pair))]:
            self._waiting.remove((one, peer))
            self._world.at(self._world.now + SETTLE_S, partial(self._stream, one, peer))
        self._world.at(self._world.now + STEP_S, self._look)

    def _stream(self, one: Host, peer: Host) -> None:
        self._world.stream(one, peer, every=STEP_S, until=self._world.now + STREAM_S)

    def lost(self) -> dict[tuple[str, str], int]:
        """Packets that did not arrive, of the streams that lost any."""
        heard = {
            (one.name, peer.name): {number for _, key, number in peer.heard if key == one.key}
            for one, peer in self.pairs
        }
        wanted = set(range(round(STREAM_S / STEP_S)))
        return {pair: len(wanted - numbers) for pair, numbers in heard.items() if wanted - numbers}


@pytest.mark.parametrize("moves_after", [0.02, 0.4, 2.0])
@pytest.mark.parametrize("late", [0.0, 6.0])
def test_nobody_is_told_of_a_port_that_is_left_and_no_packet_is_lost(moves_after: float, late: float) -> None:
    world = one_router(moves_after)
    a, b, other = world.hosts
    streams = Streams(world)
    for host in (a, other):
        world.start_one(host)
    world.run(late)
    world.start_one(b)
    world.run(20)
    assert streams.lost() == {}
    left = [host for host in world.hosts if host.left]
    assert left, "two hosts have one port behind one router"
    assert other not in left
    for host in left:
        assert host.left == [51820]
        told = {SocketAddress.parse(one.address).port for offer in host.told for one in offer.candidates}
        assert told == {host.address.port}


def test_a_host_that_cannot_change_its_port_begins_with_the_one_that_it_has() -> None:
    world = one_router(1000.0)
    world.start()
    world.run(c.PORT_LEAVE - 1)
    waiting = [host for host in world.hosts if not host.told]
    assert waiting
    world.run(5)
    assert all(host.told for host in world.hosts)
    assert all(has_path(host, peer) for host in world.hosts for peer in world.hosts if host is not peer)


def test_a_fit_port_is_told_with_the_servers_answers() -> None:
    """One round trip to the mediator (0.02 s), after which the candidates are complete as well."""
    world = World()
    world.moves_after = 0.1
    world.host("a", "192.168.1.10", world.nat(HOME))
    world.host("b", "10.0.0.10", world.nat(OFFICE))
    world.start()
    world.run(0.0201)
    assert [len(host.told) for host in world.hosts] == [1, 1]
    world.run(5)
    assert not any(host.left for host in world.hosts)


def test_a_port_that_the_document_names_waits_for_no_answer() -> None:
    host = one_router(0.1).hosts[0]
    peer = one_router(0.1).hosts[2].key
    host.manager.fix_port(True)
    host.manager.port_opened()
    effects = host.manager.set_stun(STUN, 0.0) + host.manager.set_peers([peer], 0.0)
    effects += host.manager.control_up(0.0)
    assert not any(isinstance(one, SendControl) for one in effects), "no address is known"
    effects = host.manager.set_local([Candidate("host", str(host.address))], 0.0)
    assert SendControl(RelayRequest(str(peer))) in effects


def test_a_port_that_changes_under_paths_is_no_new_one() -> None:
    """Peers know the host by then: its pairs go on, and tell the next port at once."""
    world = one_router(0.1)
    world.start()
    world.run(10)
    host = world.hosts[2]
    before = len(host.told)
    host.address = SocketAddress(host.address.host, 19999)
    host.manager.port_opened()
    world.perform(host, host.manager.set_local([Candidate("host", str(host.address))], world.now))
    world.run(0.5)
    assert len(host.told) > before


def state_of(trial: PortTrial) -> str:
    return trial.state.value


def test_the_states_of_a_trial() -> None:
    trial = PortTrial()
    assert not trial.pending
    assert not trial.looked()
    trial.opened()
    trial.asked(1.0)
    assert state_of(trial) == "new", "no addresses yet"
    assert [trial.looked(), trial.looked()] == [True, False]
    trial.asked(1.0)
    assert state_of(trial) == "asked"
    trial.disconnected()
    assert state_of(trial) == "new"
    assert trial.next_timer() is None
    trial.asked(2.0)
    assert not trial.ends(False, 2.0 + c.PORT_TRIAL / 2)
    trial.leaves(3.0)
    trial.disconnected()
    assert not trial.ends(True, 3.0)
    assert trial.next_timer() == 3.0 + c.PORT_LEAVE
    assert trial.ends(False, 3.0 + c.PORT_LEAVE)
    assert not trial.pending
    trial.leaves(20.0)
    assert not trial.pending, "peers know this port"
