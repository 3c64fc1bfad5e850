"""Real agents at several mediators of one store, whatever befalls mediators, store, bus and wires.

`NETCTL_WORLD_SEED=17 make test-world` runs one seed and prints the end of its story.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import pytest

from mediator.core.peers import HELD_S
from netctl.node.commit import Terms
from tests.world.world_member import SimMember
from tests.world.world_relay import SimRelay
from tests.world.world_several import MOVED_S, RELAYED, Several, Told, calm, failures, tell, watched
from tests.world.world_shared import SharedMediator

SEEDS = int(os.environ.get("NETCTL_WORLD_CLUSTER_SEEDS", "2000"))
"""A fifth of a second of one core each."""
BATCH = 50
STEADY = max(20, SEEDS // 200 * 20)
STEADY_BATCH = 20
ENOUGH = 100
ONE = os.environ.get("NETCTL_WORLD_SEED")
all_seeds = pytest.mark.skipif(ONE is not None, reason="one seed is asked for")


@pytest.fixture(scope="module")
def tellers() -> Iterator[ProcessPoolExecutor]:
    """As many processes as there are cores, which give way to whatever measures time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=os.nice, initargs=(10,)) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def told(tellers: ProcessPoolExecutor) -> dict[int, Future[Told]]:
    """The stories of all seeds, by the first seed of a batch."""
    batches = {first: list(range(first, min(first + BATCH, SEEDS))) for first in range(0, SEEDS, BATCH)}
    return {first: tellers.submit(failures, seeds) for first, seeds in batches.items()}


@pytest.fixture(scope="module")
def steady_ones(tellers: ProcessPoolExecutor) -> dict[int, Future[int]]:
    """How many tunnels are watched in steady stories, by the first seed of a batch."""
    ends = {first: min(first + STEADY_BATCH, STEADY) for first in range(0, STEADY, STEADY_BATCH)}
    return {first: tellers.submit(watched, range(first, end)) for first, end in ends.items()}


@all_seeds
@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_whatever_happens_members_move_in_time_and_all_is_one_in_the_end(
    first: int, told: dict[int, Future[Told]]
) -> None:
    wrong = told[first].result().wrong
    assert not wrong, f"{len(wrong)} of {BATCH} seeds fail; the first:\n{wrong[0]}"


@pytest.mark.skipif(ONE is not None or SEEDS < ENOUGH, reason="too few stories for what is rare")
def test_what_the_stories_are_meant_to_be_about_happens_in_them(told: dict[int, Future[Told]]) -> None:
    happened, slowest_s = Counter[str](), 0.0
    for future in told.values():
        happened += future.result().happened
        slowest_s = max(slowest_s, future.result().slowest_s)
    print(dict(happened), f"the slowest move took {slowest_s:.2f} s")
    for what, share in {
        "moved": 0.5,
        "apart": 0.2,
        "behind": 0.02,
        "outdated": 0.1,
        "unanswered": 0.1,
        "relayed": 0.15,
        "relayed apart": 0.05,
        "relayed beside": 0.03,
        "relayed with an older agent": 0.02,
        "joined": 0.5,
        "approved": 0.05,
        "shut out": 0.1,
        "closed": 0.1,
        "waits": 0.5,
        "invite.used-up": 0.2,
        "invite.unknown": 0.2,
    }.items():
        assert happened[what] >= share * SEEDS, happened


@all_seeds
@pytest.mark.parametrize("first", range(0, STEADY, STEADY_BATCH))
def test_established_tunnels_do_not_notice_mediators_store_and_bus(
    first: int, steady_ones: dict[int, Future[int]]
) -> None:
    assert steady_ones[first].result() >= 20


@pytest.mark.skipif(ONE is None, reason="no one seed is asked for")
def test_one_seed() -> None:
    print("\n".join(tell(int(ONE or 0)).clock.trace))


CALM_SEEDS = 21


def start_mediators(world: Several) -> None:
    """All mediators work, and the members have the document."""
    for mediator in world.mediators:
        mediator.save(world.loaded)
        mediator.start()
    world.run(1.0)
    for member in world.members:
        member.disk.accepted.content = world.loaded if member.name not in world.absent else None


def settled(seed: int) -> Several:
    world = calm(seed)
    assert len(world.at()) == len(world.members) - len(world.absent)
    return world


