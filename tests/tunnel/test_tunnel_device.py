"""Two devices and more, on a wire that loses, moves and lies."""

import collections
import ipaddress
import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.addresses import SocketAddress
from netctl.tunnel import Device, Keypair, Peer, SendDatagram
from netctl.tunnel import constants as c
from netctl.tunnel.messages import (
    COOKIE_REPLY,
    COOKIE_REPLY_LEN,
    INITIATION,
    INITIATION_LEN,
    RESPONSE,
    TRANSPORT,
    message_type,
)
from netctl.tunnel.timers import Timer
from tests.tunnel.tunnelworld import Host, World, ipv4

ELSEWHERE = SocketAddress("198.51.100.9", 4444)


def only_peer(host: Host) -> Peer:
    (peer,) = host.device.peers.values()
    return peer


def keypair_of(host: Host) -> Keypair:
    found = only_peer(host).current
    assert found is not None
    return found


def test_a_staged_packet_arrives_after_the_handshake_and_the_source_is_checked() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.talk(b, a)
    a.send(ipv4("10.9.9.9", b.inner))
    world.run(0.1)
    assert b.refused_sources == 1
    assert only_peer(a).last_handshake == pytest.approx(world.unix_now, abs=1)
    assert only_peer(b).last_handshake == pytest.approx(world.unix_now, abs=1)


def test_both_start_at_once_and_no_one_waits() -> None:
    world = World()
    a, b = world.pair()
    from_a, from_b = ipv4(a.inner, b.inner, b"a"), ipv4(b.inner, a.inner, b"b")
    a.send(from_a)
    b.send(from_b)
    world.run(0.1)
    assert (a.inbox, b.inbox) == ([from_b], [from_a])
    for _ in range(5):
        world.talk(a, b)
        world.talk(b, a)
        world.run(1)
    assert a.types_sent().count(INITIATION) == b.types_sent().count(INITIATION) == 1


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.005, 0.01, 3, 40])), max_size=30),
)
def test_whatever_is_lost_two_that_hear_each_other_again_talk(
    seed: int, steps: list[tuple[bool, float]]
) -> None:
    world = World(seed)
    a, b = world.pair()
    world.drop = lambda *_: world.rng.random() < 0.4
    for from_a, pause in steps:
        sender, receiver = (a, b) if from_a else (b, a)
        sender.send(ipv4(sender.inner, receiver.inner))
        world.run(pause)
    world.drop = lambda *_: False
    a.send(ipv4(a.inner, b.inner))
    b.send(ipv4(b.inner, a.inner))
    world.run(c.REKEY_TIMEOUT + c.REKEY_TIMEOUT_JITTER + c.NEW_HANDSHAKE_AFTER + 1)
    world.talk(a, b)
    world.talk(b, a)
    for host in (a, b):
        slots = [only_peer(host).previous, only_peer(host).current, only_peer(host).next]
        assert len(host.device._indices.keypairs) == sum(slot is not None for slot in slots)


def test_a_restarted_peer_that_speaks_first_is_taken_at_once() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.run(1)
    a.restart()
    world.talk(a, b)
    world.talk(b, a)


def test_a_restarted_peer_that_stays_silent_is_found_after_15_s() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.run(20)
    b.restart()
    a.send(ipv4(a.inner, b.inner, b"lost"))
    world.run(c.NEW_HANDSHAKE_AFTER + 0.1)
    assert b.inbox[1:] == []
    world.talk(a, b)


def test_a_peer_whose_clock_went_back_ten_years_keeps_working_until_it_restarts() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.clock_error = -10 * 365 * 86400.0
    world.run(200)
    world.talk(a, b)
    assert a.types_sent().count(INITIATION) == 2


def test_rekey_under_load_loses_nothing() -> None:
    world = World()
    a, b = world.pair()
    sent_a, sent_b = [], []
    for number in range(1500):
        payload = number.to_bytes(4, "big")
        sent_a.append(ipv4(a.inner, b.inner, payload))
        sent_b.append(ipv4(b.inner, a.inner, payload))
        a.send(sent_a[-1])
        b.send(sent_b[-1])
        world.run(0.2)
    world.run(1)
    assert sorted(b.inbox) == sent_a
    assert sorted(a.inbox) == sent_b
    assert a.types_sent().count(INITIATION) + b.types_sent().count(INITIATION) >= 3


def test_staging_is_bounded_and_keeps_the_newest() -> None:
    world = World()
    a, b = world.pair()
    world.drop = lambda *_: True
    packets = [
        ipv4(a.inner, b.inner, number.to_bytes(2, "big")) for number in range(c.MAX_STAGED_PACKETS + 10)
    ]
    for packet in packets:
        a.send(packet)
    assert list(only_peer(a).staged) == packets[10:]
    a.device.stage(only_peer(a), [bytes(65_000)] * 30, world.now)
    assert sum(map(len, only_peer(a).staged)) <= c.MAX_STAGED_BYTES


