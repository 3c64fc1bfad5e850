"""What paths keep between events, beside what they compute anew: the same whatever happens, by seed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from netctl.paths.discovery import Discovery
from netctl.paths.outside import Outside
from netctl.paths.relaychoice import BESIDE, PairRelays, Ranking
from netctl.paths.relaylink import LinkEffect
from netctl.wire.stun import MAX_LOAD
from tests.paths.test_paths_storm import storm
from tests.paths.test_relay_search import ADDRESSES, APART, Alone
from tests.support.pathsim import World

NOT_STATE = {"_ranking", "_moved", "_rng", "_links", "_trial", "_mine", "_load"}


class Forgetful(PairRelays):
    """Ranks anew whenever it is asked, asks each link each time, and plans twice at each of its times."""

    def handle_timer(self, now: float, online: bool) -> list[LinkEffect]:
        """Perform what is due."""
        self._plan(now)
        effects = [effect for link in self._links.values() for effect in link.handle_timer(now, online)]
        self._plan(now)
        return effects

    def _ranked(self, now: float) -> Ranking:
        self._ranking = Ranking((), (), {})
        return super()._ranked(now)


class Watched(Alone):
    """A pair whose relays say what they do."""

    def __init__(self, kind: type[PairRelays]) -> None:
        super().__init__()
        before, self.load = self.relays, dict[str, int]()
        self.relays = kind("peer", before._rng, self.mine, self.load)
        self.relays.know(APART, self.now)
        self.relays.told(dict(self.mine), self.now)
        self.relays.want(self.now)
        self.done: list[object] = []

    def _perform(self, effect: object) -> None:
        self.done.append((self.now, effect))
        super()._perform(effect)

    def state(self) -> list[dict[str, Any]]:
        """All that decides what comes next."""
        links = self.relays._links.values()
        trials = [link._trial for link in links if link._trial is not None]
        return [
            {name: value for name, value in vars(one).items() if name not in NOT_STATE}
            for one in (self.relays, *links, *trials)
        ]


def happens(one: Watched, chance: random.Random) -> None:
    """One event of many kinds."""
    relays, now, names = one.relays, one.now, [BESIDE, *APART]
    match chance.randrange(16):
        case 0:
            one.mine[chance.choice(names)] = chance.choice((1, 5, 40, 60_000))
        case 1:
            one.mine.pop(chance.choice(names), None)
        case 2:
            one.load[chance.choice(names)] = chance.randint(1, MAX_LOAD)
        case 3:
            one.load.clear()
        case 4:
            theirs = {name: chance.randint(1, 300) for name in names if chance.random() < 0.8}
            relays.told(theirs, now, {chance.choice(names): chance.randint(1, MAX_LOAD)})
        case 5:
            relays.know(chance.sample(APART, chance.randrange(len(APART) + 1)), now)
        case 6:
            one.dead ^= {chance.choice(list(ADDRESSES))}
        case 7 | 8 | 9:
            one.come(chance.choice([relays.name, *relays._links]))
        case 10:
            relays.set_tunnel(chance.choice([None, *names]), now)
        case 11:
            relays.doubt(now)
        case 12:
            relays.heard()
        case 13:
            relays.try_udp(now)
        case 14 if chance.random() < 0.3:
            relays.release()
            one.run(1)
            relays.want(one.now)
        case 15:
            relays.woke(now, chance.uniform(0, 4000))
            relays.control_up(now)


@pytest.mark.parametrize("seed", range(20))
def test_a_pair_does_the_same_as_one_that_keeps_nothing(seed: int) -> None:
    pairs = [Watched(PairRelays), Watched(Forgetful)]
    carried = 0
    for step in range(120):
        for one in pairs:
            happens(one, random.Random(seed * 1000 + step))
            one.run(random.Random(seed * 1000 + step).choice((0.25, 1, 5, 20)))
        mine, anew = pairs
        assert mine.done == anew.done
        assert mine.state() == anew.state()
        assert mine.relays.next_timer() == anew.relays.next_timer()
        carried += mine.relays.usable
    assert carried > 10


def same(outside: Outside) -> tuple[object, ...]:
    """What is kept of a host's NAT; it must be what is computed anew."""
    found, fresh = outside.discovery, Discovery(lambda size: bytes(size))
    fresh._servers, fresh._deadline = found._servers, found._deadline
    fresh._plan()
    assert found.next_timer() == fresh.next_timer()
    kept = []
    for ipv6 in (False, True):
        assert found.answers(ipv6=ipv6) == fresh.answers(ipv6=ipv6)
        assert found.silent(ipv6=ipv6) == fresh.silent(ipv6=ipv6)
        kept.append(outside.behaviour(ipv6=ipv6))
        assert kept[-1] == outside._behaviour(ipv6=ipv6)
    return kept[0].mapping, kept[0].mapped, found.silent(ipv6=False)


@pytest.mark.parametrize("seed", range(6))
def test_a_host_knows_the_same_as_one_that_looks_anew(seed: int) -> None:
    chance = random.Random(seed)
    world = World(seed, loss=chance.choice([0.0, 0.2]))
    for name, inner, outer in (("a", "192.168.1.10", "203.0.113.1"), ("b", "10.0.0.10", "192.0.2.1")):
        world.host(name, inner, world.nat(outer, symmetric=chance.random() < 0.5))
    world.start()
    kinds = set()
    for step in range(40):
        if step % 10 == 9:
            storm(world, chance)
        world.run(chance.uniform(0.01, 3))
        for host in world.hosts:
            kinds.add(same(host.manager._outside))
    assert len(kinds) > 2
