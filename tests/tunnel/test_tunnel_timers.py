"""Every timer of the paper, one test each at least."""

import itertools

import pytest

from netctl.tunnel import Keypair, Peer
from netctl.tunnel import constants as c
from netctl.tunnel.messages import INITIATION, RESPONSE, TRANSPORT, TRANSPORT_OVERHEAD, message_type
from netctl.tunnel.timers import Timer
from tests.tunnel.tunnelworld import Host, World, ipv4


def peer_of(host: Host) -> Peer:
    (peer,) = host.device.peers.values()
    return peer


def keypair_of(host: Host) -> Keypair:
    found = peer_of(host).current
    assert found is not None
    return found


def initiations(host: Host) -> list[float]:
    return [at for at, datagram in host.sent if message_type(datagram) == INITIATION]


def keepalives(host: Host) -> list[float]:
    return [at for at, d in host.sent if message_type(d) == TRANSPORT and len(d) == TRANSPORT_OVERHEAD]


def test_initiations_are_retried_with_jitter_and_given_up_after_the_attempt_time() -> None:
    world = World()
    a, b = world.pair()
    world.drop = lambda *_: True
    a.send(ipv4(a.inner, b.inner))
    world.run(300)
    times = initiations(a)
    gaps = [later - before for before, later in itertools.pairwise(times)]
    assert len(times) == 2 + c.MAX_HANDSHAKE_RETRIES
    assert all(c.REKEY_TIMEOUT <= gap <= c.REKEY_TIMEOUT + c.REKEY_TIMEOUT_JITTER for gap in gaps)
    assert len({round(gap, 4) for gap in gaps}) > 10  # jitter, not a constant
    assert not peer_of(a).staged
    assert peer_of(a).timers.is_armed(Timer.ZERO_KEYS)


def test_more_packets_keep_the_attempts_going_and_do_not_speed_them_up() -> None:
    world = World()
    a, b = world.pair()
    world.drop = lambda *_: True
    for _ in range(400):
        a.send(ipv4(a.inner, b.inner))
        world.run(0.5)
    times = initiations(a)
    assert times[-1] > times[0] + 190
    assert all(later - before >= c.REKEY_TIMEOUT for before, later in itertools.pairwise(times))


def test_a_lost_response_is_made_up_for_by_the_retry() -> None:
    world = World()
    a, b = world.pair()
    world.drop = lambda _, __, datagram: message_type(datagram) == RESPONSE and world.now < 1001
    packet = ipv4(a.inner, b.inner, b"late")
    a.send(packet)
    world.run(6)
    assert b.inbox == [packet]
    assert len(initiations(a)) == 2


def test_an_initiator_renews_by_time_when_it_sends_and_only_then() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.run(c.REKEY_AFTER_TIME - 1)
    world.talk(a, b)
    assert len(initiations(a)) == 1
    world.run(1)
    assert len(initiations(a)) == 1  # by itself time does nothing
    world.talk(a, b)
    assert len(initiations(a)) == 2
    assert initiations(b) == []


def test_a_responder_does_not_renew_by_time() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.run(c.REKEY_AFTER_TIME + 5)
    world.talk(b, a)
    assert initiations(b) == []


def test_renewal_by_messages_on_either_side() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.run(c.REKEY_TIMEOUT + 1)
    for sender, receiver in ((a, b), (b, a)):
        before = len(initiations(sender))
        keypair_of(sender).send_counter = c.REKEY_AFTER_MESSAGES
        world.talk(sender, receiver)
        assert len(initiations(sender)) == before + 1
        assert keypair_of(sender).send_counter < 10
        world.run(c.REKEY_TIMEOUT + 1)


def test_an_initiator_that_only_receives_renews_once_near_the_end() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    # Our passive keepalives are sent too, and would renew at REKEY_AFTER_TIME: keep the time short.
    started = world.now
    world.run(c.REKEY_AFTER_TIME - 15)
    world.drop = lambda source, _, datagram: source == a.address and message_type(datagram) != TRANSPORT
    keypair = keypair_of(a)
    world.now = keypair.created_at + c.REKEY_AFTER_TIME_RECEIVING
    peer_of(a).data_received(keypair, b.address, world.now)
    world.run(0.1)
    assert len(initiations(a)) == 2
    peer_of(a).data_received(keypair, b.address, world.now)
    world.run(0.1)
    assert len(initiations(a)) == 2
    assert world.now > started


@pytest.mark.parametrize("side", ["initiator", "responder"])
def test_no_key_is_used_past_reject_after_time(side: str) -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    host, other = (a, b) if side == "initiator" else (b, a)
    keypair = keypair_of(host)
    assert (
        host.device.keypair(keypair.local_index, keypair.created_at + c.REJECT_AFTER_TIME - 0.01) is keypair
    )
    assert host.device.keypair(keypair.local_index, keypair.created_at + c.REJECT_AFTER_TIME) is None
    assert keypair.reserve(1, keypair.created_at + c.REJECT_AFTER_TIME) is None
    world.run(c.REJECT_AFTER_TIME)
    assert peer_of(host).sendable_keypair(world.now) is None
    world.talk(host, other)  # which takes a new session
    assert peer_of(host).current is not keypair