def test_roaming_follows_the_peer_unless_the_endpoint_is_fixed() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.by_address[ELSEWHERE] = a
    world.forging[a.address] = ELSEWHERE
    world.talk(a, b)
    assert only_peer(b).endpoint == ELSEWHERE
    world.talk(b, a)
    only_peer(b).endpoint_fixed = True
    world.forging.clear()
    world.talk(a, b)
    assert only_peer(b).endpoint == ELSEWHERE
    world.run(200)
    world.talk(a, b)  # a new handshake moves it no more than data does
    assert only_peer(b).endpoint == ELSEWHERE


def test_a_preshared_key_must_be_on_both_sides() -> None:
    world = World()
    a, b = world.pair()
    only_peer(a).preshared_key = bytes(range(32))
    a.send(ipv4(a.inner, b.inner))
    world.run(2)
    assert b.inbox == []
    assert RESPONSE in b.types_sent()  # the initiation does not depend on it
    only_peer(b).preshared_key = bytes(range(32))
    world.run(5)
    assert len(b.inbox) == 1


def test_who_boots_with_a_clock_that_is_behind_is_called_by_who_stayed() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    world.run(10)
    a.restart()
    world.clock_error = -86_400.0
    before = len(b.sent)
    a.send(ipv4(a.inner, b.inner, b"after the boot"))
    world.run(0.5)
    assert b.inbox[-1] == ipv4(a.inner, b.inner, b"after the boot")
    kinds = [message_type(datagram) for _, datagram in b.sent[before:]]
    assert kinds.count(INITIATION) == 1
    world.talk(b, a)


def test_old_initiations_copied_by_somebody_cause_one_in_five_seconds_and_move_no_endpoint() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    (old,) = [datagram for _, datagram in a.sent if message_type(datagram) == INITIATION]
    world.run(c.REJECT_AFTER_TIME)
    world.talk(a, b)
    before = len(b.sent)
    for _ in range(100):
        world.carry(ELSEWHERE, b.address, old)
        world.run(0.1)
    kinds = [message_type(datagram) for _, datagram in b.sent[before:]]
    assert 1 <= kinds.count(INITIATION) <= 1 + 10 / c.REKEY_TIMEOUT
    assert only_peer(b).endpoint == a.address


def test_a_replayed_initiation_or_response_is_silence() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    (initiation,) = [d for _, d in a.sent if message_type(d) == INITIATION]
    (response,) = [d for _, d in b.sent if message_type(d) == RESPONSE]
    assert b.device.handle_handshake(initiation, ELSEWHERE, world.now + 60, world.unix_now) == []
    assert a.device.handle_handshake(response, ELSEWHERE, world.now + 60, world.unix_now) == []
    assert only_peer(a).endpoint == b.address
    assert only_peer(b).endpoint == a.address
    world.talk(a, b)


def test_an_older_initiation_is_refused_after_a_newer_one() -> None:
    world = World()
    a, b = world.pair()
    world.drop = lambda *_: True
    a.send(ipv4(a.inner, b.inner))
    world.run(6)
    old, new = [d for _, d in a.sent]
    assert len(b.device.handle_handshake(new, a.address, world.now, world.unix_now)) == 1
    assert b.device.handle_handshake(old, a.address, world.now + 1, world.unix_now) == []


def test_authentic_initiations_in_a_flood_are_dropped() -> None:
    world = World()
    a, b = world.pair()
    world.drop = lambda *_: True
    a.send(ipv4(a.inner, b.inner))
    world.run(6)
    first, second = [d for _, d in a.sent]
    assert len(b.device.handle_handshake(first, a.address, 5000.0, 0.0)) == 1
    assert b.device.handle_handshake(second, a.address, 5000.01, 0.0) == []
    assert len(b.device.handle_handshake(second, a.address, 5000.03, 0.0)) == 1


def test_a_stranger_gets_nothing_and_leaves_nothing() -> None:
    world = World()
    _, b = world.pair()
    stranger = world.add()
    stranger.know(b)
    stranger.send(ipv4(stranger.inner, b.inner))
    world.run(1)
    assert b.sent == []
    assert not b.device._indices.keypairs
    assert b.device.next_timer() is None
    assert len(b.device._limiter) == 0


def under_load(host: Host, now: float) -> None:
    host.device.note_handshake_load(now)


