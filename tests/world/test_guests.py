"""Hosts join, are approved and shut out, and the mediator dies at any moment of it: what people were told holds."""

from __future__ import annotations

import os

import pytest

from tests.world.world_clock import telling
from tests.world.world_guests import Guests

SEEDS = int(os.environ.get("NETCTL_WORLD_SEEDS", "2000")) // 20
"""A story takes 50 ms: a hundred are a few seconds."""
BATCH = 20


@pytest.fixture(scope="module")
def seen() -> dict[str, int]:
    return {"joined": 0, "refused": 0, "shut out": 0, "approved": 0, "transactions": 0}


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_whatever_happens_what_hosts_and_operator_were_told_is_so(first: int, seen: dict[str, int]) -> None:
    for seed in range(first, first + BATCH):
        world = Guests(seed)
        with telling(world.clock, f"seed {seed}"):
            world.begin()
            world.story()
            world.end()
            world.check()
        seen["joined"] += sum(guest.told is not None for guest in world.guests)
        seen["refused"] += sum(guest.refusal.startswith("invite.") for guest in world.guests)
        seen["shut out"] += len(world.shut_out)
        seen["approved"] += len(world.approved)
        seen["transactions"] += world.mediator.jobs


def test_what_the_stories_are_about_happens_in_them(seen: dict[str, int]) -> None:
    print(seen)
    assert all(count >= SEEDS // 4 for count in seen.values()), seen
