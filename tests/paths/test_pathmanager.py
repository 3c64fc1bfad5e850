"""Pairs of path managers over the deterministic internet of `pathsim`."""

from __future__ import annotations

import itertools

import pytest

from netctl.model.addresses import SocketAddress
from netctl.wire.control import Candidate
from tests.support.pathsim import MEDIATOR, UNIX_EPOCH, Host, World

HOME, OFFICE = "203.0.113.1", "192.0.2.1"


def two_behind_nats(
    seed: int = 1, *, loss: float = 0.0, symmetric: tuple[bool, bool] = (False, False)
) -> World:
    world = World(seed, loss=loss)
    world.host("a", "192.168.1.10", world.nat(HOME, symmetric=symmetric[0]))
    world.host("b", "10.0.0.10", world.nat(OFFICE, symmetric=symmetric[1]))
    return world


def kinds(world: World) -> list[str]:
    a, b = world.hosts
    return [a.manager.status()[b.key].kind, b.manager.status()[a.key].kind]


def agree(world: World) -> bool:
    """Each side's endpoint is where the other side's packets come from: one path, not two."""
    a, b = world.hosts
    world.data(a, b, 0)
    world.data(b, a, 0)
    before = (a.endpoints[b.key], b.endpoints[a.key])
    world.run(0.2)
    return before == (a.endpoints[b.key], b.endpoints[a.key])


def gaps(host: Host) -> tuple[int, float]:
    """(messages lost, longest silence in seconds) of what a host heard."""
    numbers = [sequence for _, _, sequence in host.heard]
    times = [at for at, _, _ in host.heard]
    longest = max((later - sooner for sooner, later in itertools.pairwise(times)), default=0.0)
    return max(numbers) + 1 - len(set(numbers)), longest


def test_relay_first_then_direct_through_two_port_restricted_nats() -> None:
    world = two_behind_nats()
    world.start()
    world.run(3)
    assert kinds(world) == ["direct", "direct"]
    for host in world.hosts:
        order = [kind for _, kind in host.changes]
        assert order[-1] == "direct"
        assert order in (["relay-udp", "direct"], ["direct"])
        assert host.changes[-1][0] - 100.0 < 1.0
    assert agree(world)
    status = world.hosts[0].manager.status()[world.hosts[1].key]
    assert status.rtt_ms == pytest.approx(20.0)
    assert any("of another private network" in line for line in status.tried)


def test_the_first_endpoints_are_not_set_at_one_moment() -> None:
    """Two WireGuard initiations that cross void each other, and it waits five seconds to try again."""
    world = two_behind_nats()
    world.start()
    world.run(3)
    first = sorted(host.steered[0][0] for host in world.hosts)
    assert first[1] - first[0] > 0.2
    assert first[0] - 100.0 < 0.2


def test_an_offer_that_nobody_saw_is_made_again() -> None:
    world = two_behind_nats()
    a, b = world.hosts
    world.start_one(a)
    world.run(2)
    world.start_one(b)
    world.run(3)
    assert kinds(world) == ["direct", "direct"]


def test_two_behind_one_nat_meet_on_their_lan() -> None:
    world = World()
    nat = world.nat(HOME)
    world.host("a", "192.168.1.10", nat)
    world.host("b", "192.168.1.11", nat)
    world.start()
    world.run(3)
    assert kinds(world) == ["lan", "lan"]
    a, b = world.hosts
    assert a.endpoints[b.key] == b.address
    assert agree(world)


@pytest.mark.parametrize("who", [0, 1])
def test_a_peer_that_takes_another_port_is_followed_at_once(who: int) -> None:
    """Its old one is not waited for: silence would prove it dead after three seconds."""
    world = World()
    nat = world.nat(HOME)
    world.host("a", "192.168.1.10", nat)
    world.host("b", "192.168.1.11", nat)
    world.start()
    world.run(5)
    moved, other = world.hosts[who], world.hosts[1 - who]
    moved.address = SocketAddress(moved.address.host, 18017)
    world.perform(moved, moved.manager.set_local([Candidate("host", str(moved.address))], world.now))
    world.run(1)
    assert other.endpoints[moved.key] == moved.address
    assert kinds(world) == ["lan", "lan"]