@all_seeds
def test_members_spread_where_relays_join_them_and_keep_one_order_where_a_mediator_is_older() -> None:
    """Some documents have a relay apart; in the others the relays beside the mediators join members."""
    spread, ordered = Counter[bool](), 0
    for seed in range(CALM_SEEDS):
        world = Several(seed)
        start_mediators(world)
        for member in world.members:
            world.clock.after(world.chance.uniform(0, 1), member.start)
        world.run(5.0)
        there = set(world.at().values())
        if world.fixed_order:
            ordered += 1
            assert there == {world.mediators[0].name}, seed
        else:
            spread[world.alone] += len(there) > 1
    assert ordered == 2
    assert spread[False] >= CALM_SEEDS // 3
    assert spread[True] >= 2


@all_seeds
@pytest.mark.parametrize("seed", [1, 2, 4, 5])
def test_nobody_goes_to_a_mediator_far_away_while_a_near_one_works(seed: int) -> None:
    world = Several(seed)
    far = world.mediators[0]
    far.site.delay_s = 0.3
    start_mediators(world)
    for member in world.members:
        member.start()
    world.run(5.0)
    assert world.at()
    assert far.name not in world.at().values()
    for mediator in world.mediators[1:]:
        mediator.crash()
    world.run(5.0)
    assert set(world.at().values()) == {far.name}, "it is better than none"


def _goes_by_another(one: SimMember, other: SimMember, dead: SimRelay | SharedMediator) -> bool:
    assert one.agent is not None
    path = one.agent.manager.status()[other.key]
    return path.kind == RELAYED and path.endpoint is not None and path.endpoint.host != dead.address.host


RELAY_LOST_S = 5.0
"""A pair over which packets go now and then is on another relay within this after its own has vanished."""


Ends = Sequence[tuple[SimMember, SimMember, SimRelay | SharedMediator]]
"""Who sends to whom by which relay, as of `Several.relayed`."""


def _moved_within_s(seed: int, world: Several, dead: SimRelay | SharedMediator, ends: Ends) -> float:
    """Take the power of a relay; after how many seconds these ends of pairs go by another one."""
    dead.lose_power()
    lost_at = world.clock.now
    while not all(_goes_by_another(one, other, dead) for one, other, _ in ends):
        late = world.clock.now - lost_at >= RELAY_LOST_S
        assert not late, f"seed {seed}: somebody has no relay {RELAY_LOST_S} s after its own vanished"
        world.run(0.1)
    return world.clock.now - lost_at


@all_seeds
def test_a_pair_that_only_relays_join_is_relayed_across_mediators_and_moves_when_its_relay_vanishes() -> None:
    pairs, across, slowest_s = 0, 0, 0.0
    for seed in range(1, 4 * CALM_SEEDS, 3):
        world = Several(seed)
        if not world.blocked:
            continue
        world = settled(seed)
        at = world.at()
        for dead in world.relays:
            world.run(world.chance.uniform(0, 10))  # at any time between two packets
            relayed = [row for row in world.relayed() if isinstance(row[2], SimRelay)]
            pairs += len(relayed)
            across += sum(at[one.name] != at[other.name] for one, other, _ in relayed)
            slowest_s = max(slowest_s, _moved_within_s(seed, world, dead, relayed))
            dead.power_on()
            world.settle()
            assert world.at() == at, "nobody changes its mediator for a relay"
    print(
        f"{pairs} ends of pairs, {across} of them across mediators: the slowest move took {slowest_s:.2f} s"
    )
    assert across > 10


@all_seeds
def test_a_pair_without_a_relay_apart_moves_to_another_mediators_relay_when_a_machine_is_gone() -> None:
    """Its relay is gone, and perhaps with it the mediator of either member."""
    pairs, across, slowest_s = 0, 0, 0.0
    for seed in range(0, 6 * CALM_SEEDS, 3):
        if not Several(seed).blocked:
            continue
        world = settled(seed)
        at = world.at()
        for dead in {relay.address.host: relay for _, _, relay in world.relayed()}.values():
            world.run(world.chance.uniform(0, 10))  # at any time between two packets
            newer = [row for row in world.relayed() if not (row[0].older or row[1].older)]
            there = [row for row in newer if row[2] is dead]
            pairs += len(there)
            across += sum(at[one.name] != at[other.name] for one, other, _ in there)
            slowest_s = max(slowest_s, _moved_within_s(seed, world, dead, there))
            dead.power_on()
            world.settle()
            at = world.at()
    print(
        f"{pairs} ends of pairs, {across} of them across mediators: the slowest move took {slowest_s:.2f} s"
    )
    assert across > 10


