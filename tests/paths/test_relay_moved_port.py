"""A member's relay port has changed, and its peer still has a grant for the old one, which the relay answers."""

from __future__ import annotations

import itertools

from mediator.core.relay_grants import grant
from mediator.core.relay_table import RelayTable
from netctl.model.addresses import SocketAddress
from netctl.paths.effects import SendControl, SendDatagram
from netctl.paths.relaylink import RelayLink
from netctl.wire.control import RelayGrant

UNIX = 1_800_000_000
OLD, MOVED, OTHER = 40_000, 40_002, 40_001
SECRET = bytes(32)
WITHIN_S = 12.0
"""The six questions whether the peer is there, and one more to find it."""


class Member:
    """One side, whose mediator gives the grants that are right now."""

    def __init__(self, host: str, own: int, peer: int) -> None:
        count = itertools.count()
        self.link = RelayLink("peer", lambda size: next(count).to_bytes(size, "big"))
        self.here = SocketAddress(host, 51820)
        self.right = own, peer
        self.asked = 0
        self.grant(0.0)
        self.link.want(0.0)

    def grant(self, now: float) -> None:
        given = grant(SECRET, *self.right, UNIX + 3600)
        address = f"192.0.2.1:{given.port}"
        self.link.handle_grant(RelayGrant("peer", address, given.allocation, given.key, given.expires_s), now)


def play(members: tuple[Member, Member], table: RelayTable, start: float, seconds: float) -> None:
    for step in range(int(seconds / 0.1)):
        now = start + step * 0.1
        for member in members:
            for effect in member.link.handle_timer(now, online=True):
                if isinstance(effect, SendControl):
                    member.asked += 1
                    member.grant(now)
                elif isinstance(effect, SendDatagram):
                    at = effect.destination
                    for answer in table.handle_control(effect.data, member.here, at.port, now, UNIX):
                        for one in members:
                            if one.here == answer.destination:
                                source = SocketAddress(at.host, answer.port)
                                one.link.handle_datagram(answer.data, source, now)


def test_both_come_together_again_by_a_new_grant() -> None:
    table = RelayTable(SECRET, b"c" * 32, range(OLD, MOVED + 1))
    one, other = Member("198.51.100.1", OLD, OTHER), Member("198.51.100.2", OTHER, OLD)
    play((one, other), table, 0.0, 3.0)
    assert one.link.usable
    assert other.link.usable
    one.right, other.right = (MOVED, OTHER), (OTHER, MOVED)
    one.grant(3.0)  # its hourly renewal; the other's is due in half an hour
    play(
        (one, other), table, 3.0, 90.0 + WITHIN_S
    )  # the old binding lives for 65 s, in which nobody sees a change
    assert one.link.usable
    assert other.link.usable
    assert other.asked >= 1


def test_an_absent_peer_costs_a_question_each_time_that_the_relays_cookie_is_renewed() -> None:
    table = RelayTable(SECRET, b"c" * 32, range(OLD, MOVED + 1))
    one = Member("198.51.100.1", OLD, OTHER)
    away = Member("198.51.100.2", OTHER, OLD)
    away.link.release()
    play((one, away), table, 0.0, 300.0)
    assert 1 <= one.asked <= 3
