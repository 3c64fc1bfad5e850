"""The simulated world: real cores of hosts and mediator, one clock, one seed.

`NETCTL_WORLD_SEED=17 make test-world` runs one seed and prints the end of its story.
"""

from __future__ import annotations

import os

import pytest
from world_story import World

SEEDS = 200
ONE = os.environ.get("NETCTL_WORLD_SEED")


@pytest.mark.parametrize("seed", range(SEEDS) if ONE is None else [int(ONE)])
def test_whatever_happens_members_meet_again_and_nothing_is_given_twice(seed: int) -> None:
    world = World(seed)
    try:
        world.begin()
        world.story()
        world.heal()
        world.settle()
    except Exception as error:
        story = "\n".join(world.clock.trace)
        raise AssertionError(
            f"{error}\n{story}\nseed {seed}; run it again: NETCTL_WORLD_SEED={seed} make test-world"
        ) from error
    if ONE is not None:
        print("\n".join(world.clock.trace))
