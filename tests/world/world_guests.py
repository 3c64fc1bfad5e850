"""Hosts that come by invite, and an operator who lets them in and shuts them out, while the mediator dies in between.

Whatever somebody was told must explain the end: nobody who was told that he is a member is none, nobody is shut out
and in, and no invite lets in more than its uses.
"""

from __future__ import annotations

import json

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mediator.core import admissions as a
from mediator.core.membershipservice import Terms
from netctl.config import load_document
from netctl.model.document import Document
from netctl.model.keys import WireGuardKey
from netctl.wire import control as w
from netctl.wire.frame import encode_frame
from netctl.wire.invite import parse_invite
from tests.world.world_crowd import JUMPS_S, SETTLE_S, Crowd, CrowdMember
from tests.world.world_enrol import Applicant
from tests.world.world_mediator import ADDRESS
from tests.world.world_net import End

TURNS = 25
AGAIN_S = 3.0
"""A host that got no answer asks again with the same invite."""
BY = "amy"


class Guest(CrowdMember):
    """A host without a document."""

    def __init__(self, number: int, crowd: Guests, token: bytes) -> None:
        super().__init__(number, crowd)
        self.name = f"g{number}"
        self._guests = crowd
        private = X25519PrivateKey.from_private_bytes(crowd.chance.randbytes(32))
        self._applicant = Applicant(
            crowd.net, self.site, token, private, self._login, self._enrolled, self._refused
        )
        self.key = self._applicant.key
        self.told: w.Enrolled | None = None
        self.refusal = ""
        """Why it does not come in."""
        self.going = False
        """It has said that it leaves."""
        self._asking: End | None = None

    def enrol(self) -> None:
        """One try; the next follows by itself."""
        crowd = self._guests
        if self.told is not None or self.refusal:
            return
        crowd.clock.after(AGAIN_S, self.enrol)
        if crowd.mediator.life is None:
            return
        if self._asking is not None:
            self._asking.close()
        self._asking = self._applicant.ask(crowd.mediator)

    def _refused(self, code: str) -> None:
        self.refusal = code

    def _enrolled(self, told: w.Enrolled) -> None:
        if self.told is None:
            self.told, self.name = told, told.name
            self._guests.clock.say(f"{told.name} is told that it joined '{told.network}'")
            self.connect()

    def say_goodbye(self) -> None:
        """`netctl leave`."""
        if self._end is not None and self.session is not None and self.view is not None:
            self.going = True
            self._end.write(encode_frame(w.encode(w.Leave())))


