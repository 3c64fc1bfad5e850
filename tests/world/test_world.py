"""The simulated world: real cores of hosts and mediator, one clock, one seed.

`NETCTL_WORLD_SEED=17 make test-world` runs one seed and prints the end of its story.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import pytest

from netctl.model.keys import WireGuardKey
from netctl.node import effects as do
from tests.world.world_member import SimMember
from tests.world.world_story import World, failures, tell

SEEDS = int(os.environ.get("NETCTL_WORLD_SEEDS", "2000"))
"""About a minute and a half on two cores."""
ENOUGH = 2000
BATCH = 50
MEANT = {
    "crash": 0.1,
    "crash while armed": 0.02,
    "torn write": 0.001,
    "full disk": 0.02,
    "went back": 0.1,
    "went back without an agent": 0.002,
}
"""What must befall at least so many members a story."""
ONE = os.environ.get("NETCTL_WORLD_SEED")


@pytest.fixture(scope="module")
def told() -> Iterator[dict[int, Future[tuple[list[str], Counter[str]]]]]:
    """The stories of all seeds, told by as many processes as there are cores; by the first seed of a batch."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=os.nice, initargs=(10,)) as pool:
        batches = {first: list(range(first, min(first + BATCH, SEEDS))) for first in range(0, SEEDS, BATCH)}
        yield {first: pool.submit(failures, seeds) for first, seeds in batches.items()}
        pool.shutdown(cancel_futures=True)


@pytest.mark.skipif(ONE is not None, reason="one seed is asked for")
@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_whatever_happens_members_meet_again_and_nothing_is_given_twice(
    first: int, told: dict[int, Future[tuple[list[str], Counter[str]]]]
) -> None:
    wrong, _ = told[first].result()
    assert not wrong, f"{len(wrong)} of {BATCH} seeds fail; the first:\n{wrong[0]}"


@pytest.mark.skipif(ONE is not None or SEEDS < ENOUGH, reason="too few stories for what is rare")
def test_what_the_stories_are_meant_to_be_about_happens_in_them(
    told: dict[int, Future[tuple[list[str], Counter[str]]]],
) -> None:
    happened = Counter[str]()
    for future in told.values():
        happened += future.result()[1]
    print(dict(happened))
    for what, share in MEANT.items():
        assert happened[what] >= share * SEEDS, happened
    steps = (
        do.ReadHost,
        do.Arm,
        do.ApplyHost,
        do.FollowHost,
        do.Observe,
        do.Persist,
        do.FinishCommit,
        do.KeepPins,
    )
    missed = [step.__name__ for step in steps if not happened[f"crash at {step.__name__}"]]
    assert not missed, f"nobody ever crashed at {missed}"


@pytest.mark.skipif(ONE is None, reason="no one seed is asked for")
def test_one_seed() -> None:
    print("\n".join(tell(int(ONE or 0)).clock.trace))


CALM_SEEDS = 12
REVOKED_S = 5.0
FORGET_S = 70.0
"""Half-open connections and bindings are given up by then."""


def calm(seed: int) -> World:
    """A world without bad luck, settled."""
    world = World(seed)
    world.begin()
    world.heal()
    world.settle()
    return world


@pytest.mark.parametrize("seed", range(CALM_SEEDS))
def test_behind_friendly_nats_every_pair_meets_directly(seed: int) -> None:
    world = calm(seed)
    kinds = {}
    for member in world.members:
        assert member.agent is not None
        for key, path in member.agent.manager.status().items():
            other = next(other for other in world.members if other.key == key)
            kinds[member.name, other.name] = path.kind
            natted = member.site.nat or other.site.nat
            wanted = {"lan"} if other.site is member.site else {"direct"} if natted else {"direct", "lan"}
            assert path.kind in wanted, (seed, kinds)
    assert kinds


@pytest.mark.parametrize("seed", range(CALM_SEEDS))
def test_a_member_that_the_mediator_alone_removes_is_nobodys_peer_in_seconds(seed: int) -> None:
    world = calm(seed)
    present = [member for member in world.members if member.name not in world.absent]
    gone = present[-1]
    before = sum(gone.key in peers_of(member) for member in present)
    world.absent.add(gone.name)
    world.mediator.load(world.write().document)
    world.run(REVOKED_S)
    assert before > 0 or len(world.document.networks_of(gone.name)) == 0
    assert not any(gone.key in peers_of(member) for member in present), seed


@pytest.mark.parametrize("seed", range(0, 200, 25))
def test_nothing_is_left_over_when_it_is_over(seed: int) -> None:
    world = tell(seed)
    world.run(FORGET_S)
    assert not world.unsettled(), seed
    life = world.mediator.life
    assert life is not None
    present = len(world.members) - len(world.absent)
    assert life.hub.online == present
    assert len(life.ends) <= len(world.members), "connections are left over"
    everybody = len(world.members)  # a grant outlives its member's removal by some hours
    assert len(life.relay) <= everybody * (everybody - 1)


def test_a_seed_is_the_whole_truth_even_for_another_process() -> None:
    """Sets and hashes must not decide anything: a failure's seed would be worth nothing."""
    code = (
        "import hashlib, tests.world.world_story as s\nw = s.World(5)\nw.begin()\nw.story()\nw.heal()\nw.settle()\n"
        "print(w.clock.steps, hashlib.sha256('\\n'.join(w.clock.trace).encode()).hexdigest())"
    )
    told = set()
    for salt in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": salt}
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        told.add(run.stdout)
    assert len(told) == 1, told


def peers_of(member: SimMember) -> set[WireGuardKey]:
    """Whom a host has tunnels with."""
    link = member.engine.state.wireguard
    return set(link.peers) if link is not None else set()
