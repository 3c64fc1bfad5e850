"""Whether a peer answers, while somebody looks: seen within two seconds, and no path is any the worse for it."""

from __future__ import annotations

import pytest

from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c
from netctl.paths.liveness import Liveness, Watch
from tests.paths.test_pathmanager import kinds, two_behind_nats
from tests.support.pathsim import Host, World

SEEN_S = 2.0


def settled(*, loss: float = 0.0, seed: int = 1, symmetric: bool = False) -> World:
    """Two members that are idle for a minute."""
    world = two_behind_nats(seed, loss=loss, symmetric=(symmetric, symmetric))
    for host in world.hosts:
        host.manager.allow_guessing(False)
    world.start()
    world.run(90)
    return world


def look(world: World, host: Host, seconds: float) -> None:
    """Somebody looks at a host for so long, and renews it every second."""
    end = world.now + seconds
    while world.now < end:
        world.perform(host, host.manager.watch(world.now + 3.0, world.now))
        world.run(min(1.0, end - world.now))


def answers(host: Host, other: Host) -> bool | None:
    return host.manager.status()[other.key].answers


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_peer_that_is_cut_off_and_comes_back_is_seen_within_two_seconds(symmetric: bool) -> None:
    """Also over the relay, through the tunnel."""
    world = settled(symmetric=symmetric)
    a, b = world.hosts
    assert kinds(world) == (["relay-udp"] * 2 if symmetric else ["direct"] * 2)
    assert answers(a, b) is None, "nobody looks"
    look(world, a, 5)
    assert answers(a, b) is True
    for pause in (3.0, 60.0):
        a.liveness.clear()
        b.on, cut = False, world.now
        look(world, a, pause)
        assert answers(a, b) is False
        assert a.liveness[0][0] - cut < SEEN_S
        b.on, back = True, world.now
        look(world, a, SEEN_S)
        assert answers(a, b) is True, f"back after {pause} s"
        assert a.liveness[-1][0] - back < SEEN_S
        look(world, a, 30)
        assert kinds(world)[0] == ("relay-udp" if symmetric else "direct")


def test_who_lets_no_ping_pass_is_not_said_to_be_silent() -> None:
    world = settled(symmetric=True)
    a, b = world.hosts
    b.echoes = False
    look(world, a, 10)
    assert a.asked
    assert answers(a, b) is None


def test_an_interest_is_over_by_itself_and_costs_nothing_then() -> None:
    world = settled()
    a, b = world.hosts
    before = world.sent
    world.run(60)
    quiet = world.sent - before
    look(world, a, 10)
    world.run(5)
    assert answers(a, b) is None, "nobody looks any more"
    before = world.sent
    world.run(60)
    assert world.sent - before <= quiet + 4


def test_it_is_two_small_questions_a_second() -> None:
    world = settled()
    a, _ = world.hosts
    before = world.sent
    world.run(30)
    quiet, before = world.sent - before, world.sent
    look(world, a, 30)
    assert 30 / c.LIVENESS_EVERY <= (world.sent - before - quiet) / 2 <= 30 / c.LIVENESS_EVERY + 5


@pytest.mark.parametrize("offset", range(10))
def test_an_outage_that_a_path_survives_it_survives_while_somebody_looks(offset: int) -> None:
    """These questions are no pings of the path: unanswered for 3.5 s they are no reason to leave it."""
    changes = []
    for looked_at in (False, True):
        world = settled()
        a, b = world.hosts
        world.run(offset)
        if looked_at:
            look(world, a, 5)
        else:
            world.run(5)
        before = len(a.changes) + len(b.changes)
        b.on = False
        look(world, a, 3.5) if looked_at else world.run(3.5)
        b.on = True
        look(world, a, 20) if looked_at else world.run(20)
        assert kinds(world) == ["direct", "direct"]
        changes.append(len(a.changes) + len(b.changes) - before)
    assert changes[1] <= changes[0]


def test_a_loss_of_a_twentieth_each_way_is_no_silence() -> None:
    world = settled(loss=0.05)
    a, b = world.hosts
    look(world, a, 600)
    assert answers(a, b) is not None
    silences = sum(answered is False for _, answered in a.liveness)
    assert silences <= 4, "one in ten minutes, about"


def test_an_app_without_an_agent_is_let_sleep() -> None:
    world = settled(symmetric=True)
    a, b = world.hosts
    world.perform(a, a.manager.set_peers([b.key], world.now, stock=frozenset([b.key])))
    world.run(10)
    look(world, a, 10)
    assert not a.asked
    assert answers(a, b) is None


def test_many_are_asked_in_turn_within_a_bound() -> None:
    """Of 1,000 peers each is asked every five seconds, and nobody is forgotten."""
    watch = Watch()
    watch.until = 1000.0
    peers = [Liveness(watch, WireGuardKey(number.to_bytes(2, "big") * 16)) for number in range(1000)]
    asked = [0] * len(peers)
    sent, now = 0, 0.0
    while now < 30.0:
        now += 0.05
        for number, peer in enumerate(peers):
            peer.plan(now, possible=True)
            if peer.is_due(now, known=True):
                transaction = sent.to_bytes(8, "big")
                sent += 1
                asked[number] += 1
                peer.sent(transaction, now)
                peer.answered(transaction, now)
    assert sent <= c.LIVENESS_RATE * 30 + c.LIVENESS_BURST
    assert min(asked) >= 3
    for peer in peers:
        peer.rest()
    assert watch.asked == 0


def test_answers_that_were_held_up_do_not_make_the_next_silence_longer() -> None:
    """A router keeps what it cannot deliver, and a cable that is put in again brings it all at once."""
    watch = Watch()
    watch.until = 100.0
    peer = Liveness(watch, WireGuardKey(bytes(32)))
    now, waiting, silent_at = 0.0, [], []
    while now < 30.0:
        now = round(now + 0.01, 2)
        was, cut = peer.answers, 10.0 <= now < 14.0 or now >= 14.5
        peer.plan(now, possible=True)
        if peer.is_due(now, known=True):
            transaction = str(now).encode()
            peer.sent(transaction, now)
            waiting.append(transaction)
        if not cut:
            for transaction in waiting:
                peer.answered(transaction, now)
            waiting.clear()
        if peer.answers is False and was is not False:
            silent_at.append(now)
    assert silent_at[1] - 14.5 < SEEN_S - 0.5


def test_an_answer_to_nothing_is_nothing() -> None:
    peer = Liveness(Watch(), WireGuardKey(bytes(32)))
    assert not peer.answered(b"a guess", 1.0)
    assert peer.answers is None