class Guests(Crowd):
    """A few members of the document, and whoever joins."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, 4)
        self.guests: list[Guest] = []
        self.tokens: dict[str, bytes] = {}
        """Of invites that the operator was given."""
        self.approved: set[WireGuardKey] = set()
        self.shut_out: set[WireGuardKey] = set()
        """What the operator was told is done."""
        self.asked_out: set[WireGuardKey] = set()
        """What he asked for, told or not."""
        self.replaced: set[WireGuardKey] = set()

    def write(self, *, hostile: bool = False) -> Document:
        """`open` takes who has an invite, `gate` whom the operator approves."""
        members = {
            member.name: {"wireguard": str(member.key), "identity": str(member.identity)}
            for member in self.members
        }
        networks = {
            name: {
                "mode": "routed",
                "ipv4": pool,
                "members": list(members),
                "join": {"invites": True, "approve": approve},
            }
            for name, pool, approve in (("open", "10.1.0.0/24", "auto"), ("gate", "10.2.0.0/24", "manual"))
        }
        text = {
            "apiVersion": "netctl/v1",
            "id": "gsts-0001",
            "mediators": [{"url": f"netctl://{ADDRESS}:8443", "identity": [str(self.mediator.identity)]}],
            "members": members,
            "networks": networks,
        }
        return load_document(json.dumps(text)).document

    def configure(self, member: CrowdMember) -> None:
        """The crowd's own stories look at that."""

    # -- what happens -----------------------------------------------------------------------------------------

    def story(self) -> None:
        """People ask for things, and the mediator dies at each of them."""
        for _ in range(TURNS):
            self.chance.choice([self._invite, self._come, self._come, self._decide, self._mishap])()
            self.run(self.chance.choice([0.01, 0.1, 1.0, 4.0]))

    def _invite(self) -> None:
        terms = Terms(self.chance.choice(["open", "gate"]), self.chance.randint(1, 3), 3600)

        def given(made: tuple[a.Invite, str, str]) -> None:
            self.tokens[made[0].id] = parse_invite(made[1]).token

        self.mediator.operate(lambda service, now_s: service.invite(terms, BY, now_s), given)

    def _come(self) -> None:
        if not self.tokens:
            self._invite()
            return
        for _ in range(self.chance.choice([1, 1, 3])):
            token = self.chance.choice(list(self.tokens.values()))
            guest = Guest(100 + len(self.guests), self, token)
            self.guests.append(guest)
            guest.enrol()

    def _decide(self) -> None:
        there = [guest for guest in self.guests if guest.told is not None and guest.key not in self.replaced]
        if not there:
            self._come()
            return
        guest = self.chance.choice(there)
        who = str(guest.key)
        match self.chance.randrange(5):
            case 0 | 1:
                self.mediator.decide(
                    lambda service, now_s: service.approve(who, BY, now_s),
                    lambda _: self.approved.add(guest.key),
                )
            case 2:
                self.asked_out.add(guest.key)
                self.mediator.decide(
                    lambda service, now_s: service.revoke(who, BY, now_s),
                    lambda _: self._note_shut(guest.key),
                )
            case 3:
                guest.say_goodbye()
            case _:
                self._replace(guest)

    def _note_shut(self, key: WireGuardKey) -> None:
        self.shut_out.add(key)

    def _replace(self, guest: Guest) -> None:
        """A reinstalled machine."""
        fresh = Guest(100 + len(self.guests), self, b"")
        self.guests.append(fresh)
        fresh.refusal = "it does not ask"
        self.asked_out.add(guest.key)
        self.replaced.add(guest.key)

        def moved(name: str) -> None:
            fresh.told, fresh.name = guest.told, name
            self.shut_out.add(guest.key)
            fresh.connect()

        self.mediator.decide(
            lambda service, now_s: service.rekey_by_operator(
                str(guest.key), fresh.key, fresh.identity, BY, now_s
            ),
            moved,
        )

    def _mishap(self) -> None:
        mediator, soon = self.mediator, self.chance.uniform(0.5, 5)
        match self.chance.randrange(6):
            case 0:
                mediator.crash()
                self.clock.after(soon, mediator.start)
            case 1 | 2:
                mediator.crash_at_store = self.chance.choice(["before", "after", "doubt", "doubt"])
                self.clock.after(soon, mediator.start)
            case 3:
                mediator.store.full = True
                self.clock.after(soon, self._room)
            case 4:
                mediator.skew_s = self.chance.choice((0, *JUMPS_S))
            case _:
                mediator.forget_all()

    def end(self) -> None:
        """All faults end; who still asks is answered, and all see one another."""
        self.mediator.skew_s = 0
        self.heal_store()
        self.mediator.start()
        self.run(SETTLE_S)

    def heal_store(self) -> None:
        """The disk has room and the process lives on."""
        self._room()
        self.mediator.crash_at_store = None

    # -- what must hold ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """What everybody was told explains what is."""
        book, life = self.mediator.store.book(), self.mediator.life
        assert life is not None
        known = life.service.book  # its leases are the hub's, which grants others too
        assert (known.admissions, known.revoked) == (book.admissions, book.revoked), "not what its store says"
        entries = {entry.key: entry for entry in book.admissions}
        for guest in self.guests:
            if guest.told is None:
                assert guest.refusal, f"{guest.name} was never answered"
                continue
            gone = guest.key in self.asked_out or guest.going
            assert gone or guest.key in entries, f"{guest.name} was told that it is a member and is none"
            if guest.key in self.approved and not gone:
                assert not entries[guest.key].pending, f"{guest.name} was approved and waits"
            if guest.told.admitted and not gone:
                assert life.hub.addresses("open", guest.name, guest.key), f"{guest.name} has no address"
            member = life.hub.document.members.get(guest.name)
            active = guest.key in entries and guest.key not in book.revoked
            assert life.hub.is_online(guest.key) == active, (guest.name, active, member)
            if active:
                told, view = life.hub.view(guest.key), guest.view
                assert view is not None
                assert (dict(view.members), dict(view.leases)) == (dict(told.members), dict(told.leases))
        for key in self.shut_out:
            assert key in book.revoked, "somebody was shut out and is not"
            assert key not in entries
        for key in book.revoked:
            assert key in self.asked_out, "nobody asked for that"
            assert not life.hub.is_online(key)
        self._check_invites(book)
        ports = self.mediator.store.ports
        assert len(set(ports.values())) == len(ports)
        assert not set(ports.values()) & self._resting(), "a port that rests is somebody's"

    def _resting(self) -> set[int]:
        now_s = self.clock.unix
        return {port for port, until_s in self.mediator.store.resting.items() if until_s > now_s}

    def _check_invites(self, book: a.Book) -> None:
        for invite in self.mediator.store.invites():
            came = [entry for entry in book.admissions if entry.invite == invite.id]
            assert len(came) <= invite.used <= invite.uses, f"an invite of {invite.uses} let in {len(came)}"
