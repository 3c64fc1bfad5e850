"""Hosts that come by invite to any of several mediators, and an operator who works at any of them.

An invite is made at one mediator and used at another, by two hosts at once at two, and revoked while it is used.
Whatever somebody was told holds from that moment on: the store may lose what nobody was told, and nothing else.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mediator.core import admissions as a
from mediator.core.kept import Kept
from mediator.core.membershipservice import Terms
from netctl.model.document import Document
from netctl.model.keys import WireGuardKey
from netctl.wire import control as w
from netctl.wire.invite import parse_invite
from tests.world.world_clock import Clock
from tests.world.world_enrol import Applicant
from tests.world.world_net import End, Internet, Site
from tests.world.world_shared import Backend, SharedMediator

OPEN, GATE = "open", "gate"
NETWORKS: dict[str, dict[str, Any]] = {
    name: {"mode": "routed", "ipv4": pool, "members": [], "join": {"invites": True, "approve": approve}}
    for name, pool, approve in ((OPEN, "10.4.0.0/24", "auto"), (GATE, "10.5.0.0/24", "manual"))
}
"""Nobody is in them but who was invited."""
AGAIN_S = 3.0
"""A host that got no answer asks again, the mediator that comes next."""
LIFE_S = 3600
BY = "amy"


class Joiner:
    """A host without a document, and what it was told."""

    def __init__(self, number: int, invites: Invites, token: bytes, *, both: bool) -> None:
        """`both`: it asks two mediators at once, as a program that is started twice."""
        self._invites, self._both, self._turn = invites, both, number
        net, chance = invites.net, invites.chance
        site = Site(f"203.0.113.{100 + number}", False, chance.uniform(0.001, 0.03))
        private = X25519PrivateKey.from_private_bytes(chance.randbytes(32))
        login = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        self.applicant = Applicant(net, site, token, private, login, self._enrolled, self._refused)
        self.key = self.applicant.key
        self.told: w.Enrolled | None = None
        self.refusal = ""
        self._asking: list[End] = []

    @property
    def done(self) -> bool:
        """Whether it asks no more."""
        return self.told is not None or bool(self.refusal)

    def ask(self) -> None:
        """One try; the next follows by itself."""
        if self.done:
            return
        for end in self._asking:
            end.close()
        self._asking.clear()
        self._invites.clock.after(AGAIN_S, self.ask)
        self._turn += 1
        there = self._invites.mediators
        for number in range(self._turn, self._turn + (2 if self._both else 1)):
            mediator = there[number % len(there)]
            if mediator.serves and mediator.powered:
                self._asking.append(self.applicant.ask(mediator))

    def _enrolled(self, told: w.Enrolled) -> None:
        if self.told is not None:
            assert (told.name, told.network) == (self.told.name, self.told.network), (
                "one host is told two things"
            )
            return
        self.told, self.refusal = told, ""
        self._invites.joined(self)

    def _refused(self, code: str) -> None:
        if self.told is None:
            self.refusal = code
            self._invites.tally[code] += 1


class Invites:
    """All invites of a world, the hosts that use them, and the operator."""

    def __init__(
        self,
        chance: random.Random,
        clock: Clock,
        net: Internet,
        mediators: Sequence[SharedMediator],
        backend: Backend,
    ) -> None:
        self.chance, self.clock, self.net = chance, clock, net
        self.mediators, self.backend = mediators, backend
        self.joiners: list[Joiner] = []
        self.tokens: dict[str, bytes] = {}
        """Of invites that the operator was given, by identifier."""
        self.tally: Counter[str] = Counter()
        self._closed: dict[str, frozenset[WireGuardKey]] = {}
        """Revoked invites, as the operator was told, and who had come by them until then."""
        self._approved: set[WireGuardKey] = set()
        self._shut_out: set[WireGuardKey] = set()
        """What the operator was told is done."""
        self._asked_out: set[WireGuardKey] = set()
        """What he asked for, told or not."""
        backend.wrote = self._wrote
        for mediator in mediators:
            mediator.shown = self._shown

    # -- what happens -----------------------------------------------------------------------------------------

    def act(self) -> None:
        """People ask for something, at any mediator that serves."""
        self.chance.choice((self._invite, self._come, self._race, self._close, self._decide, self._decide))()

    def _operator(self) -> SharedMediator | None:
        there = [one for one in self.mediators if one.serves]
        return self.chance.choice(there) if there else None

    def _invite(self, uses: int = 0) -> None:
        at = self._operator()
        terms = Terms(self.chance.choice((OPEN, GATE)), uses or self.chance.randint(1, 3), LIFE_S)

        def given(made: tuple[a.Invite, str, str]) -> None:
            self.tokens[made[0].id] = parse_invite(made[1]).token
            self._come(made[0].id)

        if at is not None:
            at.operate(lambda service, now_s: service.invite(terms, BY, now_s), given)

    def _come(self, identifier: str = "", count: int = 0) -> None:
        if not self.tokens:
            self._invite()
            return
        token = self.tokens[identifier or self.chance.choice(list(self.tokens))]
        for _ in range(count or self.chance.choice((1, 1, 3))):
            joiner = Joiner(len(self.joiners), self, token, both=self.chance.random() < 0.3)
            self.joiners.append(joiner)
            joiner.ask()

    def _race(self) -> None:
        """More hosts than it has uses use an invite at the same moment, at all mediators."""
        if self.tokens:
            self._come(count=4)
        else:
            self._invite(uses=1)

    def _close(self) -> None:
        """An invite is revoked, in half of the cases while it is used."""
        at = self._operator()
        if at is None or not self.tokens:
            self._invite()
            return
        identifier = self.chance.choice(list(self.tokens))
        if self.chance.random() < 0.5:
            self._come(identifier)

        def told(_: str) -> None:
            self.tally["closed"] += 1
            self._closed[identifier] = self._came_by(identifier, self.backend.store.kept())

        delay_s = self.chance.uniform(0, 0.3)
        self.clock.after(
            delay_s,
            lambda: at.operate(
                lambda service, now_s: service.revoke_invite(identifier, BY, now_s), told
            ) if at.serves else None,
        )  # fmt: skip

    def _decide(self) -> None:
        at, there = self._operator(), [one for one in self.joiners if one.told is not None]
        if at is None or not there:
            self._come()
            return
        joiner = self.chance.choice(there)
        who = str(joiner.key)
        if self.chance.random() < 0.6:
            at.decide(
                lambda service, now_s: service.approve(who, BY, now_s), lambda _: self._was_approved(joiner)
            )
        else:
            self._asked_out.add(joiner.key)
            at.decide(
                lambda service, now_s: service.revoke(who, BY, now_s), lambda _: self._was_revoked(joiner)
            )

    # -- what somebody was told ---------------------------------------------------------------------------------

    def joined(self, joiner: Joiner) -> None:
        """A host was told that it is a member."""
        self.tally["joined"] += 1
        assert joiner.told is not None
        self.clock.say(f"{joiner.told.name} is told that it joined '{joiner.told.network}'")
        self._wrote(self.backend.store.kept())

    def _was_approved(self, joiner: Joiner) -> None:
        self.tally["approved"] += 1
        self._approved.add(joiner.key)
        self._wrote(self.backend.store.kept())

    def _was_revoked(self, joiner: Joiner) -> None:
        self.tally["shut out"] += 1
        self._shut_out.add(joiner.key)
        self._wrote(self.backend.store.kept())

    # -- what must hold -------------------------------------------------------------------------------------------

    @staticmethod
    def _came_by(identifier: str, kept: Kept) -> frozenset[WireGuardKey]:
        return frozenset(entry.key for entry in kept.book.admissions if entry.invite == identifier)

    def _wrote(self, kept: Kept) -> None:
        """After each write: the store explains what everybody was told."""
        entries = {entry.key: entry for entry in kept.book.admissions}
        for joiner in self.joiners:
            if joiner.told is None or joiner.key in self._asked_out:
                continue
            entry = entries.get(joiner.key)
            assert entry is not None, f"{joiner.told.name} was told that it is a member and is none"
            assert entry.name == joiner.told.name
            if joiner.key in self._approved:
                assert not entry.pending, f"{entry.name} was approved and waits"
        assert len({entry.name for entry in entries.values()}) == len(entries), "two hosts have one name"
        for key in self._shut_out:
            assert key in kept.book.revoked, "the operator was told that somebody is shut out, who is not"
            assert key not in entries
        assert set(kept.book.revoked) <= self._asked_out, "somebody is shut out, and nobody asked for that"
        for invite in self.backend.store.invites():
            came = self._came_by(invite.id, kept)
            assert len(came) <= invite.used <= invite.uses, f"an invite of {invite.uses} let in {len(came)}"
            closed = self._closed.get(invite.id)
            assert closed is None or came <= closed, "an invite lets in after its revocation"

    def _shown(self, mediator: SharedMediator) -> None:
        """Whoever waits for approval, or is shut out, is in no network at any mediator."""
        assert mediator.life is not None
        service, document = mediator.life.service, mediator.life.hub.document
        for entry in service.book.admissions:
            if entry.pending:
                self.tally["waits"] += 1
                assert not networks_of(document, entry.key), f"{entry.name} waits, and is in a network"
        for key in service.book.revoked:
            assert not networks_of(document, key), "who is shut out is in a network"
            assert not mediator.life.hub.is_online(key)

    def unsettled(self) -> list[str]:
        """What is not yet as it should be in the end."""
        kept, wrong = self.backend.store.kept(), []
        entries = {entry.key: entry for entry in kept.book.admissions}
        uses = {invite.id: invite for invite in self.backend.store.invites()}
        for number, joiner in enumerate(self.joiners):
            if not joiner.done:
                wrong.append(f"the host {number} that has an invite was never answered")
            elif joiner.refusal == "invite.used-up":
                identifier = next(
                    one for one, token in self.tokens.items() if token == joiner.applicant.token
                )
                assert uses[identifier].used == uses[identifier].uses, (
                    "an invite is called used up, and is not"
                )
            elif joiner.refusal == "invite.unknown":
                identifier = next(
                    one for one, token in self.tokens.items() if token == joiner.applicant.token
                )
                assert uses[identifier].revoked, "an invite is called unknown, and is not"
        for mediator in self.mediators:
            life = mediator.life
            if life is None:
                wrong.append(f"{mediator.name} does not live")
                continue
            if (
                life.service.book.admissions != kept.book.admissions
                or life.service.book.revoked != kept.book.revoked
            ):
                wrong.append(f"{mediator.name} knows other guests than the store")
                continue
            for entry in entries.values():
                active = not entry.pending and entry.key not in kept.book.revoked
                there = networks_of(life.hub.document, entry.key)
                if bool(there) != active:
                    wrong.append(f"{mediator.name} has {entry.name} in {sorted(there)}")
                for network in there:
                    if not life.hub.addresses(network, entry.name, entry.key):
                        wrong.append(f"{mediator.name} has no address for {entry.name}")
        return wrong


def networks_of(document: Document, key: WireGuardKey) -> set[str]:
    """The networks in which this key is."""
    member = document.member_by_key(key)
    return {network.name for network in document.networks_of(member.name)} if member is not None else set()
