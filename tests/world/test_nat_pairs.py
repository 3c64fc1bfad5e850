"""Members behind boxes of every kind: thousands of stories, and a table of all pairs of kinds held against theory.

`NETCTL_WORLD_PAIR_SEEDS=5000 make test-world` tells more of them.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from mediator.core.relay_table import RelayTable
from tests.support.pathsim import Host
from tests.world.world_boxes import KINDS, Verdict, theory
from tests.world.world_pairs import DIRECT_S, UNLUCKY_S, Story, failures

SEEDS = int(os.environ.get("NETCTL_WORLD_PAIR_SEEDS", "240"))
"""Half a minute on two cores."""
BATCH = 25
PAIRS = list(itertools.combinations_with_replacement(KINDS, 2))


def kind_of(one: Host, other: Host) -> str:
    kind = one.manager.status()[other.key].kind
    return "direct" if kind == "lan" else kind


def test_stories() -> None:
    batches = [range(first, min(first + BATCH, SEEDS)) for first in range(0, SEEDS, BATCH)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=os.nice, initargs=(10,)) as pool:
        wrong = [text for texts in pool.map(failures, batches) for text in texts]
    assert not wrong, f"{len(wrong)} things are wrong in {SEEDS} stories; the first:\n" + "\n".join(wrong[:3])


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_pair_of_kinds_is_what_theory_says(one: str, other: str) -> None:
    """Without loss: direct within seconds where a port need not be guessed; else by the end of some rounds."""
    story = Story(7, (one, other))
    world = story.world
    world.loss = world.jitter = 0.0
    wanted = theory(KINDS[one], KINDS[other])
    a, b = (member.host for member in story.members)
    world.start()
    world.run(DIRECT_S if wanted is Verdict.DIRECT else UNLUCKY_S)
    found = {kind_of(a, b), kind_of(b, a)}
    match wanted:
        case Verdict.DIRECT | Verdict.PREDICTED:
            assert found == {"direct"}
        case Verdict.BIRTHDAY:
            assert found in ({"direct"}, {"relay-udp"})
        case Verdict.RELAYED:
            assert found <= {"relay-udp", "relay-tls"}


def test_theory_is_the_tables_of_the_field() -> None:
    """All pairs but hard mappings with port-dependent filters, and where UDP is blocked."""
    counts = dict.fromkeys(Verdict, 0)
    for one, other in PAIRS:
        assert theory(KINDS[one], KINDS[other]) is theory(KINDS[other], KINDS[one])
        counts[theory(KINDS[one], KINDS[other])] += 1
    assert counts[Verdict.DIRECT] == 44
    assert theory(KINDS["symmetric-random"], KINDS["port-restricted"]) is Verdict.BIRTHDAY
    assert theory(KINDS["symmetric-sequential"], KINDS["firewall"]) is Verdict.PREDICTED
    assert theory(KINDS["symmetric-random"], KINDS["symmetric-random"]) is Verdict.RELAYED


def wrong_of(kinds: tuple[str, str], sabotage: object) -> str:
    story = Story(3, kinds, sabotage=sabotage)  # type: ignore[arg-type]
    return "\n".join(story.tell())


def test_a_box_that_is_worse_than_its_word_is_found() -> None:
    def believe(story: Story) -> None:
        for member in story.members:
            member.kinds = (KINDS["port-restricted"],)

    assert "should be direct" in wrong_of(("symmetric-random", "symmetric-random"), believe)


def test_a_box_that_is_better_than_its_word_is_found() -> None:
    def doubt(story: Story) -> None:
        for member in story.members:
            member.kinds = (KINDS["symmetric-random"],)

    assert "cannot be direct" in wrong_of(("full-cone", "full-cone"), doubt)


def test_a_relay_that_lets_nobody_in_is_found() -> None:
    def lock(story: Story) -> None:
        story.world.relay = RelayTable(b"another secret".ljust(32), b"c" * 32, range(40000, 40100))

    assert "has no path" in wrong_of(("symmetric-random", "symmetric-random"), lock)


def test_endpoints_that_change_all_the_time_are_found() -> None:
    def shake(story: Story) -> None:
        way, world = story.members[0].way, story.world
        assert way is not None
        addresses = itertools.count(1)

        def move() -> None:
            way.boxes[0].move(f"198.18.0.{next(addresses) % 250}")
            world.at(world.now + 30, move)

        world.at(world.now + 60, move)

    assert "while nothing happened" in wrong_of(("port-restricted", "port-restricted"), shake)


def test_a_host_that_nobody_hears_is_found() -> None:
    def mute(story: Story) -> None:
        story.world.at(story.world.now + 100, lambda: setattr(story.members[0].host, "no_udp", True))

    said = wrong_of(("open", "open"), mute)
    assert "should be direct" in said or "hears nothing" in said
