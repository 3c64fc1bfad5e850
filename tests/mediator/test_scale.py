"""A small slice of `bench/scale.py`: what each event costs in messages is what docs/thousands.md says."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.mediator.scalekit import Count, Host, Shape, World, hub_and_spokes, networks, sites

MEMBERS, MEDIATORS, INTEREST_ABOVE = 120, 4, 25
"""Views of 28 and 30 members are large here, those of 4 and 6 are not."""
SHAPES = [networks(MEMBERS, 30), hub_and_spokes(MEMBERS, 30, 3), sites(MEMBERS, 6)]


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def world(request: pytest.FixtureRequest) -> World:
    """Everybody is logged in; every member is a whole session, which checks what it is told."""
    shape: Shape = request.param
    made = World(shape, MEDIATORS, real=1, interest_above=INTEREST_ABOVE)
    made.everybody(2.0)
    made.pass_time(1.0)
    assert made.online() == MEMBERS
    return made


def some(world: World) -> list[Host]:
    """A member in the middle of a part, and the first one of a part, which is a server where there are servers."""
    first = world.shape.parts[1].start
    return [world.hosts[first], world.hosts[first + world.shape.part // 2]]


def check_told(world: World) -> None:
    """Every member knows its view, and who of it is online."""
    for host in world.hosts:
        assert host.refused in ("", "session.replaced"), host.refused
        if host.node is None or host.kept is None:
            continue
        peers = {world.hosts[number].key: world.hosts[number] for number in world.shape.peers(host.number)}
        assert set(host.kept.view.members) == {host.key, *peers}
        for key, peer in peers.items():
            told = not world.is_large(host) or peer.number in host.talks_to
            expected = (peer.node is not None) if told else None
            assert host.presence[key] is expected, f"{host.number} of {peer.number}"


def presence(count: Count) -> int:
    return count.to_members["presence"]


def test_a_log_out_and_a_log_in_are_told_to_the_audience_alone(world: World) -> None:
    for host in some(world):
        node = host.node
        assert node is not None
        with world.counting() as count:
            world.log_out(host)
        assert count.to_members == {"presence": world.audience(host)}
        assert count.bus == {"presence": 1}
        check_told(world)
        with world.counting() as count:
            world.log_in(host, node)
        asked = int(world.is_large(host))
        assert +count.to_members == +Counter(
            hello=1, welcome=1, sealed=1, presences=asked, presence=world.audience(host)
        )
        assert +count.from_members == +Counter(login=1, interest=asked)
        assert count.bus == {"presence": 1}
        check_told(world)


def test_a_view_has_a_row_for_each_member_that_may_be_seen_and_no_more(world: World) -> None:
    for host in some(world):
        node, rows = host.node, len(world.shape.peers(host.number)) + 1
        assert node is not None
        world.log_out(host)
        world.forget_view(host)
        with world.counting() as count:
            world.log_in(host, node)
        assert count.to_members["rows"] == 1
        assert host.kept is not None
        assert (len(host.kept.view.members), len(host.kept.view.leases)) == (rows, rows)


def test_another_address_costs_a_login_and_an_introduction_for_each_peer(world: World) -> None:
    for host in some(world):
        node, peers = host.node, len(host.talks_to)
        assert node is not None
        with world.counting() as count:
            world.move(host)
        asked = int(world.is_large(host))
        assert +count.from_members == +Counter(login=1, interest=asked, candidates=2 * peers)
        assert count.to_members["introduction"] == 2 * peers
        assert presence(count) == world.audience(host, at=node), "elsewhere nobody sees a difference"
        assert not count.to_members["rows"]
        apart = sum(world.hosts[peer].node is not node for peer in host.talks_to)
        assert count.bus["carry"] >= 2 * apart
        check_told(world)


def test_a_changed_document_is_told_to_those_whose_view_changes(world: World) -> None:
    for host in some(world):
        with world.counting() as count:
            world.change_address(host.number)
        told = len(world.shape.peers(host.number)) + 1
        assert count.to_members == {"delta": told, "sealed": told}
        assert count.bus == {"changed": MEDIATORS}
        check_told(world)


def test_members_of_a_dead_mediator_come_to_the_others_and_everybody_knows(world: World) -> None:
    gone = world.kill(world.nodes[0])
    assert len(gone) == MEMBERS // MEDIATORS
    world.everybody(6.0)
    world.pass_time(4.0)
    assert world.online() == MEMBERS
    check_told(world)


def test_after_a_restart_of_all_no_view_is_sent_again(world: World) -> None:
    world.restart_all()
    with world.counting() as count:
        world.everybody(3.0)
    assert world.online() == MEMBERS
    assert not count.to_members["rows"]
    assert count.to_members["welcome"] == count.to_members["sealed"] == MEMBERS
    check_told(world)


def test_a_sensor_sees_three_servers_and_hears_of_them_alone_among_ten_thousand() -> None:
    shape = hub_and_spokes(10_003, 10_003, 3)
    world = World(shape, 1, real=5_000)
    server, sensor = world.hosts[0], world.hosts[5_000]
    assert sensor.real
    for host in (*world.hosts[:3], sensor, *world.hosts[9_000:9_010]):
        world.log_in(host, world.nodes[0])
    world.pass_time(1.0)
    assert sensor.kept is not None
    members = sensor.kept.view.members
    seen = {member.name for key, member in members.items() if key != sensor.key}
    assert seen == {"m000000", "m000001", "m000002"}
    assert len(sensor.kept.view.leases) == 4
    assert server.kept is not None
    assert len(server.kept.view.members) == 10_001
    other = world.hosts[9_000]
    world.log_out(other)
    world.forget_view(other)
    with world.counting() as count:
        world.log_in(other, world.nodes[0])
    assert presence(count) == 3, "each server has a tunnel with it, and asks for all of its ten thousand"
    assert server.presence[other.key]
    assert count.bytes_to_members["rows"] < 700


@pytest.mark.parametrize("shape", ["networks", "spokes", "groups"])
def test_the_benchmark_has_a_row_for_every_event(shape: str) -> None:
    program = Path(__file__).parents[2] / "bench/scale.py"
    command = [sys.executable, str(program), "--members", "160", "--mediators", "3", "--chosen", "2"]
    done = subprocess.run([*command, "--shape", shape], check=True, capture_output=True, text=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == (15 if shape == "spokes" else 12) + 1
    assert "a unit: " in done.stdout
