"""Stories of lazy pairs behind boxes of all kinds: they ring, crash, fold up and ring again, and no packet is lost.

A packet that is not heard is sent again every five seconds for a minute and a half, as WireGuard keeps what waits for
a handshake. `NETCTL_WORLD_LAZY_SEEDS=500 pytest tests/world/test_lazy_pairs.py` tells more stories.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from netctl.paths import constants as c
from tests.support.pathsim import Host
from tests.world.world_boxes import KINDS, Verdict
from tests.world.world_pairs import UNLUCKY_S, Member, Story, public

SEEDS = int(os.environ.get("NETCTL_WORLD_LAZY_SEEDS", "8"))
TURNS = 4
AGAIN_S = 5.0
PATIENCE_S = 90.0
"""WireGuard's Rekey-Timeout and Rekey-Attempt-Time."""
FOLDED_S, FOLDED_LOSSY_S = 30.0, 150.0
"""After the idle time. What is lost on the way counts for its sender alone, which folds later: once its relay has
forgotten the peer, at the latest."""
REST_S = 100.0
STUN_A_MINUTE = 60
"""What a host sends with nobody to talk to; seen: below 30."""


class LazyStory(Story):
    """One seed is one story."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.world.lazy = True
        self.dice = random.Random(f"lazy {seed}")
        self._sequence = 0
        self.turns: list[str] = []
        self.heard_wait: list[float] = []

    def tell(self) -> list[str]:
        """The story; what was wrong."""
        world = self.world
        world.start()
        world.run(10)
        self._idle("at first")
        for turn in range(TURNS):
            one, other = self.dice.choice(self.pairs())
            if self.dice.random() < 0.5:
                one, other = other, one
            happening = self.dice.choice(HAPPENINGS)
            self.turns.append(happening.__name__)
            when = f"turn {turn}, {happening.__name__} {one.host.name}-{other.host.name}"
            happening(self, one, other)
            self._send(one.host, other.host, when)
            world.run(PATIENCE_S + AGAIN_S)
            self._talk(one, other, when)
            self._rest(one, other, when)
        return self.wrong

    def _send(self, one: Host, other: Host, when: str) -> None:
        """One packet, until it is heard."""
        self._sequence += 1
        world, sequence, began = self.world, self._sequence, self.world.now

        def attempt() -> None:
            at = next((at for at, who, number in other.heard if (who, number) == (one.key, sequence)), None)
            if at is not None:
                self.heard_wait.append(at - began)
            elif world.now - began > PATIENCE_S:
                self.say(f"{when}: packet {sequence} never arrived")
            else:
                world.data(one, other, sequence)
                world.at(world.now + AGAIN_S, attempt)

        attempt()

    def _talk(self, one: Member, other: Member, when: str) -> None:
        """Both talk for a while: the pair is direct if it can be, and has a path in any case."""
        world = self.world
        for a, b in ((one.host, other.host), (other.host, one.host)):
            world.stream(a, b, every=1.0, until=world.now + UNLUCKY_S)
        world.run(UNLUCKY_S)
        found = {self._kind(one, other), self._kind(other, one)}
        if self.verdict(one, other) is Verdict.DIRECT and found != {"direct"}:
            self.say(f"{when}: could be direct, and is {sorted(found)}")
        if found & {"none", "idle"}:
            self.say(f"{when}: talks, and is {sorted(found)}")

    def _kind(self, one: Member, other: Member) -> str:
        kind = one.host.manager.status()[other.host.key].kind
        return "direct" if kind == "lan" else kind

    def _rest(self, one: Member, other: Member, when: str) -> None:
        """Nobody talks: both fold up. A packet is under way at about that moment, now and then."""
        world = self.world
        world.run(c.LAZY_IDLE - 3)
        if self.dice.random() < 0.5:
            sender, receiver = self.dice.choice([(one, other), (other, one)])
            world.run(self.dice.uniform(0, 6))
            self._send(sender.host, receiver.host, f"{when}, around the fold")
            world.run(PATIENCE_S + AGAIN_S + c.LAZY_IDLE)
        world.run(FOLDED_S if not world.loss else FOLDED_LOSSY_S)
        self._idle(f"after {when}")

    def _idle(self, when: str) -> None:
        world = self.world
        for one, other in self.pairs():
            found = {self._kind(one, other), self._kind(other, one)}
            if found != {"idle"}:
                self.say(f"{when}: {one.host.name}-{other.host.name} is {sorted(found)}, and nobody talks")
        sent, offers = world.sent, len(world._offers)
        world.run(REST_S)
        allowed = len(self.members) * STUN_A_MINUTE * REST_S / 60
        if world.sent - sent > allowed or len(world._offers) != offers:
            self.say(f"{when}: {world.sent - sent} packets at rest")
        if any(member.host.tunnel_wanted for member in self.members):
            self.say(f"{when}: a connection to the relay is wanted at rest")


def nothing(story: LazyStory, one: Member, other: Member) -> None:
    """The first packet alone."""


def both_ring(story: LazyStory, one: Member, other: Member) -> None:
    story._send(other.host, one.host, "both ring")


def a_lost_ring(story: LazyStory, one: Member, other: Member) -> None:
    one.host.deaf = True
    story.world.at(story.world.now + story.dice.uniform(1, 20), lambda: setattr(one.host, "deaf", False))


def no_mediator(story: LazyStory, one: Member, other: Member) -> None:
    story.world.lose_mediator()
    story.world.at(story.world.now + story.dice.uniform(1, 60), story.world.restore_mediator)


def crash_of(who: Callable[[Member, Member], Member], story: LazyStory, one: Member, other: Member) -> None:
    """The agent crashes somewhere while the pair opens, and starts again."""
    world, host = story.world, who(one, other).host
    crash = world.now + story.dice.uniform(0, 1)
    world.at(crash, lambda: world.crash(host))
    world.at(crash + story.dice.uniform(0.5, 20), lambda: world.revive(host))


def caller_crashes(story: LazyStory, one: Member, other: Member) -> None:
    crash_of(lambda one, other: one, story, one, other)


def callee_crashes(story: LazyStory, one: Member, other: Member) -> None:
    crash_of(lambda one, other: other, story, one, other)


def box_forgets(story: LazyStory, one: Member, other: Member) -> None:
    for member in (one, other):
        for box in member.way.boxes if member.way is not None else ():
            story.world.at(story.world.now + story.dice.uniform(0, 2), box.forget)


def cut(story: LazyStory, one: Member, other: Member) -> None:
    """Nothing passes between the two, but by the relay."""
    between = frozenset((public(one), public(other)))
    if len(between) == 2:
        story.world.cut.add(between)
        story.world.at(story.world.now + story.dice.uniform(1, 40), story.world.cut.clear)


HAPPENINGS = (
    nothing,
    both_ring,
    a_lost_ring,
    no_mediator,
    caller_crashes,
    callee_crashes,
    box_forgets,
    cut,
)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_stories_of_lazy_pairs(seed: int) -> None:
    story = LazyStory(seed)
    wrong = story.tell()
    assert not wrong, f"{story.turns}\n" + "\n".join(wrong)
    assert len(story.heard_wait) >= TURNS


def test_a_peer_that_cannot_be_woken_is_found() -> None:
    """The stories would notice."""
    story = LazyStory(2)
    for member in story.members:
        member.host.deaf = True
    assert "never arrived" in "\n".join(story.tell())


def test_every_kind_of_box_is_in_some_story() -> None:
    seen = {member.kind.name for seed in range(SEEDS) for member in LazyStory(seed).members}
    assert len(seen) > len(KINDS) / 2
