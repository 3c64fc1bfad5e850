"""A plan changes nothing of the agent, an apply carries one evaluation through, and the disk holds nobody up."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from typing import Any

import pytest

from netctl.agent.agent import Agent
from netctl.agent.storage.commitstore import StoredCommit
from netctl.agent.storage.locations import Locations
from netctl.engine import FakeEngine
from netctl.model.foreign import Foreign, ForeignRoute
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.node import requests
from netctl.node.commit import Terms
from netctl.node.state import NodeState
from netctl.plan import Binding
from netctl.session import Kept, ViewChanged
from netctl.wire.control import Sealed
from tests.agent.test_commit import LONG_S, OTHER, Slow, World, quiet, settled
from tests.agent.test_joined_excerpt import PIN

THIRD = WireGuardKey(bytes([3]) * 32)
IN_THE_WAY = Foreign(routes=(ForeignRoute(IPv4Network("10.9.9.0/24"), "the route 10.9.9.0/24 over eth0"),))
LAB = "lab: {mode: routed, ipv4: 10.9.9.0/24, members: ['*'], addresses: {here: 10.9.9.3, there: 10.9.9.4}}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def with_lab(world: World) -> str:
    return world.text(more=f"  {LAB}\n")


def test_a_plan_leaves_the_foreign_route_that_the_drift_check_has_to_miss(world: World) -> None:
    async def main() -> None:
        agent = world.agent()
        world.engine.strangers = IN_THE_WAY
        await agent.apply(with_lab(world), "f", quiet)
        assert any("not brought up" in one.message for one in agent.state.conditions)
        world.engine.strangers = Foreign()  # it went away, and somebody plans before the next look
        before = agent.state
        await agent.plan(with_lab(world), "f")
        assert agent.state == before, "a plan has changed what the node knows"
        await agent.runner.ask(requests.CheckDrift())
        await settled(agent)
        assert agent.state.conditions == (), "the network stays down though nothing is in its way"
        await agent.close()

    asyncio.run(main())


def test_conditions_of_a_planned_or_refused_document_are_not_the_hosts(world: World) -> None:
    engine = world.engine = Slow()

    async def script(agent: Agent) -> None:
        async def conditions() -> list[str]:
            found: list[str] = (await world.ask(op="status"))["result"]["conditions"]
            return found

        await world.apply(world.text())
        engine.strangers = IN_THE_WAY
        assert await conditions() == []
        engine.go.clear()
        engine.looking.clear()
        planning = asyncio.create_task(world.ask(op="plan", text=with_lab(world), file="f"))
        await asyncio.to_thread(engine.looking.wait, 60)
        during = await conditions()
        engine.go.set()
        planned = (await planning)["result"]
        assert any("not brought up" in warning for warning in planned["warnings"])
        assert during == [], "status shows what a plan has found"
        engine.fail_at = len(engine.applied) + 1
        failed = await world.apply(with_lab(world).replace("10.1.2.4", "10.1.2.5"))
        assert failed["result"]["rolled_back"]
        assert await conditions() == [], "status shows what a refused document would have had"

    world.live(script)


def mediated(world: World, more: str = "") -> str:
    text = world.text().replace("members:\n", f"members:\n  third: {{wireguard: '{THIRD}'}}\n", 1)
    return (
        text.replace("mediators: []", f'mediators: [{{url: "netctl://127.0.0.1:1", identity: ["{PIN}"]}}]')
        + more
    )


def view(world: World, generation: int, *others: WireGuardKey) -> View:
    names = {world.keys.wireguard: "here", WireGuardKey.parse(OTHER): "there", THIRD: "third"}
    keys = (world.keys.wireguard, *others)
    leases = {("office", THIRD): Lease("office", THIRD, (ip_address("10.1.2.9"),))}
    return View(generation, {key: ViewMember(names[key], key, online=False) for key in keys}, leases, "")


def tell(agent: Agent, seen: View) -> None:
    """As the control connection would."""
    agent._on_control(ViewChanged(seen, Kept(seen, Sealed(seen.generation, "", "", ""))))


def peers(engine: FakeEngine) -> set[WireGuardKey]:
    return set(engine.state.wireguard.peers) if engine.state.wireguard is not None else set()


def test_a_view_that_comes_while_an_apply_is_armed_waits_for_its_end(world: World) -> None:
    """What was checked against the plan is what is applied; the view is for the reconciler."""
    other = WireGuardKey.parse(OTHER)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrived = threading.Event()

        def come() -> None:
            tell(agent, view(world, 2, other, THIRD))
            arrived.set()

        def watchdog(locations: Locations, record: StoredCommit) -> None:
            loop.call_soon_threadsafe(come)
            assert arrived.wait(60)

        world.watchdog = watchdog  # type: ignore[method-assign]
        agent = world.agent()
        agent.context.handshake_wait_s = 0.0
        agent.context.state = NodeState(
            loaded=agent.store.load(mediated(world), "f"), view=view(world, 1, other)
        )
        planned = (await agent.plan(mediated(world), "f")).to_json()
        assert "third" not in str(planned["changes"])
        terms, bound = Terms(confirm_s=LONG_S), Binding(**planned["binding"])
        result = await agent.apply(mediated(world), "f", quiet, holds=bound, terms=terms)
        assert result.outcome.error is None
        assert peers(world.engine) == {other}, "a view that came after the check was applied"
        await settled(agent)
        assert peers(world.engine) == {other, THIRD}
        await agent.close()

    asyncio.run(main())


def test_a_host_that_changes_while_an_apply_is_armed_makes_its_plan_stale(world: World) -> None:
    def watchdog(locations: Locations, record: StoredCommit) -> None:
        world.engine.state = HostState(names={"by.hand": (IPv4Address("10.1.2.99"),)})

    world.watchdog = watchdog  # type: ignore[method-assign]

    async def script(agent: Agent) -> None:
        planned = (await world.ask(op="plan", text=world.text(), file="f"))["result"]
        done = (await world.apply(world.text(), binding=planned["binding"], confirm_s=LONG_S))["result"]
        assert "has changed since the plan" in done["error"]
        assert (done["rolled_back"], world.engine.applied) == (True, [])
        assert world.commits.record() is None

    world.live(script)


class Unwell(FakeEngine):
    """Once, what it is asked raises something that no engine says it raises."""

    broken = False

    def observe(self) -> Mapping[WireGuardKey, Any]:
        if self.broken:
            self.broken = False
            raise TimeoutError("the engine does not answer")
        return super().observe()


def test_an_exception_while_an_apply_is_verified_ends_in_the_accepted_document(world: World) -> None:
    engine = world.engine = Unwell()

    async def script(agent: Agent) -> None:
        await world.apply(world.text())
        before = engine.state
        agent.tunnels.live = frozenset({WireGuardKey.parse(OTHER)})
        engine.broken = True
        failed = await world.apply(world.text("10.1.2.5"))
        assert "does not answer" in failed["error"]["message"]
        async with asyncio.timeout(30):
            while engine.state != before or agent.runner.node.busy:
                await asyncio.sleep(0)
        assert world.where.accepted.read_text() == world.text()

    world.live(script)


class _Hook:
    """Notes who renames or removes files (sys.addaudithook; it stays as long as the process)."""

    def __init__(self) -> None:
        self.on = False
        self.found: list[tuple[str, str, str]] = []
        sys.addaudithook(self.heard)

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or event not in ("os.rename", "os.remove", "os.link"):
            return
        name = threading.current_thread().name
        self.found.append((name, event, str(arguments[0])))


HOOK: list[_Hook] = []


@pytest.fixture
def writers() -> Iterator[Callable[[], list[tuple[str, str, str]]]]:
    """Threads that have written: every file of ours takes its place by a rename, right after its fsync."""
    if not HOOK:
        HOOK.append(_Hook())
    (hook,) = HOOK
    hook.on, hook.found = True, []
    yield lambda: list(hook.found)
    hook.on = False


def test_no_file_is_written_in_the_event_loop(
    world: World, writers: Callable[[], list[tuple[str, str, str]]]
) -> None:
    async def script(agent: Agent) -> None:
        await world.apply(world.text())
        await world.apply(world.text("10.1.2.5"), confirm_s=LONG_S)
        await world.ask(op="confirm")
        await world.apply(world.text("10.1.2.6"), confirm_s=LONG_S)
        await world.ask(op="rollback")
        await world.apply(world.text("10.1.2.6"), force=True)
        await world.ask(op="down")
        await world.ask(op="up")
        tell(agent, view(world, 1))
        async with asyncio.timeout(30):
            while not world.where.view.exists():
                await asyncio.sleep(0.01)

    world.live(script)
    main = threading.main_thread().name
    found = writers()
    assert len(found) > 10
    ours = [row for row in found if row[0] == main and "agent.sock" not in row[2]]
    assert ours == [], "the event loop waited for a disk"
