"""Hundreds of members of one mediator: in the end all of them see what it says, and never anything that it did not."""

from __future__ import annotations

import pytest

from netctl.wire.control import INTEREST_ALL_S
from tests.world.world_clock import telling
from tests.world.world_crowd import INTERESTS, Crowd, CrowdMember

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


@pytest.mark.parametrize(("seed", "size"), [(11, 200), (12, 120), (13, 80), (14, 80)])
def test_members_of_a_large_network_know_whom_they_talk_to(seed: int, size: int) -> None:
    """Views of more than eight members are large ones: all of `all`, and most of `work`."""
    crowd = Crowd(seed, size, interest_above=8)
    with telling(crowd.clock, f"seed {seed}"):
        crowd.begin()
        unknown = [member.view is not None and crowd_unknown(member) for member in crowd.members]
        assert sum(unknown) > size // 2, "nearly everybody is unknown to nearly everybody"
        crowd.story()
        crowd.heal()
        crowd.settle()
        crowd.leave()
        quiet(crowd)


def crowd_unknown(member: CrowdMember) -> bool:
    assert member.view is not None
    return sum(one.online is None for one in member.view.members.values()) > len(member.view.members) // 2


def quiet(crowd: Crowd) -> None:
    """Once nobody looks any more, all that is known and kept is what was declared."""
    crowd.run(2 * INTEREST_ALL_S)
    life = crowd.mediator.life
    assert life is not None
    assert len(life.hub._audience) <= INTERESTS * len(crowd.members)
    assert not life.hub._audience._all
    for member in crowd.members:
        if member.session is not None and member.view is not None:
            known = {key for key, one in member.view.members.items() if one.online is not None}
            assert known <= {*member.interest, member.key}


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
