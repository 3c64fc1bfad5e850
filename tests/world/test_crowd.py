"""Hundreds of members of one mediator: in the end all of them see what it says, and never anything that it did not."""

from __future__ import annotations

import pytest

from tests.world.world_clock import telling
from tests.world.world_crowd import Crowd

SEEDS = [(1, 200), (2, 150), (3, 120), (4, 100), (5, 100), (6, 100)]
"""Seed and size. A change costs all views: half as many members again cost twice the time."""


@pytest.mark.parametrize(("seed", "size"), SEEDS)
def test_whatever_happens_hundreds_of_members_see_what_their_mediator_says(seed: int, size: int) -> None:
    crowd = Crowd(seed, size)
    with telling(crowd.clock, f"seed {seed}"):
        crowd.begin()
        crowd.story()
        crowd.heal()
        crowd.settle()
        crowd.leave()
    assert crowd.views > size


@pytest.mark.parametrize("how", ["rollback", "stranger"])
def test_a_mediator_that_lies_to_hundreds_is_believed_by_nobody(how: str) -> None:
    crowd = Crowd(7, 100)
    crowd.begin()
    before = {member.name: member.kept for member in crowd.members}
    crowd._takeover(how, 20)
    crowd.run(15)
    assert all(member.refused for member in crowd.members)
    assert {member.name: member.kept for member in crowd.members} == before
    crowd.run(10)
    crowd.settle()
