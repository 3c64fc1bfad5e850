"""Limits before login and bans, without I/O."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

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
    waits = gate.admit(NEIGHBOUR, 0.0)
    assert (waits.refused, waits.waits) == (None, True)
    far = gate.admit(FAR, 0.0)
    assert (far.refused, far.waits) == (None, False)
    assert gate.turns(0.0) == []
    gate.leave(knocks[0].ticket)
    gate.leave(knocks[0].ticket)  # only once
    last = gate.admit(NEIGHBOUR, 0.0)
    assert last.waits, "not before those that wait already"
    assert gate.turns(0.0) == [g.Admittance(None, waits.ticket)]
    gate.leave(last.ticket)
    gate.leave(waits.ticket)
    assert gate.turns(0.0) == []
    assert not gate.admit(NEIGHBOUR, 0.0).waits
    assert gate.unauthenticated == g.MAX_UNAUTHENTICATED_PER_PREFIX + 1


def site(number: int) -> SocketAddress:
    """Of one IPv6 /48, each in a /56 of its own."""
    return SocketAddress.of(f"2001:db8:0:{number & 255:x}00::1", 1)


def test_one_site_does_not_take_every_place() -> None:
    """A /48 has 256 /56s: the limit of a neighbourhood alone lets it take every place there is."""
    gate = g.AdmissionLimiter()
    taken = [gate.admit(site(number), 0.0) for number in range(4 * g.MAX_UNAUTHENTICATED)]
    assert gate.unauthenticated == g.MAX_UNAUTHENTICATED_PER_REGION[6]
    assert gate.waiting == g.MAX_WAITING_PER_REGION
    assert {knock.refused for knock in taken} == {None, "region full"}
    for other in (ONE, SocketAddress.of("2001:db8:1::1", 1)):
        knock = gate.admit(other, 0.0)
        assert (knock.refused, knock.waits) == (None, False)


def test_many_sites_leave_ipv4_its_places_and_the_oldest_of_the_crowd_goes() -> None:
    gate = g.AdmissionLimiter()
    honest = gate.admit(SocketAddress.of("2001:db8:ffff::1", 1), 0.0).ticket
    evicted = []
    for number in range(4 * g.MAX_UNAUTHENTICATED):
        address = SocketAddress.of(f"2001:{number % 40 + 1:x}:0:{number // 40:x}00::1", 1)
        knock = gate.admit(address, 0.0)
        assert knock.refused in (None, "prefix full", "region full")
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


def inside(number: int) -> SocketAddress:
    """Addresses of one /16, twenty in a /24."""
    return SocketAddress.of(f"10.0.{number // 20 % 250}.{number % 20 + 1}", 1)


@pytest.mark.parametrize("where", [inside, lambda _: ONE], ids=["one /16", "one address"])
def test_two_thousand_members_of_one_place_are_let_in_without_a_refusal(
    where: Callable[[int], SocketAddress],
) -> None:
    """They lost their mediator at the same moment. Each login takes 10 ms of the one core here."""
    gate, chance, now = g.AdmissionLimiter(random.Random(1).random), random.Random(2), 0.0
    coming = sorted(((chance.random(), where(number)) for number in range(2_000)), key=lambda item: item[0])
    inside: list[int] = []
    known = 0
    while known < 2_000:
        while coming and coming[0][0] <= now:
            knock = gate.admit(coming.pop(0)[1], now)
            assert knock.refused is None
            if not knock.waits:
                inside.append(knock.ticket)
        assert gate.unauthenticated == len(inside) <= g.MAX_UNAUTHENTICATED_PER_REGION[4]
        assert max(gate._prefixes.values(), default=0) <= g.MAX_UNAUTHENTICATED_PER_PREFIX
        for _ in range(10):  # in 10 ms, 1,000 in a second
            if inside:
                gate.authenticated(inside.pop(chance.randrange(len(inside))), now)
                known += 1
        for turn in gate.turns(now):
            assert turn.refused is None
            inside.append(turn.ticket)
        now += 0.01
    assert now < g.WAIT_S
    assert gate.waiting == gate.unauthenticated == 0


def test_who_waits_too_long_is_refused_and_who_gives_up_leaves() -> None:
    gate = g.AdmissionLimiter()
    for _ in range(g.MAX_UNAUTHENTICATED_PER_PREFIX):
        gate.admit(ONE, 0.0)
    tickets = [gate.admit(NEIGHBOUR, number / 10).ticket for number in range(3)]
    gate.leave(tickets[1])
    assert gate.turns(g.WAIT_S - 0.01) == []
    assert gate.turns(g.WAIT_S) == [g.Admittance("prefix full", tickets[0])]
    assert gate.turns(g.WAIT_S + 0.3) == [g.Admittance("prefix full", tickets[2])]
    assert gate.waiting == 0


def test_the_room_to_wait_is_bounded_for_a_region_and_in_all() -> None:
    gate = g.AdmissionLimiter()
    for region in range(1, 4):
        knocks = [gate.admit(SocketAddress.of(f"10.{region}.0.1", 1), 0.0) for _ in range(3_000)]
        waiting = sum(knock.waits for knock in knocks)
        assert waiting == min(
            g.MAX_WAITING_PER_REGION, g.MAX_WAITING - (region - 1) * g.MAX_WAITING_PER_REGION
        )
        assert knocks[-1].refused == "prefix full"
        assert gate.admit(SocketAddress.of(f"10.{region}.1.1", 1), 0.0).waits is False, "a /24 fills no other"
    assert gate.unauthenticated == 3 * (g.MAX_UNAUTHENTICATED_PER_PREFIX + 1)


def test_an_attacker_that_fills_the_room_takes_no_turns_from_its_neighbours() -> None:
    """One address has all places of its /24 and all room to wait of its /16, and is silent. Without a login it gets no
    tokens back, so its turns soon end at once, and a member beside it gets in.
    """
    gate = g.AdmissionLimiter(random.Random(1).random)
    held = [gate.admit(ONE, 0.0).ticket for _ in range(g.MAX_UNAUTHENTICATED_PER_PREFIX)]
    for _ in range(g.MAX_WAITING_PER_REGION - 1):
        assert gate.admit(ONE, 0.0).waits
    member = gate.admit(NEIGHBOUR, 0.0)
    assert member.waits
    assert gate.admit(ONE, 0.0).refused == "prefix full"
    let_in: list[int] = []
    for ticket in held:  # they run into the limit of a handshake
        gate.leave(ticket)
        let_in += [turn.ticket for turn in gate.turns(5.0) if turn.refused is None]
    for ticket in let_in[:]:
        gate.leave(ticket)
        let_in += [turn.ticket for turn in gate.turns(5.0) if turn.refused is None]
    assert member.ticket in let_in
    assert len(let_in) <= g.TOKENS + 5 * g.TOKENS_PER_S + 1


def test_a_whole_region_of_attackers_cannot_keep_a_member_out_for_good() -> None:
    """All 256 places and all room of a /16 are theirs, and they come again at once. Without the room a member that
    tries at a moment of its own found a place in hardly any of its tries.
    """
    chance = random.Random(3)
    found = 0
    for seed in range(6):
        gate = g.AdmissionLimiter(random.Random(seed).random)
        fresh = iter(range(10**6))

        def attack(now: float, gate: g.AdmissionLimiter = gate, fresh: Iterator[int] = fresh) -> list[int]:
            """As many as there is room for."""
            tickets: list[int] = []
            while True:
                number = next(fresh)
                knock = gate.admit(SocketAddress.of(f"10.0.{number % 250}.{number // 250 % 250 + 1}", 1), now)
                if knock.refused is not None:
                    return tickets
                if not knock.waits:
                    tickets.append(knock.ticket)

        held = [(0.1 * number, ticket) for number, ticket in enumerate(attack(0.0))]
        member, now = None, 0.0
        while now < 60.0 and member is not True:
            now += 0.05
            gone = [ticket for since, ticket in held if now - since > 15.0]
            held = [(since, ticket) for since, ticket in held if now - since <= 15.0]
            for ticket in gone:
                gate.leave(ticket)
            for turn in gate.turns(now):
                if turn.ticket == member:
                    member = True if turn.refused is None else None
                elif turn.refused is None:
                    held.append((now, turn.ticket))
            if member is None and chance.random() < 0.05:  # it comes between two of theirs
                knock = gate.admit(SocketAddress.of("10.0.251.1", 1), now)
                member = knock.ticket if knock.waits else None
            held += [(now, ticket) for ticket in attack(now)]
        found += member is True
    assert found >= 2, "in a minute"


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