@pytest.mark.parametrize("who", [0, 1])
def test_behind_a_nat_a_peer_that_takes_another_port_is_followed_at_once(who: int) -> None:
    """No interface of it is reached, only its NAT: the candidates say all the same that its socket has another port."""
    world = two_behind_nats()
    world.start()
    world.run(8)
    assert kinds(world) == ["direct", "direct"]
    moved, other = world.hosts[who], world.hosts[1 - who]
    before = other.endpoints[moved.key]
    moved.address = SocketAddress(moved.address.host, 18017)
    world.perform(moved, moved.manager.set_local([Candidate("host", str(moved.address))], world.now))
    world.run(0.13)  # six round trips: to the servers, to the mediator and on, and to the peer
    assert other.endpoints[moved.key] != before
    world.run(0.37)
    world.stream(other, moved, every=0.05, until=world.now + 1)
    world.run(1.5)
    numbers = [number for _, _, number in moved.heard]
    assert len(numbers) >= 20
    assert numbers == list(range(len(numbers)))
    assert kinds(world) == ["direct", "direct"]


def test_two_open_hosts_are_direct_without_punching() -> None:
    world = World()
    world.host("a", "203.0.113.7")
    world.host("b", "192.0.2.7")
    world.start()
    world.run(3)
    assert kinds(world) == ["direct", "direct"]


def test_symmetric_against_port_restricted_stays_on_the_relay_and_says_why() -> None:
    world = two_behind_nats(symmetric=(True, False))
    world.hosts[1].manager.allow_guessing(False)
    world.start()
    world.stream(world.hosts[0], world.hosts[1], every=0.1, until=160.0)
    world.run(61)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    assert len(world.hosts[1].heard) > 580
    a, b = world.hosts
    assert a.manager.nat(0.0)[0].mapping == "address and port-dependent"
    assert b.manager.nat(0.0)[0].mapping == "endpoint-independent"
    assert any(line.startswith(OFFICE) and "no answer" in line for line in a.manager.status()[b.key].tried)
    seen, back = a.manager.status()[b.key], b.manager.status()[a.key]
    assert (seen.blocker or "").startswith("this host's NAT gives every destination another random port")
    assert (back.blocker or "").startswith("the peer's NAT gives every destination another random port")
    assert (seen.peer_nat, back.peer_nat) == (
        "endpoint-independent mapping",
        "symmetric mapping, random ports",
    )


def test_symmetric_against_an_open_host_is_direct() -> None:
    world = World()
    world.host("a", "192.168.1.10", world.nat(HOME, symmetric=True))
    world.host("b", "192.0.2.7")
    world.start()
    world.run(3)
    assert kinds(world) == ["direct", "direct"]
    assert agree(world)


@pytest.mark.parametrize("seed", range(20))
def test_loss_delays_but_does_not_prevent(seed: int) -> None:
    world = two_behind_nats(seed, loss=0.2)
    world.start()
    world.run(20)
    assert kinds(world) == ["direct", "direct"]


def test_the_switch_to_direct_loses_nothing() -> None:
    world = two_behind_nats()
    a, b = world.hosts
    world.cut.add(frozenset((HOME, OFFICE)))
    world.start()
    world.run(2)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    world.stream(a, b, every=0.004, until=world.now + 60)
    world.stream(b, a, every=0.004, until=world.now + 60)
    world.run(1)
    world.cut.clear()
    world.run(40)
    assert kinds(world) == ["direct", "direct"]
    for host in (a, b):
        lost, longest = gaps(host)
        assert lost <= 5 + 1  # only what is on the wire when the test ends
        assert longest < 0.025


def test_without_the_mediator_a_direct_path_lives_on_for_hours() -> None:
    world = two_behind_nats()
    world.start()
    world.run(3)
    world.lose_mediator()
    before = [len(host.steered) for host in world.hosts]
    world.run(2 * 3600)
    assert kinds(world) == ["direct", "direct"]
    assert [len(host.steered) for host in world.hosts] == before
    world.restore_mediator()
    world.run(5)
    assert kinds(world) == ["direct", "direct"]
    assert [len(host.steered) for host in world.hosts] == before


