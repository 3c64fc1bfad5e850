"""A member's copy of its view: whatever comes, it has one that was sealed, never a guess, never an older one."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.session import views as v
from netctl.session.replica import MAX_STORES, Kept, Replica
from netctl.wire import control as w
from tests.session.loginkit import KEY, MEDIATOR, OTHER, PEER, public

PIN = public(MEDIATOR)
THIRD = WireGuardKey(b"\x33" * 32)


def view(*others: WireGuardKey, generation: int = 3, online: bool = False, address: str = "10.0.0.1") -> View:
    keys = sorted((KEY, *others))
    return View(
        generation,
        {key: ViewMember(f"m{key.raw[-1]}", key, online) for key in keys},
        {("lan", key): Lease("lan", key, (ip_address(address), ip_address("fd00::1"))) for key in keys},
    )


def sealed(of: View) -> w.Sealed:
    return v.sign_view(of, PIN, MEDIATOR.sign)


def whole(of: View) -> list[w.Message]:
    return [*v.pack_view(of), sealed(of)]


def holding(of: View) -> Replica:
    replica = Replica((PIN,), KEY, None)
    assert give(replica, *whole(of)) is not None
    return replica


def give(replica: Replica, *messages: w.Message) -> Kept | None:
    """What the last seal made true; AssertionError when the whole view is asked for."""
    kept = None
    for message in messages:
        match message:
            case w.ViewChunk():
                assert not replica.chunk(message)
            case w.ViewDelta():
                assert not replica.delta(message)
            case w.Sealed():
                kept = replica.sealed(message)
    return kept


def delta(old: View, new: View) -> w.ViewDelta:
    """By hand, as the protocol's text says."""
    rows = v.pack_view(new)[0]
    return w.ViewDelta(
        v.view_digest(old),
        [row for row in rows.members if WireGuardKey.parse(row.key) not in old.members],
        [str(key) for key in old.members if key not in new.members],
        [row for row in rows.leases if row not in v.pack_view(old)[0].leases],
        [w.LeaseName(network, str(key)) for network, key in old.leases if (network, key) not in new.leases],
    )


def test_a_difference_leads_to_the_very_view_that_was_sealed() -> None:
    old, new = view(PEER), view(THIRD, generation=4, online=True, address="10.0.0.9")
    kept = give(holding(old), delta(old, new), sealed(new))
    assert kept is not None
    assert kept.view == new
    assert v.open_view(v.pack_view(kept.view), kept.seal, (PIN,), KEY) == new


def test_a_difference_from_another_view_is_no_guess() -> None:
    replica = holding(view(PEER))
    assert replica.delta(delta(view(THIRD), view(PEER, THIRD, generation=4)))
    assert replica.sealed(sealed(view(PEER, THIRD, generation=4))) is None
    assert not replica.doubted(), "it has asked already"
    after = give(replica, *whole(view(PEER, THIRD, generation=4)))
    assert after is not None
    assert after.view == view(PEER, THIRD, generation=4)


def test_a_repeated_difference_and_a_repeated_seal_change_nothing() -> None:
    old, new = view(PEER), view(THIRD, generation=4)
    replica = holding(old)
    first = give(replica, delta(old, new), sealed(new))
    assert give(replica, sealed(new)) == first
    assert replica.delta(delta(old, new))
    assert give(replica, *whole(new)) == first


def test_an_older_view_is_refused_even_after_another_life() -> None:
    replica = holding(view(PEER, generation=7))
    with pytest.raises(RemoteError) as caught:
        give(replica, *whole(view(THIRD, generation=6)))
    assert caught.value.code == "view.rollback"
    kept = give(replica, *whole(view(PEER, generation=8)))
    assert kept is not None
    again = Replica((PIN,), KEY, kept)
    with pytest.raises(RemoteError) as caught:
        give(again, *whole(view(generation=7)))
    assert caught.value.code == "view.rollback"


def of_store(store: str, kept: Kept | None, *mediators: Ed25519PrivateKey) -> Replica:
    replica = Replica([public(one) for one in mediators], KEY, kept)
    replica.set_store(store)
    return replica