@all_seeds
def test_everybody_moves_within_two_seconds_and_nobody_moves_back_without_a_reason() -> None:
    slowest_s = 0.0
    for seed in range(CALM_SEEDS):
        world = settled(seed)
        at = world.at()
        dead = next(one for one in world.mediators if one.name == next(iter(at.values())))
        before = world.slowest_s
        dead.crash()
        world.run(MOVED_S + 0.2)
        moved = world.at()
        assert moved.keys() == at.keys(), f"seed {seed}: somebody has no mediator"
        assert dead.name not in moved.values()
        assert all(moved[name] == there for name, there in at.items() if there != dead.name), (
            "nobody else moved"
        )
        slowest_s = max(slowest_s, world.slowest_s, before)
        dead.start()
        world.run(20.0)
        assert world.at() == moved, f"seed {seed}: somebody went back for no reason"
    print(f"the slowest move took {slowest_s:.2f} s")


CONFIRM_S = 6.0


def _loses_its_mediator(confirm_s: float) -> tuple[Several, SimMember]:
    """A member whose first apply is armed for `confirm_s` has just lost its mediator, a moment before `CONFIRM_S`."""
    world = Several(1)
    start_mediators(world)
    for member in world.members:
        member.start()
    world.run(1.0)
    new = next(member for member in world.members if member.name not in world.absent)
    new.stop()
    new.disk.accepted.content = None
    new.start()
    new.apply(world.loaded, Terms(confirm_s=confirm_s))
    world.run(CONFIRM_S - 0.2)
    at = world.at()[new.name]
    next(one for one in world.mediators if one.name == at).crash()
    world.run(0.15)
    assert new in world._lost_at
    return world, new


@all_seeds
def test_a_member_that_goes_back_to_no_document_need_not_move() -> None:
    world, new = _loses_its_mediator(CONFIRM_S)
    world.run(MOVED_S + HELD_S + 1.0)
    assert new.document is None
    assert new.name not in world.at()
    new.persist(world.loaded)
    world.run(5.0)
    assert new.name in world.at()
    assert world.slowest_s <= MOVED_S, "the time without a document is no move"


@all_seeds
def test_a_member_that_keeps_its_document_and_tries_no_other_mediator_is_found_out() -> None:
    world, new = _loses_its_mediator(10 * CONFIRM_S)
    assert new.agent is not None
    new.agent.tries += 1  # so that nobody begins the next try
    with pytest.raises(AssertionError, match="has no mediator"):
        world.run(MOVED_S + HELD_S + 1.0)


@all_seeds
@pytest.mark.parametrize("seed", range(1, 40, 5))
def test_a_mediator_that_is_cut_off_lets_nobody_new_in_and_catches_up_without_a_restart(seed: int) -> None:
    world = settled(seed)
    alone, other = world.mediators[:2]
    new = world.members[-1]
    world.absent ^= {new.name}
    if new.name in world.absent:  # it was a member: it is shut out first
        _publish(world, other)
        world.run(6.0)
        world.absent ^= {new.name}
    alone.partition()
    _publish(world, other)
    life, number = alone.life, other.life.service.number if other.life is not None else 0
    world.run(6.0)
    assert life is not None
    assert other.life is not None
    assert other.life.service.number > number
    assert new.key in other.life.hub._membership.by_key
    assert new.key not in life.hub._membership.by_key
    assert new.key not in life.hub._online
    alone.rejoin()
    world.run(3.0)
    assert alone.life is life, "it has not been restarted"
    assert life.service.number == other.life.service.number
    assert new.key in life.hub._membership.by_key
    world.heal()
    world.settle()


def _publish(world: Several, mediator: object) -> None:
    """Bring the document as things are meant to be now into force, by this mediator."""
    world.loaded = world.write()
    world.documents.append(world.loaded.document)
    for one in world.mediators:
        if one is mediator:
            one.save(world.loaded)


@all_seeds
def test_a_seed_is_the_whole_truth_even_for_another_process() -> None:
    code = (
        "import hashlib, tests.world.world_several as s\nw = s.tell(5)\n"
        "print(w.clock.steps, hashlib.sha256('\\n'.join(w.clock.trace).encode()).hexdigest())"
    )
    printed = set()
    for salt in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        )
        printed.add(run.stdout)
    world = tell(5)
    printed.add(
        f"{world.clock.steps} {hashlib.sha256(chr(10).join(world.clock.trace).encode()).hexdigest()}\n"
    )
    assert len(printed) == 1, printed
