"""Two mediators on one store, in every order: one state, one number, nothing twice, and all of it in the end."""

from __future__ import annotations

import os

import pytest

from tests.support.seeds import tell
from tests.world.world_cluster import Cluster, members_of, offered, text

SEEDS = int(os.environ.get("NETCTL_WORLD_SEEDS", "2000"))
"""A fiftieth of a second of one core each."""
SEEDS_A_TEST = 125
TURNS = 60


def story(seed: int) -> Cluster:
    world = Cluster(seed)
    for machine in world.machines:
        machine.file = offered(text(seed % 8))
        machine.start()
    for _ in range(TURNS):
        world.act()
        for _ in range(world.chance.randrange(6)):
            if world.tasks:
                world.step()
        world.check()
    world.settle()
    explain(world)
    return world


def explain(world: Cluster) -> None:
    """The end state is one that could have told everybody what it told."""
    first, second = (machine.shows for machine in world.machines)
    assert first is not None
    assert second is not None
    end = world.store.kept()
    assert first.number == second.number == end.generation
    assert members_of(first.book) == members_of(second.book) == members_of(end.book)
    assert end.document is not None
    assert first.document.digest == second.document.digest == end.document.digest
    for one in first.document.members.values():
        if one.wireguard is not None and one.wireguard not in end.book.revoked:
            mine, other = (service.hub.view(one.wireguard) for service in (first, second))
            assert mine == other, "the same number, and another view"
    states = [kept.book for _, kept in sorted(world.truth.items())]
    for what, who in world.told:
        assert any(
            who in book.revoked
            if what == "revoke"
            else who not in book.revoked
            if what == "restore"
            else any(entry.key == who and not entry.pending for entry in book.admissions)
            for book in states
        ), f"an acknowledged change is lost: {what}"
    assert not {entry.key for entry in end.book.admissions} & end.book.revoked.keys()
    assert len(set(end.leases.values())) == len(end.leases)
    taken = [*end.ports.values(), *(grant.port for grant in end.pairs)]
    assert len(set(taken)) == len(taken)


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_whatever_happens_both_show_what_the_store_has(first: int) -> None:
    tell(story, first, min(first + SEEDS_A_TEST, SEEDS))


def test_the_stories_are_about_something() -> None:
    worlds = [story(seed) for seed in range(40)]
    assert sum(world.outdated for world in worlds) > 20, "two of them wanted the same"
    assert sum(world.refusals for world in worlds) > 20, "a member came to one that is behind"
    assert sum(len(world.told) for world in worlds) > 40
    assert max(len(world.truth) for world in worlds) > 10