def test_under_load_a_cookie_is_asked_for_and_the_retry_with_it_is_taken() -> None:
    world = World()
    a, b = world.pair()
    for _ in range(80):
        world.run(0.1)
        under_load(b, world.now)
        if not a.sent:
            a.send(ipv4(a.inner, b.inner, b"patient"))
    assert b.types_sent()[0] == COOKIE_REPLY
    assert len(b.sent[0][1]) == COOKIE_REPLY_LEN < INITIATION_LEN
    first, second = [d for _, d in a.sent if message_type(d) == INITIATION]
    assert first[-16:] == bytes(16)
    assert second[-16:] != bytes(16)
    assert len(b.inbox) == 1


def test_a_cookie_is_good_for_one_address_and_two_minutes() -> None:
    world = World()
    a, b = world.pair()
    under_load(b, world.now)
    a.send(ipv4(a.inner, b.inner))
    world.run(0.1)
    world.drop = lambda *_: True
    world.run(6)
    with_cookie = a.sent[-1][1]
    assert with_cookie[-16:] != bytes(16)
    late = world.now + c.COOKIE_SECRET_MAX_AGE
    for source, at in (
        (ELSEWHERE, world.now),
        (SocketAddress(a.address.host, 1), world.now),
        (a.address, late),
    ):
        under_load(b, at)
        (answer,) = b.device.handle_handshake(with_cookie, source, at, world.unix_now)
        assert isinstance(answer, SendDatagram)
        assert (answer.peer, answer.destination, message_type(answer.data)) == (None, source, COOKIE_REPLY)


def test_a_forged_cookie_reply_changes_nothing() -> None:
    world = World()
    a, b = world.pair()
    world.drop = lambda *_: True
    a.send(ipv4(a.inner, b.inner))
    world.run(0.1)
    index = a.sent[0][1][4:8]
    forged = COOKIE_REPLY.to_bytes(4, "little") + index + os.urandom(56)
    assert a.device.handle_handshake(forged, b.address, world.now, world.unix_now) == []
    world.run(6)
    assert a.sent[-1][1][-16:] == bytes(16)


def test_a_flood_with_good_mac1_turns_into_cookies_and_ends_again() -> None:
    world = World()
    a, b = world.pair()
    world.drop = lambda *_: True
    a.send(ipv4(a.inner, b.inner))
    world.run(0.01)
    initiation = a.sent[0][1]
    answers = [
        b.device.handle_handshake(initiation, ELSEWHERE, 50.0, world.unix_now)
        for _ in range(int(c.UNDER_LOAD_BURST) + 5)
    ]
    kinds = [message_type(e.data) for effects in answers for e in effects if isinstance(e, SendDatagram)]
    assert kinds == [RESPONSE] + [COOKIE_REPLY] * 5
    assert b.device.is_under_load(50.5)
    assert not b.device.is_under_load(50.0 + c.UNDER_LOAD_HOLD)


