"""An agent that follows its document: real files and events, a fake engine behind."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from netctl.agent.agent import Agent
from netctl.agent.watchers.documentwatch import DocumentWatch
from netctl.config.load.build import digest
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from tests.agent.test_commit import OTHER, World
from tests.support.patience import BUSY_S

PATIENCE_S = BUSY_S


class Watched(World):
    """Its agent follows the document."""

    def agent(self) -> Agent:
        agent = super().agent()
        agent.watch = DocumentWatch(agent, self.where.config, quiet_s=0.05)
        return agent

    def save(self, text: str) -> None:
        beside = self.where.config.with_name(".new")
        beside.write_text(text)
        beside.replace(self.where.config)

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.ask(op="status"))["result"]
        return found

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not holds(status := await self.status()):
            assert time.monotonic() < deadline, status
            await asyncio.sleep(0.02)
        return status

    def lives_by(self, text: str) -> Callable[[dict[str, Any]], bool]:
        """The document is accepted, which is the last thing that an apply does."""

        def holds(status: dict[str, Any]) -> bool:
            same: bool = status["document"]["digest"] == digest(text)
            return same and self.where.accepted.read_text() == text

        return holds

    def started_with(self, text: str, script: Callable[[Agent], Awaitable[None]]) -> None:
        self.save(text)

        async def whole(agent: Agent) -> None:
            assert (await self.apply(text))["result"]["error"] is None
            await script(agent)

        self.live(whole)


@pytest.fixture
def world(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_save_converges_once_and_a_broken_one_changes_nothing_and_is_said(world: Watched) -> None:
    good, other = world.text(), world.text("10.1.2.5")

    async def script(agent: Agent) -> None:
        assert (await world.status())["watch"] == {"file": str(world.where.config), "error": None}
        world.save(other)
        await world.until(world.lives_by(other))
        steps = len(world.engine.applied)
        world.save("networks: [\n")
        broken = await world.until(lambda status: status["watch"]["error"] is not None)
        assert "networks.yaml:1:12" in broken["watch"]["error"]
        assert "nothing was changed" in broken["watch"]["error"]
        assert broken["watch"]["error"] in broken["conditions"]
        assert world.lives_by(other)(broken)
        world.where.config.unlink()
        await world.until(lambda status: "there is no" in (status["watch"]["error"] or ""))
        world.save(other + "# the same\n")
        await world.until(world.lives_by(other + "# the same\n"))
        assert len(world.engine.applied) == steps
        world.save(good)
        after = await world.until(world.lives_by(good))
        assert (after["watch"]["error"], after["armed"], world.started) == (None, None, [])

    world.started_with(good, script)


def test_what_was_edited_while_no_agent_ran_is_said_and_waits(world: Watched) -> None:
    good, other = world.text(), world.text("10.1.2.5")

    async def nothing(agent: Agent) -> None:
        return

    world.started_with(good, nothing)
    world.save(other)

    async def script(agent: Agent) -> None:
        status = await world.until(lambda status: status["watch"]["error"] is not None)
        assert "`netctl apply` makes it so" in status["watch"]["error"]
        assert world.lives_by(good)(status)
        await world.apply(other)
        assert (await world.status())["watch"]["error"] is None

    world.live(script)


def test_a_host_without_a_document_waits_for_its_first_apply(world: Watched) -> None:
    async def script(agent: Agent) -> None:
        await world.until(lambda status: status["watch"] is not None)
        world.save(world.text())
        await asyncio.sleep(0.4)  # longer than a save is waited for
        assert world.engine.applied == []
        await world.apply(world.text())
        world.save(world.text("10.1.2.5"))
        await world.until(world.lives_by(world.text("10.1.2.5")))

    world.live(script)


def test_a_save_waits_while_somebody_has_to_confirm(world: Watched) -> None:
    good, tried, saved = world.text(), world.text("10.1.2.5"), world.text("10.1.2.6")

    async def script(agent: Agent) -> None:
        await world.apply(tried, confirm_s=900.0)
        world.save(saved)
        await asyncio.sleep(0.4)
        assert world.lives_by(tried)(await world.status())
        await world.ask(op="confirm")
        await world.until(world.lives_by(saved))

    world.started_with(good, script)


def test_an_apply_that_is_armed_after_the_save_goes_back_to_before_the_save(world: Watched) -> None:
    good, other = world.text(), world.text("10.1.2.5")

    async def script(agent: Agent) -> None:
        before = world.engine.state
        world.save(other)
        await world.until(world.lives_by(other))
        assert (await world.apply(other, confirm_s=900.0))["result"]["changed"] == 0
        assert (await world.ask(op="rollback"))["result"]["changed"] > 0
        assert world.engine.state == before
        assert world.lives_by(good)(await world.status())
        assert "taken back" in (await world.status())["watch"]["error"]

    world.started_with(good, script)


@pytest.mark.parametrize("heard", [True, False], ids=["heard-again", "silence"])
def test_a_save_that_cuts_the_host_off_is_taken_back_and_any_other_stays(heard: bool, world: Watched) -> None:
    """A peer with a session before: afterwards it must be heard, or the save goes back."""
    good = world.text()
    other = world.text("10.1.2.5", f"apply: {{confirm: {'15s' if heard else '8s'}}}\n")
    peer = WireGuardKey.parse(OTHER)
    received = itertools.count(200)

    def session(received: int) -> None:
        world.engine.status = {peer: PeerStatus(None, time.time(), received, 0)}

    async def script(agent: Agent) -> None:
        session(100)
        await world.until(lambda _: bool(agent.tunnels.live))
        world.save(other)
        armed = await world.until(lambda status: status["armed"] is not None)
        assert armed["armed"]["digest"] == digest(other)
        await world.until(world.lives_by(other))

        def ended_meanwhile(status: dict[str, Any]) -> bool:
            if heard:  # again and again: what comes before the first look counts as heard before
                session(next(received))
            return status["armed"] is None

        ended = await world.until(ended_meanwhile)
        assert world.lives_by(other if heard else good)(ended)
        assert ended["refused"] == ([] if heard else [digest(other)])
        assert (ended["watch"]["error"] is None) is heard

    world.started_with(good, script)
