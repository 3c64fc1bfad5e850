"""Stories of members behind boxes of all kinds: who must be direct is, everybody has a path, and nothing flaps.

The path managers, the relay's table and the codecs are the product's; the internet between them is `pathsim`, the
boxes are `world_boxes`. One seed is one story; `tell` gives what was wrong with it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from netctl.paths import constants as c
from tests.support.pathsim import Host, World
from tests.world.world_boxes import KINDS, SHORT_TIMEOUT_S, TIMEOUT_S, Box, Kind, Verdict, Way, seen, theory

DIRECT_S = 5.0
"""From login to the direct path of a pair that theory lets connect, without loss: gathering (0.6 s), the mediator's
word, the first series of probes (3.2 s)."""
UNLUCKY_S = 90.0
"""The same where packets are lost or ports are guessed: rounds are repeated after 15 and 30 s."""
RECOVERED_S = 240.0
"""After a box forgot or moved, a cut or a mediator that was gone: STUN tells of a new address within 25 s, rounds that
found nothing are up to 120 s apart by then."""
QUIET_S = 60.0
HEARD_S = 2.0
"""Packets go each second: the last one that came is no older."""
PACKETS_A_MINUTE = 1000
"""What a quiet pair sends at most, both ways, without a guess: data, pings, STUN, the relay. Seen: below 700."""
GUESS_PACKETS = 4 * (c.BIRTHDAY_PROBES + c.BIRTHDAY_SOCKETS)
"""More than one attempt costs; there is one an hour."""
MAPPINGS = 2 * c.BIRTHDAY_SOCKETS + 200
"""Of a box at any time, whatever the hosts behind it try."""
KIND_NAMES = list(KINDS)
LOSSES = (0.0, 0.0, 0.0, 0.02, 0.1)
CHANGES = {0.0: 0, 0.02: 2, 0.1: 5}
"""Of endpoints in a quiet minute, a peer, by loss: three pings lost in a row are a path that is silent."""
JITTERS = (0.0, 0.0, 0.5)


@dataclass
class Member:
    """A host, and the boxes in front of it as theory sees them."""

    host: Host
    way: Way | None
    kinds: tuple[Kind, ...]

    @property
    def kind(self) -> Kind:
        """All of them as one."""
        return seen(self.kinds)


class Story:
    """A world drawn by a seed. `kinds` names the kind of each member's own box instead."""

    def __init__(
        self,
        seed: int,
        kinds: Iterable[str] = (),
        *,
        sabotage: Callable[[Story], None] = lambda story: None,
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.wrong: list[str] = []
        self.sabotage = sabotage
        self.world = World(seed, loss=self.chance.choice(LOSSES))
        self.world.jitter = self.chance.choice(JITTERS)
        self.members: list[Member] = []
        self._publics = (f"203.0.113.{number}" for number in itertools.count(1))
        self._carriers: list[Box] = []
        names = list(kinds)
        self.alone = bool(names)
        if not names:
            count = self.chance.choice((2, 2, 2, 3, 4))
            names = [self.chance.choice(KIND_NAMES) for _ in range(count)]
        for name in names:
            self._member(KINDS[name])

    # --- drawing ---

    def _box(self, kind: Kind, public: str) -> Box:
        return Box(
            kind,
            public,
            self.chance,
            lambda: self.world.now,
            hairpin=self.chance.random() < 0.5,
            timeout_s=self.chance.choice((SHORT_TIMEOUT_S, TIMEOUT_S)),
        )

    def _member(self, kind: Kind) -> None:
        number = len(self.members)
        name = "abcd"[number]
        earlier = [member for member in self.members if member.way is not None and member.kinds[0].translates]
        if earlier and not self.alone and self.chance.random() < 0.2:
            home = self.chance.choice(earlier)  # one home, two hosts
            address = f"192.168.1.{10 + number}"
            self._add(name, address, home.way, home.kinds)
            return
        if kind.name == "open":
            self._add(name, next(self._publics), None, (kind,))
            return
        if not kind.translates:
            public = next(self._publics)
            self._add(name, public, self._way([self._box(kind, public)]), (kind,))
            return
        kinds: tuple[Kind, ...] = (kind,)
        boxes: list[Any] = []
        if not self.alone and self.chance.random() < 0.25:
            carrier = self._carrier()
            boxes = [self._box(kind, f"100.64.0.{10 + number}"), carrier]
            kinds = (kind, carrier.kind)
        else:
            boxes = [self._box(kind, next(self._publics))]
        # Many homes number their hosts alike.
        self._add(name, self.chance.choice(("192.168.1.10", f"10.0.{number}.7")), self._way(boxes), kinds)

    def _carrier(self) -> Box:
        if not self._carriers or self.chance.random() < 0.5:
            kind = KINDS[self.chance.choice(("port-restricted", "full-cone", "port-changed", "port-block"))]
            self._carriers.append(self._box(kind, next(self._publics)))
        return self.chance.choice(self._carriers)

    def _way(self, boxes: list[Box]) -> Way:
        way = Way(boxes, isolated=not self.alone and self.chance.random() < 0.3)
        way.blocked = lambda other: frozenset((way.public, other.host)) in self.world.cut
        return way

    def _add(self, name: str, address: str, way: Way | None, kinds: tuple[Kind, ...]) -> None:
        host = self.world.host(name, address, way)
        host.no_udp = any(kind.blocked for kind in kinds)
        self.members.append(Member(host, way, kinds))

    # --- what theory wants ---

    def verdict(self, one: Member, other: Member) -> Verdict:
        """Of a pair."""
        if one.way is not None and one.way is other.way and not one.way.isolated and not one.host.no_udp:
            return Verdict.DIRECT  # by the LAN
        if one.way is not None and other.way is not None and one.way.public == other.way.public:
            return theory(one.kind, other.kind) if one.way.boxes[-1].hairpin else Verdict.RELAYED
        return theory(one.kind, other.kind)

    def pairs(self) -> list[tuple[Member, Member]]:
        """Each once."""
        return list(itertools.combinations(self.members, 2))

    # --- telling ---

    def tell(self) -> list[str]:
        """The story; what was wrong."""
        world = self.world
        world.start()
        self.sabotage(self)
        world.run(DIRECT_S if not world.loss else UNLUCKY_S)
        self._judge("at first", guesses=bool(world.loss))
        world.run(UNLUCKY_S)
        self._judge("later", guesses=True)
        self._quiet("at first")
        self._event()
        world.run(RECOVERED_S)
        self._judge("after what happened", guesses=False)
        self._quiet("after what happened")
        return self.wrong

    def say(self, text: str) -> None:
        """Something was wrong."""
        who = ", ".join(f"{member.host.name}: {member.kind.name}" for member in self.members)
        self.wrong.append(f"seed {self.seed} ({who}; loss {self.world.loss}): {text}")

    def _judge(self, when: str, *, guesses: bool) -> None:
        for one, other in self.pairs():
            mine = one.host.manager.status()[other.host.key].kind
            theirs = other.host.manager.status()[one.host.key].kind
            pair = f"{when} {one.host.name}-{other.host.name}"
            found = {"direct" if kind == "lan" else kind for kind in (mine, theirs)}
            if "none" in found:
                self.say(f"{pair} has no path ({mine}, {theirs})")
            wanted = self.verdict(one, other)
            alone = len(self.members) == 2 and len(one.kinds + other.kinds) == 2
            guessed = guesses and alone and wanted is Verdict.PREDICTED
            must_be_direct = wanted is Verdict.DIRECT or guessed
            if must_be_direct and found != {"direct"}:
                self.say(f"{pair} should be direct and is {mine}, {theirs}")
            if wanted is Verdict.RELAYED and "direct" in found:
                self.say(f"{pair} cannot be direct and is {mine}, {theirs}")
            if one.host.no_udp and mine not in ("relay-tls", "none"):
                self.say(f"{pair}: UDP is blocked and the path is {mine}")

    def _quiet(self, when: str) -> None:
        """Nothing happens for a while: endpoints stay, data arrives, and not much is sent."""
        world = self.world
        before = [len(member.host.steered) for member in self.members]
        sent, opened = world.sent, sum(member.host.opened for member in self.members)
        for one, other in self.pairs():
            world.stream(one.host, other.host, every=1.0, until=world.now + QUIET_S)
            world.stream(other.host, one.host, every=1.0, until=world.now + QUIET_S)
        world.run(QUIET_S)
        pairs = self.pairs()
        settled = all(self.verdict(one, other) is Verdict.DIRECT for one, other in pairs)
        for member, steered in zip(self.members, before, strict=True):
            changes = len(member.host.steered) - steered
            # A pair that is relayed may still find its way: by a birthday or a late guess, once.
            allowed_changes = CHANGES[world.loss] + (0 if settled else 3)
            if changes > allowed_changes * (len(self.members) - 1):
                self.say(
                    f"{when}: {member.host.name} changed endpoints {changes} times while nothing happened"
                )
            for other in self.members:
                if other is member:
                    continue
                last = max((at for at, who, _ in member.host.heard if who == other.host.key), default=0.0)
                late = HEARD_S + (5 if world.loss else 0)
                if world.now - last > late:
                    self.say(f"{when}: {member.host.name} hears nothing of {other.host.name}")
        guessed = sum(member.host.opened for member in self.members) > opened or not settled
        allowed = len(pairs) * (PACKETS_A_MINUTE + (GUESS_PACKETS if guessed else 0))
        if world.sent - sent > allowed:
            self.say(f"{when}: {world.sent - sent} packets in a quiet minute")
        for member in self.members:
            for box in member.way.boxes if member.way is not None else ():
                if len(box) > MAPPINGS * len(self.members):
                    self.say(f"{when}: {len(box)} mappings in the box of {member.host.name}")

    def _event(self) -> None:
        world = self.world
        boxes = [box for member in self.members if member.way is not None for box in member.way.boxes]
        match self.chance.randrange(5):
            case 0 if boxes:
                self.chance.choice(boxes).forget()
            case 1 if outer := [
                box for box in boxes if box.kind.translates and not box.public.startswith("100.64.")
            ]:
                self.chance.choice(outer).move(next(self._publics))
            case 2:
                world.lose_mediator()
                world.run(self.chance.uniform(1, 60))
                world.restore_mediator()
            case 3:
                one, other = self.chance.choice(self.pairs())
                world.cut.add(frozenset((public(one), public(other))))
                world.run(self.chance.uniform(1, 40))
                world.cut.clear()
            case _:
                world.kill_tunnels()
                world.run(3)


def public(member: Member) -> str:
    """The address that the internet knows it by."""
    return member.way.public if member.way is not None else member.host.address.host


def tell(seed: int, kinds: Iterable[str] = ()) -> list[str]:
    """One story."""
    return Story(seed, kinds).tell()


def failures(seeds: Iterable[int]) -> list[str]:
    """Of several; what is wrong with any."""
    return [text for seed in seeds for text in tell(seed)]
