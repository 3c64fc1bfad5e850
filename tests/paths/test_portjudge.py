"""The shared port against fresh sockets: when another one is taken, when it rests, and when nothing is done."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey
from netctl.node import ownport
from netctl.paths import constants as c
from netctl.paths.effects import Effect, OpenBatch, SendDatagram, SendFrom
from netctl.paths.outside import Outside
from netctl.paths.portjudge import PortJudge
from netctl.wire import stun

SERVERS = [SocketAddress("198.51.100.1", 3478), SocketAddress("198.51.100.1", 3479)]
OWN = SocketAddress("192.168.1.2", 51820)
WAN = "203.0.113.7"


class Host:
    """An `Outside` behind a NAT that is a function: (socket's port) -> the port outside, None: nothing comes back."""

    def __init__(self) -> None:
        count = iter(range(1, 1000))
        self.outside = Outside(random.Random(7).randbytes, lambda: next(count))
        self.outside.discovery.own = frozenset({OWN})
        self.now = 0.0
        self.fixed: int | None = OWN.port
        """Where the shared port is seen."""
        self.fresh = True
        """Whether fresh sockets are answered."""
        self.outside.discovery.set_servers(SERVERS, 0.0)

    def until(self, at: float) -> None:
        while (due := self.outside.next_timer()) is not None and due <= at:
            self.now = max(self.now, due)
            self.perform(self.outside.handle_timer(self.now))
        self.now = at

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram(server, data) if self.fixed is not None:
                    answer = stun.binding_success(data[8:20], SocketAddress(WAN, self.fixed))
                    self.outside.discovery.handle_answer(answer, server, self.now)
                case OpenBatch(batch, count):
                    ports = tuple(40_000 + number for number in range(count))
                    self.perform(self.outside.batch_opened(batch, ports, self.now))
                case SendFrom(batch, index, server, data) if self.fresh:
                    answer = stun.binding_success(data[8:20], SocketAddress(WAN, 40_000 + index))
                    self.perform(self.outside.handle_batch(batch, index, answer, server))
                case _:
                    pass


def test_a_port_that_is_kept_is_fit() -> None:
    host = Host()
    host.until(30.0)
    assert host.outside.port_verdict() == "fit"


def test_a_port_that_another_host_has_is_shared() -> None:
    host = Host()
    host.fixed = 61_003
    host.until(30.0)
    assert host.outside.port_verdict() == "shared"


@pytest.mark.parametrize(("fresh", "verdict"), [(True, "dead"), (False, "fit")])
def test_silence_is_the_ports_only_where_fresh_sockets_are_answered(fresh: bool, verdict: str) -> None:
    host = Host()
    host.until(30.0)
    host.fixed, host.fresh = None, fresh
    host.until(60.0)
    assert host.outside.discovery.blocked
    assert host.outside.port_verdict() == verdict
    host.fixed = OWN.port
    host.until(120.0)
    assert host.outside.port_verdict() == "fit"


def test_a_port_that_works_costs_nothing_more() -> None:
    """No fresh socket is opened but once for an outside."""
    host, opened = Host(), []
    while host.now < 3600.0:
        effects = host.outside.handle_timer(host.now)
        opened += [effect for effect in effects if isinstance(effect, OpenBatch)]
        host.perform(effects)
        due = host.outside.next_timer()
        assert due is not None
        host.now = max(due, host.now)
    assert len(opened) <= 2, "ports and filter, each once"


def test_a_dead_port_is_left_and_the_next_one_not_at_once() -> None:
    judge, taken = PortJudge(), []
    for now in range(7200):
        if judge.wants_another("dead", float(now)):
            taken.append(now)
    assert taken[0] == 0
    gaps = [after - before for before, after in pairwise(taken)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= c.PORT_WAIT_FIRST
    assert len(taken) < 10


def test_a_shared_port_is_left_a_few_times_and_a_fixed_one_never() -> None:
    judge = PortJudge()
    taken = [now for now in range(20_000) if judge.wants_another("shared", float(now))]
    assert taken[0] == 0
    assert len([now for now in taken if now < c.PORT_CALM]) == c.PORT_SHARED_TRIES
    fixed = PortJudge()
    fixed.fixed = True
    assert not fixed.wants_another("shared", 1.0)
    assert fixed.next_timer() is None


def test_a_fixed_port_that_is_dead_rests_outside_and_not_in_the_lan() -> None:
    judge = PortJudge()
    judge.fixed = True
    assert not judge.wants_another("dead", 10.0)
    assert judge.rests(SERVERS[0], 11.0)
    assert not judge.rests(SocketAddress("192.168.1.9", 51820), 11.0)
    assert judge.next_timer() == 10.0 + c.PORT_REST
    assert not judge.rested(11.0)
    assert judge.rested(10.0 + c.PORT_REST)
    assert not judge.rests(SERVERS[0], 10.0 + c.PORT_REST)
    assert not judge.wants_another("dead", 11.0 + c.PORT_REST)
    assert not judge.rests(SERVERS[0], 11.0 + c.PORT_REST), "and is not silenced again at once"


def test_other_ports_are_ones_own_and_known_again() -> None:
    one, other = WireGuardKey(bytes(32)), WireGuardKey(b"\1" * 32)
    ports = [ownport.port_of(one, turn) for turn in range(1, ownport.MAX_TURNS + 1)]
    assert len(set(ports)) == ownport.MAX_TURNS
    assert all(ownport.FIRST <= port < ownport.FIRST + ownport.COUNT for port in ports)
    assert ports != [ownport.port_of(other, turn) for turn in range(1, ownport.MAX_TURNS + 1)]
    assert [ownport.turn_of(one, port) for port in ports] == list(range(1, ownport.MAX_TURNS + 1))
    assert ownport.turn_of(one, 51820) == 0
    turn = 0
    for _ in range(ownport.MAX_TURNS + 1):
        turn = ownport.next_turn(turn)
    assert turn == 0, "after all others the usual one has its turn again"
