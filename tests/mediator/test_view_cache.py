"""The cache of views keeps the rows that a change leaves as they are, and only those."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from mediator.core.membership import membership_of
from mediator.core.viewcache import COMPRESS_ABOVE, ViewCache, ViewClass
from netctl.model.addresses import Address
from netctl.model.derive import member_ipv6
from netctl.model.document import Document, Member, Mode, Network
from netctl.model.keys import WireGuardKey
from netctl.session.replica import Kept
from netctl.wire import control as w
from tests.mediator.test_hub import MEDIATOR, PIN, replayed

NAMES = ("ann", "bob", "cid")
PREFIXES = (IPv6Network("fd00:0:0:1::/64"), IPv6Network("fd00:0:0:2::/64"))


def key(number: int) -> WireGuardKey:
    return WireGuardKey(bytes([number]) * 32)


@dataclass(frozen=True)
class State:
    """What members see: keys and addresses by name, and the prefix of the network `lan`."""

    keys: tuple[int, ...]
    addresses: tuple[int, ...]
    prefix: int | None
    networks: tuple[str, ...]


STATES = st.builds(
    State,
    st.permutations(range(1, 6)).map(lambda numbers: tuple(numbers[: len(NAMES)])),
    st.permutations(range(1, 6)).map(lambda numbers: tuple(numbers[: len(NAMES)])),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([("lan",), ("lan", "work"), ("work",)]),
)


def take(cache: ViewCache, state: State, generation: int) -> None:
    members = {name: Member(name, key(number)) for name, number in zip(NAMES, state.keys, strict=True)}
    prefix = PREFIXES[state.prefix] if state.prefix is not None else None
    document = Document(
        members,
        {name: Network(name, "00" * 8, Mode.ROUTED, None, prefix, NAMES, NAMES) for name in state.networks},
    )
    numbers = dict(zip(NAMES, state.addresses, strict=True))

    def addresses(network: str, name: str, key: WireGuardKey) -> tuple[Address, ...]:
        four = IPv4Address(f"10.0.0.{numbers[name]}")
        return (four, member_ipv6(prefix, key)) if prefix is not None else (four,)

    cache.rebuild(membership_of(document), frozenset(), addresses, generation)


def taken(frames: tuple[bytes, ...], seal: bytes, kept: Kept | None) -> Kept:
    """The view that the first member has after these frames. It never has to ask again."""
    return replayed([w.decode_any(frame) for frame in (*frames, seal)], key(1), kept)


def rows(cache: ViewCache, state: State) -> ViewClass:
    return cache.of(key(state.keys[0]))


@given(st.lists(STATES, min_size=1, max_size=5))
def test_after_any_changes_all_rows_are_those_of_a_fresh_cache(states: list[State]) -> None:
    cache = ViewCache(PIN, MEDIATOR.sign)
    for generation, state in enumerate(states):
        take(cache, state, generation)
        fresh = ViewCache(PIN, MEDIATOR.sign)
        take(fresh, state, generation)
        mine, wanted = rows(cache, state), rows(fresh, state)
        assert mine.digest == wanted.digest
        assert mine.member_rows() == wanted.member_rows()
        assert mine.lease_rows() == wanted.lease_rows()
        for minor in (0, 1, 2):
            assert cache.whole(mine, minor) == fresh.whole(wanted, minor)


def test_a_change_of_one_member_makes_no_row_of_another_anew() -> None:
    cache = ViewCache(PIN, MEDIATOR.sign)
    state = State((1, 2, 3), (1, 2, 3), 0, ("lan",))
    take(cache, state, 1)
    before = rows(cache, state)
    changed = replace(state, addresses=(1, 9, 3))
    take(cache, changed, 2)
    after = rows(cache, changed)
    same = [one is other for one, other in zip(before.lease_rows(), after.lease_rows(), strict=True)]
    assert same == [True, False, True]
    assert all(one is other for one, other in zip(before.member_rows(), after.member_rows(), strict=True))


def crowd(cache: ViewCache, count: int) -> list[WireGuardKey]:
    """So many members who all see one another."""
    keys = [WireGuardKey(hashlib.sha256(b"%d" % number).digest()) for number in range(count)]
    names = tuple(f"m{number}" for number in range(count))
    members = {name: Member(name, one) for name, one in zip(names, keys, strict=True)}
    network = Network("lan", "00" * 8, Mode.ROUTED, None, None, names, names)
    first = int(IPv4Address("10.0.0.1"))
    addresses = {name: (IPv4Address(first + number),) for number, name in enumerate(names)}
    document = Document(members, {"lan": network})
    cache.rebuild(membership_of(document), frozenset(), lambda _, name, key: addresses[name], 1)
    return keys


def test_a_shared_view_is_compressed_once_for_all_and_takes_14_bytes_more_for_each_than_its_key() -> None:
    cache = ViewCache(PIN, MEDIATOR.sign)
    keys = crowd(cache, 5_000)
    sent = [cache.whole(cache.of(one), w.MINOR_VERSION) for one in keys[:3]]
    assert sent[1] is sent[2]
    plain = cache.whole(cache.of(keys[3]), 1)
    assert [w.plain(one) for one in sent[1]] == list(plain)
    assert sum(map(len, sent[1])) < 5_000 * (32 + 14)


def test_the_second_member_of_a_view_is_sent_what_was_made_for_the_first_and_no_more_of_that_is_kept() -> (
    None
):
    cache = ViewCache(PIN, MEDIATOR.sign)
    keys = crowd(cache, 40)
    first = cache.whole(cache.of(keys[0]), 1)
    assert cache.whole(cache.of(keys[0]), 1) is first, "a member that asks again"
    assert cache.of(keys[0]).frames == {}
    assert cache.whole(cache.of(keys[1]), 1) is first
    assert cache.of(keys[0]).frames == {1: first}


def test_a_view_of_one_member_alone_and_a_short_one_are_sent_as_they_are() -> None:
    cache = ViewCache(PIN, MEDIATOR.sign)
    keys = crowd(cache, 200)
    assert cache.whole(cache.of(keys[0]), w.MINOR_VERSION)[0].startswith(b"{")
    keys = crowd(cache, 3)
    for one in keys:
        (frame,) = cache.whole(cache.of(one), w.MINOR_VERSION)
        assert frame.startswith(b"{")
        assert len(frame) <= COMPRESS_ABOVE


FIRST = STATES.map(
    lambda state: replace(state, keys=(1, *(number for number in state.keys if number != 1))[:3])
)
"""The first member keeps its key."""


@given(
    st.lists(FIRST.filter(lambda state: len(state.keys) == 3), min_size=2, max_size=5),
    st.sampled_from([4, 1 << 18]),
)
def test_what_a_member_that_comes_back_is_sent_leads_from_its_view_to_the_present_one(
    states: list[State], most: int
) -> None:
    cache = ViewCache(PIN, MEDIATOR.sign, max_past_rows=most)
    kept: Kept | None = None
    for generation, state in enumerate(states):
        take(cache, state, generation)
        present = rows(cache, state)
        if kept is None or generation == len(states) - 1:
            digest = kept.seal.digest if kept is not None else ""
            kept = taken(cache.since(key(1), digest, present, 1), cache.sealed(present, None), kept)
            assert kept.seal.digest == present.digest
            cache.left(key(1), present)


def test_past_views_are_bounded_and_the_oldest_are_forgotten_first() -> None:
    first, second, third = (State((1, 2, 3), (1, 2, other), None, ("lan",)) for other in (3, 4, 5))
    for most, known in ((12, True), (11, False)):
        cache = ViewCache(PIN, MEDIATOR.sign, max_past_rows=most)  # a view has six rows
        take(cache, first, 1)
        was = rows(cache, first)
        cache.left(key(1), was)
        take(cache, second, 2)
        cache.left(key(2), cache.of(key(2)))
        take(cache, third, 3)
        present = cache.of(key(1))
        sent = cache.since(key(1), was.digest, present, 1)
        assert (sent != cache.whole(present, 1)) is known


def test_many_large_views_that_become_past_ones_at_once_are_never_held_together() -> None:
    """A hundred views of two hundred members in ten networks, no two the same: at most two of them are held."""
    count, wide = 200, 10
    keys = [WireGuardKey(hashlib.sha256(b"%d" % number).digest()) for number in range(count)]
    members = {f"m{number}": Member(f"m{number}", one) for number, one in enumerate(keys)}
    names = tuple(members)
    seen = {f"m{number}": frozenset(names) - {f"m{number + 100}"} for number in range(100)}
    networks = {
        f"lan{number}": Network(f"lan{number}", "00" * 8, Mode.ROUTED, None, None, names, names)
        for number in range(wide)
    }
    membership = replace(membership_of(Document(members, networks)), visible=seen)
    one_view = (count - 1) * (1 + wide)
    cache = ViewCache(PIN, MEDIATOR.sign, max_past_rows=one_view)

    def address(network: str, name: str, key: WireGuardKey) -> tuple[Address, ...]:
        return (IPv4Address("10.0.0.1"),)

    cache.rebuild(membership, frozenset(), address, 1)
    views = {key: cache.of(key) for key in keys[:100]}
    assert len({view.digest for view in views.values()}) == len(views)
    for key, view in views.items():
        cache.left(key, view)
    tracemalloc.start()
    try:
        cache.rebuild(membership, frozenset(), address, 2)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 25 * one_view * 8  # the change itself takes some ten times as much as a view