@pytest.mark.parametrize("busy", [True, False])
def test_a_dead_direct_path_falls_back_to_the_relay_within_five_seconds(busy: bool) -> None:
    world = two_behind_nats()
    a, b = world.hosts
    world.start()
    world.run(90)  # the relay binding has been let go by now
    assert kinds(world) == ["direct", "direct"]
    if busy:
        world.stream(a, b, every=0.05, until=world.now + 60)
        world.stream(b, a, every=0.05, until=world.now + 60)
        world.run(3)
    cut_at = world.now
    world.cut.add(frozenset((HOME, OFFICE)))
    if not busy:
        world.stream(a, b, every=0.05, until=world.now + 60)
    world.run(20)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    heard_again = min(at for at, _, _ in b.heard if at > cut_at + 0.1)
    assert heard_again - cut_at < 5.0
    world.cut.clear()
    world.run(120)
    assert kinds(world) == ["direct", "direct"]


def test_a_rebooted_nat_is_survived() -> None:
    world = two_behind_nats()
    a, b = world.hosts
    world.start()
    world.stream(a, b, every=0.05, until=world.now + 60)
    world.stream(b, a, every=0.05, until=world.now + 60)
    world.run(10)
    assert a.nat is not None
    a.nat.rebind()
    at = world.now
    world.run(20)
    assert kinds(world) == ["direct", "direct"]
    assert min(when for when, _, _ in a.heard if when > at + 0.1) - at < 5.0


def test_the_relay_alone_carries_when_the_direct_way_is_closed_and_the_mediator_restarts() -> None:
    world = two_behind_nats()
    a, b = world.hosts
    world.cut.add(frozenset((HOME, OFFICE)))
    world.start()
    world.stream(a, b, every=0.1, until=world.now + 200)
    world.run(10)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    world.lose_mediator()
    world.run(100)
    assert kinds(world) == ["none", "none"]
    world.restore_mediator()
    world.run(20)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    assert b.heard[-1][0] > world.now - 1


def test_when_the_mediator_is_gone_a_dead_path_is_punched_again_without_it() -> None:
    world = two_behind_nats()
    world.start()
    world.run(10)
    world.lose_mediator()
    world.cut.add(frozenset((HOME, OFFICE)))
    world.run(30)
    assert kinds(world) == ["none", "none"]
    world.cut.clear()
    world.run(900)
    assert kinds(world) == ["direct", "direct"]


def test_wireguard_roaming_away_is_undone() -> None:
    world = two_behind_nats()
    a, b = world.hosts
    world.start()
    world.run(5)
    chosen = a.endpoints[b.key]
    a.endpoints[b.key] = world.hosts[1].address  # a late relayed packet came in
    world.run(1.5)
    assert a.endpoints[b.key] == chosen


@pytest.mark.parametrize(("length", "most"), [(0, 0.8), (32, 0.8), (64, 0.8), (80, 1.5)])
def test_an_idle_pair_costs_nearly_nothing(length: int, most: float) -> None:
    """Also with the keepalives of WireGuard every 25 s: they are no packets of a user, whose path is asked at once."""
    world = two_behind_nats()
    world.start()
    world.run(200)
    before = world.sent
    for _ in range(24):
        world.run(25)
        for host, other in itertools.permutations(world.hosts, 2):
            host.tx[other.key] = host.tx.get(other.key, 0) + length
            other.rx[host.key] = other.rx.get(host.key, 0) + length
    sent = world.sent - before
    assert sent < 600 * most
    assert (sent > 600 * 0.8) == (length > 64)


@pytest.mark.parametrize(
    ("asked", "told", "idle"),
    [(148, 92, True), (148 + 32, 92 + 32, True), (148 + 64, 92, True), (240, 240, True), (148, 0, False)],
)
def test_a_handshake_that_is_answered_is_no_packet_of_a_user(asked: int, told: int, idle: bool) -> None:
    """Keepalives alone make WireGuard renew its keys every two minutes. A packet may wait for one without an answer."""
    world = two_behind_nats()
    world.start()
    world.run(200)
    before = world.sent
    one, other = world.hosts
    for _ in range(24):
        world.run(25)
        one.tx[other.key] = one.tx.get(other.key, 0) + asked
        one.rx[other.key] = one.rx.get(other.key, 0) + told
        other.tx[one.key] = other.tx.get(one.key, 0) + told
        other.rx[one.key] = other.rx.get(one.key, 0) + (asked if told else 0)
    assert (world.sent - before < 600 * 0.8) == idle


