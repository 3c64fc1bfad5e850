"""Limits before login and bans, without I/O."""

from __future__ import annotations

from mediator.core import gate as g
from netctl.model.addresses import SocketAddress

ONE = SocketAddress.of("203.0.113.7", 1)
NEIGHBOUR = SocketAddress.of("203.0.113.8", 1)
FAR = SocketAddress.of("198.51.100.1", 1)


def at(number: int) -> SocketAddress:
    """Addresses, each in a /24 of its own."""
    return SocketAddress.of(f"10.{number >> 8 & 255}.{number & 255}.{number >> 16 & 255}", 1)


def test_strangers_are_limited_by_neighbourhood_and_in_all() -> None:
    gate = g.Gate()
    assert [gate.knock(ONE, 0.0) for _ in range(g.MAX_STRANGERS_PER_PREFIX)] == [
        None
    ] * g.MAX_STRANGERS_PER_PREFIX
    assert gate.knock(NEIGHBOUR, 0.0) == "prefix full"
    assert gate.knock(FAR, 0.0) is None
    gate.leave(ONE)
    assert gate.knock(NEIGHBOUR, 0.0) is None
    for number in range(g.MAX_STRANGERS - gate.strangers):
        assert gate.knock(at(number), 0.0) is None
    assert gate.knock(SocketAddress.of("192.0.2.1", 1), 0.0) == "full"


def test_who_connects_without_end_is_slowed_and_who_logs_in_is_not() -> None:
    gate = g.Gate()
    for _ in range(int(g.TOKENS)):
        assert gate.knock(ONE, 0.0) is None
        gate.leave(ONE)
    assert gate.knock(ONE, 0.0) == "slowed"
    assert gate.knock(NEIGHBOUR, 0.0) is None, "its neighbour is another"
    assert gate.knock(ONE, 1.0) is None
    for _ in range(10 * int(g.TOKENS)):
        assert gate.knock(FAR, 0.0) is None
        gate.welcome(FAR, 0.0)
    assert gate.strangers == 2


def test_a_ban_is_of_one_source_grows_and_ends() -> None:
    gate = g.Gate()
    now, lengths = 0.0, []
    for _ in range(8):
        ban = None
        while ban is None:
            ban = gate.offend(ONE, "login", now)
        lengths.append(ban.left_s)
        assert gate.knock(ONE, now + ban.left_s - 1) == "banned"
        assert gate.knock(NEIGHBOUR, now) is None
        gate.leave(NEIGHBOUR)
        assert [held.source for held in gate.bans(now)] == [ONE.host]
        now += ban.left_s
        assert gate.knock(ONE, now) is None
        gate.leave(ONE)
    assert lengths == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert not gate.bans(now)
    now += g.FORGET_S
    ban = None
    while ban is None:
        ban = gate.offend(ONE, "garbage", now)
    assert ban.left_s == g.BAN_S, "after long peace it starts anew"


def test_a_member_with_a_wrong_key_that_tries_patiently_is_never_banned() -> None:
    gate = g.Gate()
    assert all(gate.offend(ONE, "login", 8.0 * number) is None for number in range(10_000))


def test_a_pardon_forgets_all() -> None:
    gate = g.Gate()
    while gate.offend(ONE, "garbage", 0.0) is None:
        pass
    assert gate.unban(ONE.host)
    assert gate.knock(ONE, 0.0) is None
    assert not gate.unban("192.0.2.200")


def test_ipv6_counts_by_64_and_56() -> None:
    gate = g.Gate()
    while gate.offend(SocketAddress.of("2001:db8::1", 1), "garbage", 0.0) is None:
        pass
    assert gate.knock(SocketAddress.of("2001:db8::2", 1), 0.0) == "banned"
    assert gate.knock(SocketAddress.of("2001:db8:0:1::1", 1), 0.0) is None
    assert gate.bans(0.0)[0].source == "2001:db8::/64"


def test_memory_is_bounded_and_bans_survive_a_flood_of_sources() -> None:
    gate = g.Gate()
    while gate.offend(ONE, "garbage", 0.0) is None:
        pass
    for number in range(g.MAX_SOURCES + 500):
        gate.knock(at(number), number / 400)
        gate.leave(at(number))
    assert len(gate._sources) <= g.MAX_SOURCES
    assert gate.knock(ONE, 50.0) == "banned"
    assert gate.knock(at(1 << 20), 50.0) is None, "a new one is let in, remembered or not"
