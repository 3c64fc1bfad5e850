"""Limits before login and bans, without I/O."""

from __future__ import annotations

from mediator.core import admissionlimiter as g
from mediator.shell.server import offence_of
from netctl.model.addresses import SocketAddress

ONE = SocketAddress.of("203.0.113.7", 1)
NEIGHBOUR = SocketAddress.of("203.0.113.8", 1)
FAR = SocketAddress.of("198.51.100.1", 1)


def at(number: int) -> SocketAddress:
    """Addresses, each in a /24 of its own."""
    return SocketAddress.of(f"10.{number >> 8 & 255}.{number & 255}.{number >> 16 & 255}", 1)


def refused(gate: g.AdmissionLimiter, address: SocketAddress, now: float = 0.0) -> g.Refusal | None:
    """A connection that hangs up at once when it is let in."""
    knock = gate.admit(address, now)
    gate.leave(knock.ticket)
    return knock.refused


def test_connections_are_limited_by_neighbourhood() -> None:
    gate = g.AdmissionLimiter()
    knocks = [gate.admit(ONE, 0.0) for _ in range(g.MAX_UNAUTHENTICATED_PER_PREFIX)]
    assert all(knock.refused is None and knock.evicted is None for knock in knocks)
    assert gate.admit(NEIGHBOUR, 0.0).refused == "prefix full"
    assert gate.admit(FAR, 0.0).refused is None
    gate.leave(knocks[0].ticket)
    gate.leave(knocks[0].ticket)  # only once
    assert gate.admit(NEIGHBOUR, 0.0).refused is None
    assert gate.admit(NEIGHBOUR, 0.0).refused == "prefix full"


def site(number: int) -> SocketAddress:
    """Of one IPv6 /48, each in a /56 of its own."""
    return SocketAddress.of(f"2001:db8:0:{number & 255:x}00::1", 1)


def test_one_site_does_not_take_every_place() -> None:
    """A /48 has 256 /56s: the limit of a neighbourhood alone lets it take every place there is."""
    gate = g.AdmissionLimiter()
    taken = [gate.admit(site(number), 0.0).refused for number in range(4 * g.MAX_UNAUTHENTICATED)]
    assert taken.count(None) == g.MAX_UNAUTHENTICATED_PER_REGION[6]
    assert set(taken) == {None, "region full"}
    assert gate.admit(ONE, 0.0).refused is None
    assert gate.admit(SocketAddress.of("2001:db8:1::1", 1), 0.0).refused is None


def test_many_sites_leave_ipv4_its_places_and_the_oldest_of_the_crowd_goes() -> None:
    gate = g.AdmissionLimiter()
    honest = gate.admit(SocketAddress.of("2001:db8:ffff::1", 1), 0.0).ticket
    evicted = []
    for number in range(4 * g.MAX_UNAUTHENTICATED):
        address = SocketAddress.of(f"2001:{number % 40 + 1:x}:0:{number // 40:x}00::1", 1)
        knock = gate.admit(address, 0.0)
        assert knock.refused in (None, "region full")
        evicted += [knock.evicted] if knock.evicted is not None else []
    assert gate.unauthenticated == g.MAX_OF_A_FAMILY
    assert evicted, "who comes later finds room"
    assert honest not in evicted, "it came first, but from where nobody else is"
    assert evicted == sorted(evicted)
    for number in range(g.MAX_UNAUTHENTICATED - g.MAX_OF_A_FAMILY):
        knock = gate.admit(at(number << 8), 0.0)
        assert (knock.refused, knock.evicted) == (None, None)
    assert gate.unauthenticated == g.MAX_UNAUTHENTICATED
    knock = gate.admit(FAR, 0.0)
    assert knock.refused is None
    assert knock.evicted is not None
    assert gate.unauthenticated == g.MAX_UNAUTHENTICATED


def test_who_made_room_has_left_already() -> None:
    gate = g.AdmissionLimiter()
    first = gate.admit(at(0), 0.0).ticket
    for number in range(1, g.MAX_OF_A_FAMILY):
        gate.admit(at(number << 8 | number >> 8), 0.0)
    before = gate.unauthenticated
    assert gate.admit(FAR, 0.0).evicted == first
    gate.leave(first)
    gate.authenticated(first, 0.0)
    assert gate.unauthenticated == before


def test_who_connects_without_end_is_slowed_and_who_logs_in_is_not() -> None:
    gate = g.AdmissionLimiter()
    for _ in range(int(g.TOKENS)):
        assert refused(gate, ONE) is None
    assert refused(gate, ONE) == "slowed"
    assert gate.admit(NEIGHBOUR, 0.0).refused is None, "its neighbour is another"
    assert gate.admit(ONE, 1.0).refused is None
    for _ in range(10 * int(g.TOKENS)):
        knock = gate.admit(FAR, 0.0)
        assert knock.refused is None
        gate.authenticated(knock.ticket, 0.0)
    assert gate.unauthenticated == 2


def test_a_ban_is_of_one_source_grows_and_ends() -> None:
    gate = g.AdmissionLimiter()
    now, lengths = 0.0, []
    for _ in range(8):
        ban = None
        while ban is None:
            ban = gate.offend(ONE, "login", now)
        lengths.append(ban.left_s)
        assert refused(gate, ONE, now + ban.left_s - 1) == "banned"
        assert refused(gate, NEIGHBOUR, now) is None
        assert [held.source for held in gate.bans(now)] == [ONE.host]
        now += ban.left_s
        assert refused(gate, ONE, now) is None
    assert lengths == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert not gate.bans(now)
    now += g.FORGET_S
    ban = None
    while ban is None:
        ban = gate.offend(ONE, "garbage", now)
    assert ban.left_s == g.BAN_S, "after long peace it starts anew"


def test_a_member_with_a_wrong_key_that_tries_patiently_is_never_banned() -> None:
    gate = g.AdmissionLimiter()
    assert all(gate.offend(ONE, "login", 8.0 * number) is None for number in range(10_000))


def test_a_pardon_forgets_all() -> None:
    gate = g.AdmissionLimiter()
    while gate.offend(ONE, "garbage", 0.0) is None:
        pass
    assert gate.unban(ONE.host)
    assert refused(gate, ONE, 0.0) is None
    assert not gate.unban("192.0.2.200")


def test_ipv6_counts_by_64_and_56() -> None:
    gate = g.AdmissionLimiter()
    while gate.offend(SocketAddress.of("2001:db8::1", 1), "garbage", 0.0) is None:
        pass
    assert refused(gate, SocketAddress.of("2001:db8::2", 1), 0.0) == "banned"
    assert refused(gate, SocketAddress.of("2001:db8:0:1::1", 1), 0.0) is None
    assert gate.bans(0.0)[0].source == "2001:db8::/64"


def test_memory_is_bounded_and_bans_survive_a_flood_of_sources() -> None:
    gate = g.AdmissionLimiter()
    while gate.offend(ONE, "garbage", 0.0) is None:
        pass
    for number in range(g.MAX_SOURCES + 500):
        refused(gate, at(number), number / 400)
    assert len(gate._sources) <= g.MAX_SOURCES
    assert refused(gate, ONE, 50.0) == "banned"
    assert refused(gate, at(1 << 20), 50.0) is None, "a new one is let in, remembered or not"


def test_who_is_refused_because_the_store_is_away_has_done_nothing_wrong() -> None:
    assert offence_of("invite.store") is None
    assert offence_of("session.too-often") is None
    assert [
        offence_of(code) for code in ("invite.used-up", "login.unknown-key", "login.timeout", "frame.long")
    ] == [
        "invite",
        "login",
        "timeout",
        "garbage",
    ]