def by(mediator: Ed25519PrivateKey, generation: int, *others: WireGuardKey) -> list[w.Message]:
    shown = view(*others, generation=generation)
    return [*v.pack_view(shown), v.sign_view(shown, public(mediator), mediator.sign)]


def test_no_mediator_of_a_store_shows_an_older_view_than_another_of_it() -> None:
    kept = give(of_store("s", None, MEDIATOR, OTHER), *by(MEDIATOR, 7, PEER))
    assert kept is not None
    assert kept.stores == {"s": 7}
    for pins in ((MEDIATOR, OTHER), (OTHER,)):  # also where the document names the other one alone by now
        replica = of_store("s", kept, *pins)
        assert replica.newest == 7
        with pytest.raises(RemoteError) as caught:
            give(replica, *by(OTHER, 6))
        assert caught.value.code == "view.rollback"
    assert give(of_store("s", kept, OTHER), *by(OTHER, 7, PEER)) is not None
    assert give(of_store("new", kept, OTHER), *by(OTHER, 3)) is not None, (
        "a store that was begun anew on purpose"
    )


def test_what_an_older_agent_kept_by_identity_counts_for_the_store_of_its_mediators() -> None:
    old = give(Replica((PIN,), KEY, None), *by(MEDIATOR, 7, PEER))
    assert old is not None
    assert old.stores == {}
    with pytest.raises(RemoteError) as caught:
        give(of_store("s", old, MEDIATOR, OTHER), *by(OTHER, 6))
    assert caught.value.code == "view.rollback"
    assert give(of_store("s", old, MEDIATOR, OTHER), *by(OTHER, 8)) is not None


def test_names_of_stores_are_kept_up_to_a_bound() -> None:
    kept: Kept | None = None
    for number in range(3 * MAX_STORES):
        kept = give(of_store(f"s{number}", kept, MEDIATOR), *by(MEDIATOR, number + 1, PEER))
    assert kept is not None
    assert list(kept.stores) == [f"s{number}" for number in range(2 * MAX_STORES, 3 * MAX_STORES)]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"signature": "00" * 64}, "view.signature"),
        ({"signature": "00"}, "view.signature"),
        ({"generation": 5}, "view.signature"),
        ({"generation": 2**70}, "view.signature"),
        ({"identity": str(public(OTHER))}, "view.identity"),
        ({"online": "0000"}, "view.online"),
    ],
)
def test_a_seal_that_was_touched_is_refused_and_the_view_stays(change: dict[str, object], code: str) -> None:
    replica = holding(view(PEER))
    digest = replica.digest
    new = view(THIRD, generation=4)
    with pytest.raises(RemoteError) as caught:
        give(replica, *v.pack_view(new), msgspec.structs.replace(sealed(new), **change))
    assert caught.value.code == code
    assert replica.digest == digest


def test_rows_that_were_touched_do_not_fit_their_seal() -> None:
    replica = Replica((PIN,), KEY, None)
    (chunk,) = v.pack_view(view(PEER))
    assert not replica.chunk(msgspec.structs.replace(chunk, document="more"))
    with pytest.raises(RemoteError) as caught:
        replica.sealed(sealed(view(PEER)))
    assert caught.value.code == "view.mismatch"


def test_a_view_of_others_and_a_strangers_seal_are_refused() -> None:
    theirs = View(3, {PEER: ViewMember("peer", PEER)})
    for of, signed, code in (
        (theirs, sealed(theirs), "view.recipient"),
        (view(), v.sign_view(view(), public(OTHER), OTHER.sign), "view.identity"),
    ):
        with pytest.raises(RemoteError) as caught:
            give(Replica((PIN,), KEY, None), *v.pack_view(of), signed)
        assert caught.value.code == code


