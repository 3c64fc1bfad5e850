"""What membership decides, step by step: what it asks of the store, and what it makes of each answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core import admissions as a
from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core import transactions as c
from mediator.core.enrollment import Left, Redeem, Rekey
from mediator.core.kept import Kept, StoredDocument
from mediator.core.membershipservice import GATHER_S, QUICK_TRIES, Done, MembershipService, Terms
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document
from netctl.model.errors import LocalError, NetctlError, RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.wire import control as w
from netctl.wire.invite import parse_invite
from tests.mediator.test_admissions import LAN, NOW, document, host, identity, key

PRIVATE = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
UNIX_S = 5_000_000
"""By the relay's clock, which is another than the mediator's."""


class Desk:
    """A service whose store is asked by hand."""

    def __init__(self, **join: Any) -> None:
        pin = IdentityKey(PRIVATE.public_key().public_bytes_raw())
        self.service = MembershipService(h.Hub(pin, PRIVATE.sign, bytes(32), generation=1))
        self.invite = a.Invite("abcdef", LAN, 9, 0, NOW, NOW + 100)
        loaded = document(**join)
        self.perform(self.service.set_document(loaded, loaded.mediators[0], UNIX_S))

    def perform(self, effects: list[fx.Effect]) -> list[fx.Effect]:
        """What is left when the store has taken what the hub wants of it."""
        found: list[fx.Effect] = []
        for effect in effects:
            if isinstance(effect, fx.Store):
                wanted = (effect.leases, effect.ports, effect.pairs, effect.resting)
                found += self.perform(self.service.hub.stored(*wanted, UNIX_S))
            else:
                found.append(effect)
        return found

    def connect(self, number: int) -> None:
        self.service.hub.connected(number, SocketAddress("203.0.113.1", 5), bytes(32), 0.0)

    def asks(self, number: int) -> Redeem:
        self.connect(number)
        return Redeem(number, host(number, f"host{number}"))

    def verdict(self, change: c.Change[Any]) -> tuple[a.Verdict, int]:
        """What a store answers that carries it out."""
        assert isinstance(change, c.Redemption)
        return a.decide(change.document, self.service.book, self.invite, change.who, change.now_s), 0

    def joined(self, number: int) -> None:
        """A host comes in and is answered."""
        job = self.service.redeem(self.asks(number), NOW)
        finish(job, self.verdict(next(job)), now=10.0)
        self.perform(self.service.handle_timer(20.0, UNIX_S))


def finish(job: c.Job[Any], outcome: Any, now: float = 1.0) -> Any:
    """What a job ends with whose transaction was kept."""
    with pytest.raises(StopIteration) as end:
        job.send(c.Committed(outcome, now, UNIX_S))
    return end.value.value


def refuse(job: c.Job[Any], error: NetctlError) -> Any:
    """What a job ends with whose transaction was refused. Raises what it raises."""
    next(job)
    try:
        job.throw(error)
    except StopIteration as end:
        return end.value
    raise AssertionError("it asks for something else")


def without(gone: WireGuardKey, revoked: bool) -> a.Records:
    return a.Records(frozenset({gone}), revoked={gone: "shut"} if revoked else {})


def test_a_host_is_answered_once_the_others_can_see_it_and_many_cost_one_view() -> None:
    desk = Desk()
    jobs = [desk.service.redeem(desk.asks(number), NOW) for number in (10, 11)]
    asked = [next(job) for job in jobs]  # both wait for the store side by side
    assert isinstance(asked[0], c.Redemption)
    assert (asked[0].document, asked[0].now_s) == (desk.service.document, NOW)
    generation = desk.service.hub.generation
    for job, change, now in zip(jobs, asked, (1.0, 1.01), strict=True):
        said = finish(job, desk.verdict(change), now)
        assert [type(effect) for effect in said] == [fx.Say]
    assert desk.service.next_timer() == 1.0 + GATHER_S
    assert desk.service.handle_timer(1.0 + GATHER_S / 2, UNIX_S) == []
    assert desk.service.hub.generation == generation
    effects = desk.service.handle_timer(1.0 + GATHER_S, UNIX_S)
    answers = [effect for effect in effects if isinstance(effect, fx.Send)]
    assert effects[-2:] == answers, "behind the view in which the others see them"
    assert [answer.message for answer in answers] == [
        w.Enrolled("host10", "lan", admitted=True),
        w.Enrolled("host11", "lan", admitted=True),
    ]
    assert {"host10", "host11"} <= set(desk.service.hub.document.members)
    assert desk.service.next_timer() is None
    assert desk.service.handle_timer(9.0, UNIX_S) == []


def test_a_host_that_was_let_in_by_a_commit_whose_answer_was_lost_gets_its_answer_and_its_lease() -> None:
    desk = Desk()
    request = desk.asks(10)
    job = desk.service.redeem(request, NOW)
    verdict, _ = desk.verdict(next(job))
    with pytest.raises(StopIteration):
        job.throw(LocalError("the connection was lost"))
    book = a.Book().admitted(verdict)
    again = desk.service.redeem(request, NOW)
    next(again)
    there = a.decide(desk.service.document, book, desk.invite, request.applicant, NOW)
    assert not there.fresh
    reading = again.send(c.Committed((there, 0), 1.0, UNIX_S))
    assert reading == c.Reading(0), "it is in the store and not here"
    assert finish(again, Kept(book, {}, (), {}, 1, "s")) == []
    desk.perform(desk.service.news())
    desk.perform(desk.service.handle_timer(2.0, UNIX_S))
    assert desk.service.hub.addresses("lan", "host10", key(10))
    third = desk.service.redeem(request, NOW)
    next(third)
    (answer,) = finish(third, (there, 0))
    assert answer == fx.Send(10, w.Enrolled("host10", "lan", admitted=True)), "it is at once a member again"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RemoteError("used up", "invite.used-up"), "invite.used-up"),
        (LocalError("the disk is full"), "invite.store"),
    ],
)
def test_a_host_is_told_why_it_does_not_come_in(error: NetctlError, code: str) -> None:
    desk = Desk()
    book = desk.service.book
    (drop,) = refuse(desk.service.redeem(desk.asks(10), NOW), error)
    assert isinstance(drop, fx.Drop)
    assert drop.error.code == code
    assert str(error) in drop.error.message
    assert (desk.service.book, desk.service.next_timer()) == (book, None)


def test_a_member_that_takes_the_key_of_one_in_the_document_is_refused_before_the_store_is_asked() -> None:
    desk = Desk()
    desk.joined(10)
    desk.connect(20)
    job = desk.service.rekey(Rekey(20, key(10), key(1), identity(30)), NOW)
    with pytest.raises(StopIteration) as end:
        next(job)
    assert end.value.value[0].error.code == "rotate.taken"


def test_with_new_keys_the_lease_stays_and_the_relay_port_rests() -> None:
    desk = Desk()
    desk.joined(10)
    service = desk.service
    lease, port = service.hub.addresses("lan", "host10", key(10))[0], service.hub.relay_port(key(10))
    desk.connect(20)
    job = service.rekey(Rekey(20, key(10), key(30), identity(30)), NOW)
    assert next(job) == c.KeyChange(key(10), key(30), identity(30), NOW, None)
    (entry,) = service.book.admissions
    moved = a.Admission(key(30), identity(30), entry.name, entry.network, entry.invite, False, entry.joined_s)
    leases = {(network, key(30)): x for (network, of), x in service.book.leases.items() if of == key(10)}
    records = a.Records(frozenset({key(10), key(30)}), (moved,), {key(10): entry.name}, leases)
    assert finish(job, records) == [fx.Say("'host10' has new keys")]
    effects = desk.perform(service.handle_timer(2.0, UNIX_S))
    assert effects[-1] == fx.Send(20, w.Rotated("host10"))
    assert service.hub.addresses("lan", "host10", key(30))[0] == lease
    assert service.hub.relay_port(key(30)) not in (None, port)


def test_a_member_that_leaves_is_gone_for_the_others_and_stays_when_the_store_does_not_take_it() -> None:
    desk = Desk()
    desk.joined(10)
    (said,) = refuse(desk.service.leave(Left(10, key(10)), NOW), LocalError("the disk is full"))
    assert said == fx.Say("the disk is full")
    assert "host10" in desk.service.hub.document.members
    job = desk.service.leave(Left(10, key(10)), NOW)
    assert next(job) == c.Departure(key(10), NOW)
    desk.perform(finish(job, without(key(10), revoked=False)))
    assert "host10" not in desk.service.hub.document.members


def test_who_waits_is_approved_and_who_does_not_is_not_rejected() -> None:
    desk = Desk(approve="manual")
    desk.joined(10)
    service = desk.service
    assert service.hub.document.networks_of("host10") == ()
    job = service.approve("host10", "amy", NOW)
    assert next(job) == c.Approval(key(10), NOW, "amy")
    (entry,) = service.book.admissions
    admitted = a.Admission(entry.key, entry.identity, entry.name, entry.network, entry.invite, False)
    done = finish(job, a.Records(frozenset({entry.key}), (admitted,)))
    assert (done.name, [network.name for network in service.hub.document.networks_of("host10")]) == (
        "host10",
        ["lan"],
    )
    with pytest.raises(LocalError, match="does not wait"):
        next(service.reject("host10", "amy", NOW))


def test_a_revoked_member_is_dropped_by_what_its_revocation_ends_with() -> None:
    desk = Desk()
    desk.joined(10)
    job = desk.service.revoke("host10", "amy", NOW)
    assert next(job) == c.Revocation(key(10), "host10", NOW, "amy")
    generation = desk.service.hub.generation
    done = finish(job, without(key(10), revoked=True))
    assert "host10" not in desk.service.hub.document.members
    assert desk.service.hub.generation > generation
    assert isinstance(done, Done)


OPERATIONS: dict[str, Callable[[MembershipService], c.Job[Any]]] = {
    "invite": lambda service: service.invite(Terms("lan", 1, 60), "amy", NOW),
    "revoke_invite": lambda service: service.revoke_invite("abcdef", "amy", NOW),
    "approve": lambda service: service.approve("host10", "amy", NOW),
    "revoke": lambda service: service.revoke("host10", "amy", NOW),
    "reject": lambda service: service.reject("host10", "amy", NOW),
    "restore": lambda service: service.restore("host10", "amy", NOW),
    "rekey": lambda service: service.rekey_by_operator("host10", key(30), identity(30), "amy", NOW),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("cut", [True, False])
def test_what_the_store_refuses_or_never_answers_has_changed_nothing(name: str, cut: bool) -> None:
    desk = Desk(approve="manual")
    desk.joined(10)
    service = desk.service
    before = service.book, service.hub.generation, service.hub.document, service.hub.relay_port(key(10))
    job = OPERATIONS[name](service)
    if cut:
        next(job)
        job.close()  # the mediator is stopped meanwhile
    else:
        with pytest.raises(LocalError, match="disk is full"):
            refuse(job, LocalError("the disk is full"))
    after = service.book, service.hub.generation, service.hub.document, service.hub.relay_port(key(10))
    assert after == before
    assert service.next_timer() is None


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        (Terms("nowhere", 1, 60), "there are: lan, all"),
        (Terms("all", 1, 60), "lets nobody in by invite"),
        (Terms("lan", 0, 60), "1 to 10000 uses"),
        (Terms("lan", 10_001, 60), "1 to 10000 uses"),
        (Terms("lan", 2, 60, "nas"), "one use"),
        (Terms("lan", 1, 60, "No Name"), "a host name"),
        (Terms("lan", 1, 60, "home"), "is taken"),
        (Terms("lan", 1, 60, "host10"), "is taken"),
    ],
)
def test_an_invite_that_makes_no_sense_is_refused_before_the_store_is_asked(terms: Terms, says: str) -> None:
    desk = Desk()
    desk.joined(10)
    with pytest.raises(LocalError, match=says):
        next(desk.service.invite(terms, "amy", NOW))


def test_an_invite_names_this_mediator_first_and_expires_by_the_time_that_it_was_given() -> None:
    desk = Desk()
    job = desk.service.invite(Terms("lan", 3, 60, ""), "amy", NOW)
    assert next(job) == c.NewInvite(LAN, "lan", 3, NOW, NOW + 60, "", "amy")
    made, text, approve = finish(job, (desk.invite, bytes(16)))
    assert (made, approve) == (desk.invite, "auto")
    assert parse_invite(text).mediators[0] == desk.service.mediator


def test_a_document_that_cannot_be_loaded_leaves_the_one_before_in_force() -> None:
    desk = Desk()
    before = desk.service.document
    broken = object.__new__(Document)  # no input makes one: what raises is a fault of ours
    with pytest.raises(AttributeError):
        desk.service.set_document(broken, document().mediators[0], UNIX_S)
    assert desk.service.document is before


def test_a_book_that_the_store_has_after_a_doubt_is_the_one_that_counts() -> None:
    desk = Desk()
    desk.joined(10)
    kept = Kept(desk.service.book.changed(without(key(10), revoked=True)))
    desk.perform(desk.service.read_again(kept, UNIX_S))
    assert "host10" not in desk.service.hub.document.members
    assert desk.service.find("shut") == (key(10), "shut")


def wanted(effects: list[fx.Effect]) -> fx.Store:
    (found,) = (effect for effect in effects if isinstance(effect, fx.Store))
    return found


def unstored() -> tuple[Desk, fx.Store]:
    """A service whose hub has asked for all that its document needs, of a store that has nothing."""
    desk = Desk()
    return desk, wanted(desk.service.read_again(Kept(), UNIX_S))


def outdated(desk: Desk, asked: fx.Store, kept: Kept) -> list[fx.Effect]:
    """What comes of a choice that another mediator was first with, once the store was read."""
    job = desk.service.grant(asked)
    change = next(job)
    assert isinstance(change, c.Grant)
    assert job.throw(c.Outdated("taken")) == c.Reading(0)
    found: list[fx.Effect] = finish(job, kept)
    return [*desk.service.news(), *found]


def test_what_somebody_else_has_taken_is_chosen_anew_at_once_from_what_the_store_has() -> None:
    desk, asked = unstored()
    (key_of, port), *others = asked.ports
    taken = Kept(a.Book(), ports={key(77): port})
    again = wanted(outdated(desk, asked, taken))
    assert dict(again.ports)[key_of] != port
    assert len(again.ports) == 1 + len(others)
    job = desk.service.grant(again)
    next(job)
    assert not any(isinstance(effect, fx.Store) for effect in finish(job, 0)), "and that is all"


def test_a_store_that_says_so_for_ever_is_asked_again_later() -> None:
    desk, asked = unstored()
    for _ in range(QUICK_TRIES):
        asked = wanted(outdated(desk, asked, Kept()))
    job = desk.service.grant(asked)
    next(job)
    with pytest.raises(c.Outdated):
        job.throw(c.Outdated("taken"))


def test_a_reading_that_began_before_an_own_change_is_read_again() -> None:
    """Of two states of a store without numbers nothing tells which is the later one."""
    desk = Desk()
    desk.joined(10)
    reading = desk.service.look_again()
    assert next(reading) == c.Reading(0)
    before = desk.service.book
    change = desk.service.revoke("host10", "amy", NOW)
    next(change)
    finish(change, without(key(10), revoked=True))
    assert reading.send(c.Committed(Kept(before), 1.0, UNIX_S)) == c.Reading(0)
    finish(reading, Kept(before.changed(without(key(10), revoked=True))))
    desk.perform(desk.service.news())
    assert key(10) in desk.service.book.revoked


def shared_desk(number: int) -> Desk:
    """A service that shares its store, which has the state of this number."""
    desk = Desk()
    desk.service.shared = True
    desk.service.hub.follow(number)
    desk.service.number = number
    return desk


def test_a_store_that_lost_states_gets_a_number_above_all_that_were_shown_and_is_read() -> None:
    """A standby that lagged was promoted: else two mediators would show one number with different content."""
    desk = shared_desk(100)
    job = desk.service.poll()
    assert isinstance(next(job), c.Look)
    change = job.send(c.Committed(97, 1.0, UNIX_S))
    assert change == c.Raise(101)
    assert isinstance(job.send(c.Committed(None, 1.0, UNIX_S)), c.Reading)
    book = a.Book(revoked={key(7): "host7"})
    finish(job, Kept(book, generation=101))
    assert (desk.service.number, desk.service.book) == (101, book)
    assert any(
        isinstance(effect, fx.Say) and "has lost states" in effect.text for effect in desk.service.news()
    )


def test_a_revocation_that_makes_a_number_which_was_shown_before_takes_effect() -> None:
    desk = shared_desk(100)
    job = desk.service._revoke(c.Revocation(key(5), "host5", NOW, "amy"))
    assert isinstance(next(job), c.Revocation)
    revoked = a.Book(revoked={key(5): "host5"})
    records = a.Records(frozenset({key(5)}), (), revoked.revoked, number=98)
    assert isinstance(job.send(c.Committed(records, 1.0, UNIX_S)), c.Look)
    assert job.send(c.Committed(98, 1.0, UNIX_S)) == c.Raise(101)
    assert isinstance(job.send(c.Committed(None, 1.0, UNIX_S)), c.Reading)
    finish(job, Kept(replace(revoked, number=101), generation=101))
    assert key(5) in desk.service.book.revoked


def test_a_number_that_another_reading_has_shown_meanwhile_is_no_loss() -> None:
    desk = shared_desk(100)
    job = desk.service.poll()
    next(job)
    desk.service.number = 105
    finish(job, 102)
    assert desk.service.number == 105


def told_while_away(job: c.Job[Any], outcome: Any) -> Any:
    """As `finish`, where the state of the commit cannot be read: the store has gone away."""
    next(job)
    assert isinstance(job.send(c.Committed(outcome, 1.0, UNIX_S)), c.Reading)
    with pytest.raises(StopIteration) as end:
        job.throw(LocalError("the store is away"))
    return end.value.value


def test_own_changes_that_finish_out_of_order_while_the_store_is_away_show_the_later_one() -> None:
    desk = shared_desk(100)
    revoke, restore = (
        desk.service._revoke(c.Revocation(key(5), "host5", NOW, "amy")),
        desk.service._show(c.Restoration(key(5), NOW, "amy"), "host5"),
    )
    next(revoke)  # it makes 101; another mediator makes 102
    told_while_away(restore, replace(without(key(5), revoked=False), number=103))
    finish(revoke, replace(without(key(5), revoked=True), number=101))
    assert key(5) not in desk.service.book.revoked
    reading = desk.service.look_again()
    next(reading)
    finish(reading, Kept(a.Book(), generation=103))
    again = desk.service._revoke(c.Revocation(key(5), "host5", NOW, "amy"))
    next(again)
    finish(again, replace(without(key(5), revoked=True), number=104))
    assert key(5) in desk.service.book.revoked


def test_an_admission_that_finishes_after_a_later_revocation_of_the_same_member_lets_nobody_in() -> None:
    desk = shared_desk(100)
    redeem = desk.service.redeem(desk.asks(10), NOW)
    verdict, _ = desk.verdict(next(redeem))  # it makes 101; another mediator makes 102
    leave = desk.service.leave(fx.Left(11, key(10)), NOW)
    told_while_away(leave, replace(without(key(10), revoked=False), number=103))
    finish(redeem, (verdict, 101))
    assert desk.service.book.admissions == ()


def test_of_a_change_of_keys_that_finishes_late_the_part_without_a_later_change_counts() -> None:
    desk = shared_desk(100)
    entry = desk.verdict(next(desk.service.redeem(desk.asks(10), NOW)))[0].admission
    desk.service.book = a.Book((entry,))
    new, leases = replace(entry, key=key(11)), {(LAN, key(11)): IPv4Address("10.0.0.9")}
    changed = a.Records(frozenset({key(10), key(11)}), (new,), {}, leases, 101)
    rekey = desk.service._rekey(c.KeyChange(key(10), key(11), entry.identity, NOW, None))
    next(rekey)
    revoke = desk.service._revoke(c.Revocation(key(11), "host10", NOW, "amy"))
    told_while_away(revoke, a.Records(frozenset({key(11)}), (new,), {key(11): "host10"}, None, 103))
    finish(rekey, changed)
    assert desk.service.book == a.Book((new,), {key(11): "host10"})


@pytest.mark.parametrize("refused", [False, True])
def test_a_document_that_was_read_elsewhere_is_not_read_again(refused: bool) -> None:
    """The shell reads a long one in a thread."""
    desk = shared_desk(100)
    before, loaded = desk.service.document, document(approve="manual")
    answer = LocalError("it is too long") if refused else (loaded, loaded.mediators[0])
    found = StoredDocument(101, "another", "no document", accepted=answer)
    desk.perform(desk.service.read_again(Kept(desk.service.book, generation=101, document=found), UNIX_S))
    assert desk.service.document is (before if refused else loaded)
    assert desk.service.refusal == ("it is too long" if refused else None)
