"""Both address families at once: what servers see, what a dead family costs, and which one reaches the relay."""

from __future__ import annotations

import itertools
import random

import pytest

from mediator.core.relay_grants import grant
from mediator.core.relay_table import RelayTable
from netctl.model.addresses import SocketAddress
from netctl.paths.constants import FAMILY_LEAD, STUN_GATHER, STUN_REFRESH
from netctl.paths.discovery import Discovery
from netctl.paths.effects import SendDatagram
from netctl.paths.relaylink import RelayLink, RelayState
from netctl.wire import stun
from netctl.wire.control import RelayGrant
from tests.support.pathsim import Host, World

FOUR, SIX = SocketAddress("198.51.100.1", 3478), SocketAddress("2001:db8::1", 3478)
OWN4, OWN6 = SocketAddress("192.168.1.2", 51820), SocketAddress("2001:db8:9::2", 51820)
OUTSIDE4, OUTSIDE6 = SocketAddress("203.0.113.9", 51820), SocketAddress("2001:db8:9::2", 51820)
SECRET = bytes(range(32))
UNIX = 1_800_000_000.0


class Asked:
    """A Discovery, its servers, and the clock between them."""

    def __init__(self, answering: set[SocketAddress], own: set[SocketAddress]) -> None:
        self.answering = answering
        self.discovery = Discovery(random.Random(1).randbytes)
        self.discovery.own = frozenset(own)
        self.now = 0.0
        self.sent: list[tuple[float, SocketAddress]] = []
        self.discovery.set_servers([SIX, FOUR], 0.0)

    def run(self, until: float) -> None:
        while (due := self.discovery.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            for effect in self.discovery.handle_timer(self.now):
                self.sent.append((self.now, effect.destination))
                if effect.destination in self.answering:
                    seen = OUTSIDE6 if effect.destination.is_ipv6 else OUTSIDE4
                    answer = stun.binding_success(effect.data[8:20], seen)
                    self.discovery.handle_answer(answer, effect.destination, self.now + 0.02)
        self.now = until

    def ready_after(self) -> float:
        """When the first offer can go."""
        while not self.discovery.ready(self.now):
            due = self.discovery.next_timer()
            assert due is not None
            self.run(due)
        return self.now


def test_both_families_are_seen_at_once() -> None:
    asked = Asked({FOUR, SIX}, {OWN4, OWN6})
    asked.run(0.1)
    assert set(asked.discovery.mapped()) == {OUTSIDE4, OUTSIDE6}
    assert asked.ready_after() <= 0.1


@pytest.mark.parametrize("dead", [FOUR, SIX])
def test_a_dead_family_holds_up_an_offer_for_less_than_300_ms_and_is_found_again(dead: SocketAddress) -> None:
    alive = SIX if dead == FOUR else FOUR
    asked = Asked({alive}, {OWN4, OWN6})
    assert asked.ready_after() <= FAMILY_LEAD + 0.03 < 0.3 < STUN_GATHER
    asked.run(600.0)
    assert not asked.discovery.blocked
    rest = [at for at, server in asked.sent if server == dead and at > STUN_REFRESH]
    assert len(rest) <= 600 / STUN_REFRESH, "one question at a time"
    asked.answering.add(dead)
    asked.run(600.0 + 2 * STUN_REFRESH)
    assert len(asked.discovery.mapped()) == 2


def test_a_family_that_this_host_has_not_is_waited_for_by_nobody() -> None:
    asked = Asked({FOUR}, {OWN4})
    assert asked.ready_after() <= 0.03


def test_where_every_server_is_of_the_other_family_they_are_waited_for() -> None:
    """NAT64: IPv4 servers, and no IPv4 of our own."""
    asked = Asked(set(), {OWN6})
    asked.discovery.set_servers([FOUR], 0.0)
    assert asked.ready_after() == pytest.approx(STUN_GATHER)


class Relayed:
    """One link, and a relay that answers on some of its addresses."""

    def __init__(self, answering: set[SocketAddress], servers: tuple[SocketAddress, ...]) -> None:
        self.answering = answering
        self.table = RelayTable(SECRET, b"c" * 32, range(40000, 40010))
        self.link = RelayLink("peer", random.Random(2).randbytes)
        self.now = 0.0
        given = grant(SECRET, 40000, 40001, int(UNIX) + 3600)
        message = RelayGrant("peer", str(servers[0]), given.allocation, given.key, given.expires_s)
        self.link.want(0.0)
        self.link.handle_grant(message, 0.0, servers)
        self.asked: list[SocketAddress] = []

    def run(self, until: float) -> None:
        while (due := self.link.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            for effect in self.link.handle_timer(self.now, online=True):
                if not isinstance(effect, SendDatagram):
                    continue
                to = effect.destination
                self.asked.append(to)
                if to not in self.answering:
                    continue
                source = OUTSIDE6 if to.is_ipv6 else OUTSIDE4
                for out in self.table.handle_control(effect.data, source, to.port, self.now, UNIX):
                    self.link.handle_datagram(out.data, to, self.now + 0.02)
        self.now = until


RELAY4, RELAY6 = SocketAddress("198.51.100.1", 40001), SocketAddress("2001:db8::1", 40001)


def test_a_relay_is_bound_over_the_family_that_passes() -> None:
    """IPv6 carried the control connection (TCP), and drops UDP."""
    relayed = Relayed({RELAY4}, (RELAY6, RELAY4))
    relayed.run(0.3)
    assert relayed.link.state is RelayState.BOUND
    assert relayed.link.server == RELAY4
    assert not relayed.link.needs_tunnel, "UDP is not blocked: nobody needs TLS"


def test_where_the_first_family_answers_the_other_is_not_asked() -> None:
    relayed = Relayed({RELAY4, RELAY6}, (RELAY6, RELAY4))
    relayed.run(60.0)
    assert relayed.link.state is RelayState.BOUND
    assert set(relayed.asked) == {RELAY6}


def test_a_family_that_dies_under_a_binding_gives_way_to_the_other_and_back() -> None:
    relayed = Relayed({RELAY6}, (RELAY6, RELAY4))
    relayed.run(5.0)
    for alive in (RELAY4, RELAY6):
        relayed.answering = {alive}
        relayed.link.refresh(relayed.now)
        relayed.run(relayed.now + 30.0)
        assert (relayed.link.state, relayed.link.server) == (RelayState.BOUND, alive)


def test_a_new_grant_by_the_other_family_keeps_the_binding() -> None:
    relayed = Relayed({RELAY6, RELAY4}, (RELAY6, RELAY4))
    relayed.run(5.0)
    given = grant(SECRET, 40000, 40001, int(UNIX) + 7200)
    message = RelayGrant("peer", str(RELAY4), given.allocation, given.key, given.expires_s)
    relayed.link.handle_grant(message, relayed.now, (RELAY4, RELAY6))
    assert (relayed.link.state, relayed.link.server) == (RelayState.BOUND, RELAY6)


def test_a_grant_of_one_address_is_as_before() -> None:
    """A mediator by an address, and every older caller."""
    relayed = Relayed({RELAY4}, (RELAY4,))
    relayed.run(1.0)
    assert relayed.link.address == RELAY4


FAMILIES = ("IPv4", "IPv6", "both", "IPv6 broken")
WORKS = {"IPv4": {4}, "IPv6": {6}, "both": {4, 6}, "IPv6 broken": {4}}


def _host(world: World, number: int, family: str) -> Host:
    nat = world.nat(f"203.0.113.{number}")
    host = world.host(f"{family} {number}", f"192.168.{number}.10", nat)
    host.four = family != "IPv6"
    host.six = None if family == "IPv4" else SocketAddress(f"2001:db8:{number}::10", 51820)
    host.six_works = family != "IPv6 broken"
    return host


LABS = [
    (mediator, one, other)
    for mediator in ([6, 4], [4, 6], [4], [6])
    for one, other in itertools.combinations_with_replacement(FAMILIES, 2)
    if WORKS[one] & set(mediator) and WORKS[other] & set(mediator)  # nobody else logs in
]


@pytest.mark.parametrize(("mediator", "one", "other"), LABS, ids=str)
def test_every_pair_with_a_family_in_common_is_direct(mediator: list[int], one: str, other: str) -> None:
    """Whichever family of the mediator the control connection took; else the relay joins the two, without TLS."""
    world = World(3)
    world.mediator_families = mediator
    pair = [_host(world, 1, one), _host(world, 2, other)]
    world.start()
    world.run(5)
    kinds = {host.manager.status()[peer.key].kind for host, peer in (pair, pair[::-1])}
    assert kinds == ({"direct"} if WORKS[one] & WORKS[other] else {"relay-udp"})
    assert not any(host.manager.udp_blocked for host in pair)
    relayed = [at for host in pair for at, kind in host.changes if kind == "direct"]
    assert all(at - 100.0 < 1.0 for at in relayed), "a dead family holds nobody up"


def test_what_servers_saw_and_whether_they_are_silent_is_of_now() -> None:
    asked = Asked({FOUR}, {OWN4, OWN6})
    seen = asked.discovery.answers
    assert (seen(ipv6=False), seen(ipv6=True)) == ({FOUR: None}, {SIX: None})
    assert not asked.discovery.silent(ipv6=False)
    asked.run(STUN_REFRESH / 2)
    assert (seen(ipv6=False), seen(ipv6=True)) == ({FOUR: OUTSIDE4}, {SIX: None})
    assert asked.discovery.silent(ipv6=True)
    assert not asked.discovery.silent(ipv6=False)
    asked.answering = {SIX}
    asked.run(3 * STUN_REFRESH)
    assert (seen(ipv6=False), seen(ipv6=True)) == ({FOUR: None}, {SIX: OUTSIDE6})
    assert asked.discovery.silent(ipv6=False)
    assert not asked.discovery.silent(ipv6=True)
    asked.discovery.set_servers([SIX], asked.now)
    assert seen(ipv6=False) == {}
    assert not asked.discovery.silent(ipv6=False)