@pytest.mark.parametrize(
    "row",
    [
        w.ViewChunk(0, 1, [w.MemberRow("two words", str(KEY))], []),
        w.ViewChunk(0, 1, [w.MemberRow("name\n", str(KEY))], []),
        w.ViewChunk(0, 1, [w.MemberRow("name", "A" * 42 + "B=")], []),
        w.ViewChunk(0, 1, [], [w.LeaseRow("lan", str(KEY), ["10.0.0.256"])]),
        w.ViewDelta("00" * 32),
    ],
)
def test_bad_rows_are_refused_or_doubted(row: w.ViewChunk | w.ViewDelta) -> None:
    replica = Replica((PIN,), KEY, None)
    if isinstance(row, w.ViewDelta):
        assert replica.delta(row)
        return
    with pytest.raises(RemoteError) as caught:
        replica.chunk(row)
    assert caught.value.code == "view.bad"


def test_the_published_vector() -> None:
    """The one of docs/protocol.md."""
    laptop, nas = WireGuardKey(bytes(range(32))), PEER
    leases = {
        ("lan-party", laptop): Lease("lan-party", laptop, (ip_address("10.147.10.149"),)),
        ("lan-party", nas): Lease("lan-party", nas, (ip_address("10.147.10.10"), ip_address("fd2b::1"))),
    }
    members = {nas: ViewMember("nas", nas, online=True), laptop: ViewMember("laptop", laptop)}
    digest = "9d67a033e90472047d40afded0df3aac747e6ec0e7ed1c0d0f64f4175b79066a"
    assert v.view_digest(View(7, members, leases)) == digest
    assert sealed(View(7, members, leases)).online == "40"
    assert v.transcript(7, digest).hex() == (
        "0000000b" + b"netctl view".hex() + "00000008" + "0000000000000007" + "00000020" + digest
    )
    assert digest in (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


POOL = [PEER, THIRD, *(WireGuardKey(bytes([n]) * 32) for n in range(0x40, 0x44))]
STEP = st.tuples(st.sets(st.sampled_from(POOL)), st.sampled_from(["10.0.0.1", "10.0.0.2"]))


@given(st.lists(STEP, min_size=2, max_size=6), st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_is_lost_or_repeated_it_has_the_newest_view_or_knows_that_it_has_not(
    steps: list[tuple[set[WireGuardKey], str]], data: st.DataObject
) -> None:
    views = [view(*keys, generation=10 + n, address=where) for n, (keys, where) in enumerate(steps)]
    messages: list[w.Message] = whole(views[0])
    for old, new in pairwise(views):
        if v.view_digest(old) != v.view_digest(new):
            messages += [delta(old, new), sealed(new)]
    fate = data.draw(
        st.lists(st.sampled_from([0, 1, 1, 1, 2]), min_size=len(messages), max_size=len(messages))
    )
    replica, have, asked = Replica((PIN,), KEY, None), None, False
    for message, times in zip(messages, fate, strict=True):
        for _ in range(times):
            match message:
                case w.ViewChunk():
                    asked |= replica.chunk(message)
                case w.ViewDelta():
                    asked |= replica.delta(message)
                case w.Sealed():
                    try:
                        kept = replica.sealed(message)
                    except RemoteError:  # the whole one, and then another's seal: a new connection
                        replica, asked = Replica((PIN,), KEY, have), True
                        continue
                    if kept is None:
                        asked |= replica.doubted()
                    else:
                        have = kept
    known = {v.view_digest(each) for each in views}
    assert have is None or v.view_digest(have.view) in known
    newest = have is not None and v.view_digest(have.view) == v.view_digest(views[-1])
    lost_end = fate[-1] == 0
    assert newest or asked or lost_end
    last = give(replica, *whole(views[-1]))
    assert last is not None
    assert last.view == views[-1]


def test_parts_of_two_kinds_make_no_view() -> None:
    replica = Replica((PIN,), KEY, None)
    name = w.MemberRow("m17", str(KEY))
    assert not replica.chunk(w.ViewChunk(0, 2, [name], []))
    assert replica.chunk(w.ViewRows(1, 2, [], [w.Row("m34", str(PEER), "")]))
    assert replica.sealed(sealed(view(PEER))) is None