def test_counters_end_before_they_wrap() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    keypair = keypair_of(a)
    keypair.send_counter = c.REJECT_AFTER_MESSAGES - 3
    assert keypair.reserve(4, world.now) is None
    assert keypair.reserve(3, world.now) == c.REJECT_AFTER_MESSAGES - 3
    assert keypair.reserve(1, world.now) is None
    assert peer_of(a).sendable_keypair(world.now) is None


def test_passive_keepalive_answers_data_that_found_no_answer() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.run(c.KEEPALIVE_TIMEOUT + 1)
    assert len(keepalives(b)) == 1
    arrived = a.sent[-1][0] + 0.01
    assert keepalives(b)[0] == pytest.approx(arrived + c.KEEPALIVE_TIMEOUT)
    world.run(120)
    assert len(keepalives(b)) == 1  # a keepalive is no data: silence is the rule
    assert keepalives(a) == []


def test_an_answer_makes_the_passive_keepalive_superfluous() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.talk(b, a)
    world.run(c.KEEPALIVE_TIMEOUT - 0.5)
    assert keepalives(b) == []


def test_data_during_the_wait_asks_for_another_keepalive() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.talk(a, b)
    world.run(2 * c.KEEPALIVE_TIMEOUT + 1)
    assert len(keepalives(b)) == 1  # sending one cancels the wish; the next data starts it again
    world.talk(a, b)
    world.run(c.KEEPALIVE_TIMEOUT + 1)
    assert len(keepalives(b)) == 2


def test_sent_and_nothing_heard_makes_a_new_handshake() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.run(30)
    before = len(initiations(a))
    world.drop = lambda source, *_: source == b.address
    a.send(ipv4(a.inner, b.inner))
    sent_at = world.now
    world.run(c.NEW_HANDSHAKE_AFTER - 0.1)
    assert len(initiations(a)) == before
    world.run(0.2)
    assert initiations(a)[before] == pytest.approx(sent_at + c.NEW_HANDSHAKE_AFTER)


def test_persistent_keepalive_keeps_its_interval_and_yields_to_traffic() -> None:
    world = World()
    a, b = world.pair()
    a.device.set_keepalive(peer_of(a), 20, world.now)
    world.run(1)
    assert len(keepalives(a)) == 1  # the first at once: it brings up the session
    world.run(60)
    assert len(keepalives(a)) == 4
    world.run(10)
    world.talk(a, b)
    world.run(c.KEEPALIVE_TIMEOUT)  # then comes the answer, a passive keepalive: traffic as well
    count = len(keepalives(a))
    world.run(19)
    assert len(keepalives(a)) == count
    world.run(2)
    assert len(keepalives(a)) == count + 1
    a.device.set_keepalive(peer_of(a), 0, world.now)
    count = len(keepalives(a))
    world.run(60)
    assert len(keepalives(a)) == count


def test_keys_are_dropped_when_no_new_session_came_for_long() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    keypairs = [keypair_of(a), keypair_of(b)]
    world.run(c.ZERO_KEYS_AFTER + 20)
    for host, keypair in zip((a, b), keypairs, strict=True):
        peer = peer_of(host)
        assert (peer.previous, peer.current, peer.next, peer.handshake) == (None, None, None, None)
        assert not keypair.is_alive
        assert not hasattr(keypair, "send")
        assert not hasattr(keypair, "receive")
        assert host.device.keypair(keypair.local_index) is None
        assert host.device.next_timer() is None
    world.talk(a, b)


def test_giving_up_drops_what_a_handshake_left() -> None:
    world = World()
    a, b = world.pair()
    world.drop = lambda *_: True
    a.send(ipv4(a.inner, b.inner))
    world.run(110)
    assert peer_of(a).handshake is not None
    world.run(c.ZERO_KEYS_AFTER)
    assert peer_of(a).handshake is None
    assert a.device.next_timer() is None


def test_a_peer_without_an_endpoint_waits_and_starts_with_it() -> None:
    world = World()
    a, b = world.add(), world.add()
    peer = a.know(b, endpoint=False)
    b.know(a)
    packet = ipv4(a.inner, b.inner, b"early")
    a.send(packet)
    world.run(20)
    assert a.sent == []
    a.device.set_endpoint(peer, b.address, world.now)
    world.run(0.1)
    assert b.inbox == [packet]
    other = world.add()
    lost = a.know(other, endpoint=False)
    a.send(ipv4(a.inner, other.inner))
    world.run(c.REKEY_ATTEMPT_TIME + 1)
    assert not lost.staged


def test_the_heap_stays_small_under_traffic() -> None:
    world = World()
    a, b = world.pair()
    for _ in range(300):
        world.talk(a, b)
        world.talk(b, a)
        world.run(3)
    assert len(a.device._timers) <= 4 + c.HEAP_SLACK