def test_proven_sources_have_a_rate_each_and_the_table_a_bound() -> None:
    limiter = Device(None, bytes)._limiter
    one = SocketAddress("192.0.2.1", 1)
    assert [limiter.allow(one, 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert limiter.allow(one, 0.06)
    for number in range(c.MAX_LIMITED_SOURCES + 50):
        limiter.allow(SocketAddress(str(ipaddress.ip_address(number)), 1), 1.0)
    assert len(limiter) <= c.MAX_LIMITED_SOURCES
    assert limiter.allow(SocketAddress("203.0.113.1", 1), 2.0)
    same_64 = [SocketAddress(f"2001:db8::{n:x}", 1) for n in range(1, 8)]
    assert sum(limiter.allow(source, 3.0) for source in same_64) == int(c.SOURCE_BURST)


def test_a_new_private_key_ends_sessions_and_removes_ourselves() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    old = keypair_of(a)
    assert a.device.private_key == a.private_key
    a.device.set_private_key(a.private_key)
    assert old.is_alive  # the same key is no change
    a.device.set_private_key(b.private_key)
    assert not old.is_alive
    assert a.device.peers == {}
    assert a.device.lookup(ipaddress.ip_address(b.inner).packed) is None
    assert a.device.add_peer(b.device.public_key) is None
    assert not a.device._indices.keypairs


def test_a_removed_peer_is_gone_whatever_the_shell_still_holds() -> None:
    world = World()
    a, b = world.pair()
    world.talk(a, b)
    peer = only_peer(a)
    keypair = keypair_of(a)
    a.device.remove_peer(peer.public_key)
    peer.data_received(keypair, b.address, world.now)
    peer.data_sent(world.now, keypair)
    assert a.device.stage(peer, [b"x"], world.now) == []
    assert a.device.next_timer() is None
    assert a.device.keypair(keypair.local_index) is None
    assert peer.sendable_keypair(world.now) is None


def test_without_a_private_key_all_is_silence() -> None:
    world = World()
    a, b = world.pair()
    a.send(ipv4(a.inner, b.inner))
    b.device.set_private_key(None)
    world.run(1)
    assert b.sent == []
    assert b.device.public_key is None
    assert b.device.private_key is None


def thousand(keepalive_s: int) -> tuple[Device, list[Peer]]:
    counter = itertools.count(1)
    device = Device(bytes(range(1, 33)), lambda n: next(counter).to_bytes(n, "little"))
    peers = []
    for number in range(1000, 2000):
        peer = device.add_peer(number.to_bytes(32, "little"))
        assert peer is not None
        peers.append(peer)
    assert device.next_timer() is None
    for number, peer in enumerate(peers):
        device.set_endpoint(peer, SocketAddress("192.0.2.1", number + 1), 0.0)
        device.set_keepalive(peer, keepalive_s, 0.0)
    return device, peers


def initiated(device: Device, until: float) -> list[tuple[float, int]]:
    """When and to which port initiations go, as time passes."""
    found: list[tuple[float, int]] = []
    now, turns = 0.0, 0
    while (due := device.next_timer()) is not None and due <= until:
        now = max(now, due)
        effects = device.handle_timer(now, 1e9 + now)
        assert len(effects) <= c.MAX_PEERS_PER_TURN
        found += [(now, effect.destination.port) for effect in effects if isinstance(effect, SendDatagram)]
        turns += 1
        assert turns < 10_000
    return found


def test_a_thousand_idle_peers_cost_nothing_and_all_come_back_within_seconds() -> None:
    device, _ = thousand(25)
    sent = initiated(device, 2.0)
    assert len({port for _, port in sent}) > 900  # some of these numbers are no points with a usable key
    assert device.next_timer() is not None


def test_handshakes_that_nobody_waits_for_are_spread() -> None:
    """However many peers are silent, so many a second, in every second, and each has its turn before any a third."""
    device, _ = thousand(25)
    sent = initiated(device, 20.0)
    for second in range(20):
        within = sum(second <= at < second + 1 for at, _ in sent)
        assert within <= c.UNPROMPTED_RATE + c.UNPROMPTED_BURST + 1
    first = [at for at, _ in sent[: int(c.UNPROMPTED_BURST)]]
    assert first == [0.0] * len(first)
    tries = collections.Counter(port for _, port in sent)
    assert max(tries.values()) - min(tries.values()) <= 2
    assert max(tries.values()) > 2


def test_a_packet_does_not_wait_behind_silent_peers() -> None:
    device, peers = thousand(25)
    assert len(initiated(device, 0.5)) < 500
    last = peers[-10]
    assert last.timers.deadline(Timer.INITIATE) is not None
    assert device.stage(last, [b"packet"], 0.5) == []
    effects = device.handle_timer(0.5, 1e9)
    assert last in [effect.peer for effect in effects if isinstance(effect, SendDatagram)]


def test_what_is_in_the_slots_after_each_event() -> None:
    world = World()
    a, b = world.pair()
    world.drop = lambda _, __, datagram: message_type(datagram) == TRANSPORT
    a.send(ipv4(a.inner, b.inner))
    world.run(0.1)
    at_a, at_b = only_peer(a), only_peer(b)
    first = at_a.current
    assert first is not None
    assert (at_a.previous, at_a.next, at_b.previous, at_b.current) == (None, None, None, None)
    assert at_b.next is not None
    assert at_b.sendable_keypair(world.now) is None  # not before the initiator has used it
    world.drop = lambda *_: False
    world.talk(a, b)
    assert at_b.next is None
    assert keypair_of(b).remote_index == first.local_index
    world.run(c.REKEY_AFTER_TIME)
    world.talk(a, b)
    assert at_a.previous is first
    assert at_a.current is not first
    assert first.is_alive  # what is still under way is received
    world.run(c.REKEY_AFTER_TIME)
    world.talk(a, b)
    assert not first.is_alive


def test_cookie_replies_are_as_limited_as_what_they_lead_to() -> None:
    """One address that floods gets few; another is answered at once, however many are made up beside it."""
    replies = Device(None, bytes)._replies
    flooder = SocketAddress("203.0.113.7", 9)
    assert sum(replies.allow(flooder, 0.0) for _ in range(1000)) == int(c.SOURCE_BURST)
    for number in range(2 * c.MAX_LIMITED_SOURCES):
        assert replies.allow(SocketAddress(str(ipaddress.ip_address(number)), 1), 0.0)
    assert replies.allow(SocketAddress("203.0.113.8", 9), 0.0)
    assert len(replies) <= c.MAX_LIMITED_SOURCES