def test_a_stranger_gets_silence() -> None:
    world = two_behind_nats()
    a, b = world.hosts
    stranger = World(seed=9)
    stranger.host("x", "203.0.113.9")
    stranger.host("y", "203.0.113.10")
    eve = stranger.hosts[1]  # another key than a's and b's would expect
    eve.manager.set_peers([a.key], 0.0)
    world.start()
    world.run(5)
    for data in (
        b"",
        b"\xf5nc1",
        b"\xf5nc1\x01" + bytes(80),
        b"\x01\x01\0\0!\x12\xa4B" + bytes(12),
        bytes(60),
    ):
        assert a.manager.handle_datagram(data, b.address, world.now) == []


def test_a_restarted_agent_finds_its_path_again_without_a_mediator() -> None:
    world = two_behind_nats()
    a, b = world.hosts
    world.start()
    world.run(5)
    world.lose_mediator()
    fresh = type(a.manager)(a.key, bytes([1]) * 32, world.random.randbytes, epoch_s=UNIX_EPOCH)
    a.manager = fresh
    world.perform(a, fresh.set_peers([b.key], world.now))
    world.run(15)
    assert kinds(world) == ["direct", "direct"]


@pytest.mark.parametrize("restarted", [0, 1], ids=["chooser", "follower"])
def test_a_restarted_agent_that_its_peer_found_first_learns_of_the_peer_all_the_same(restarted: int) -> None:
    world = two_behind_nats()
    world.start()
    world.run(70)
    one = world.hosts[restarted]
    other = world.hosts[1 - restarted]
    one.manager = fresh = type(one.manager)(
        one.key, bytes([restarted + 1]) * 32, world.random.randbytes, epoch_s=UNIX_EPOCH
    )
    world.perform(one, fresh.set_peers([other.key], world.now))
    world.run(12)  # the other's next ping comes through
    assert fresh.status()[other.key].kind == "direct"
    assert fresh.status()[other.key].peer_nat == ""
    world.start_one(one)
    world.run(3)
    assert kinds(world) == ["direct", "direct"]
    assert fresh.status()[other.key].peer_nat == "endpoint-independent mapping"


def test_many_hosts_pair_up_and_idle() -> None:
    world = World()
    for number in range(8):
        world.host(f"h{number}", f"192.168.{number}.10", world.nat(f"203.0.113.{number + 1}"))
    world.start()
    world.run(5)
    found = {status.kind for host in world.hosts for status in host.manager.status().values()}
    assert found == {"direct"}
    assert MEDIATOR not in {end.host for host in world.hosts for end in host.endpoints.values()}


def test_a_mapped_port_joins_two_symmetric_nats() -> None:
    world = World()
    homes = [world.nat(f"203.0.113.{number}", symmetric=True) for number in (1, 2)]
    a, b = (world.host(f"h{n}", f"192.168.{n}.10", nat) for n, nat in enumerate(homes))
    world.start()
    world.run(20)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    homes[0].forwarded[51820] = a.address
    mapped = Candidate("mapped", "203.0.113.1:51820")
    world.perform(a, a.manager.set_mapped(mapped, world.now))
    assert a.manager.set_mapped(mapped, world.now) == []
    world.run(3)
    assert kinds(world) == ["direct", "direct"]
    assert str(b.manager.status()[a.key].endpoint) == "203.0.113.1:51820"
    world.perform(a, a.manager.set_mapped(None, world.now))
    world.run(30)
    assert kinds(world) == ["direct", "direct"], "a path that works is kept while it works"


def test_a_mapping_disturbs_no_pair_that_is_direct() -> None:
    world = two_behind_nats()
    a, _ = world.hosts
    world.start()
    world.run(20)
    assert a.manager.set_mapped(Candidate("mapped", "203.0.113.1:51820"), world.now) == []


def test_a_view_that_says_again_who_is_online_has_no_path_checked() -> None:
    """Every reconcile of the host tells the presence of all peers; a single message of the mediator is a reason."""
    world = two_behind_nats()
    a, b = world.hosts
    world.start()
    world.run(30)
    due = a.manager.next_timer()
    assert a.manager.presence_in_view({b.key: True}, world.now) == []
    assert a.manager.presence_in_view({b.key: None}, world.now) == []
    assert a.manager.next_timer() == due
    assert a.manager.peer_online(b.key, True, world.now), "the mediator itself says it again: a check"
    world.run(30)
    assert a.manager.presence_in_view({b.key: False}, world.now), "this is news"
    assert a.manager.presence_in_view({b.key: False}, world.now) == []
    assert a.manager.presence_in_view({b.key: True}, world.now)
    assert kinds(world) == ["direct", "direct"]
