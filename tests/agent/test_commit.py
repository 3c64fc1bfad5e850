"""Commit-confirm in an agent with a fake engine: arm, confirm, roll back, deadline, other boots, refusals."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from netctl.agent.agent import Agent
from netctl.agent.controlserver import ControlServer
from netctl.agent.host import Host
from netctl.agent.storage.commitstore import CommitStore, StoredCommit
from netctl.agent.storage.keyfiles import Keys, make_keys
from netctl.agent.storage.locations import Locations
from netctl.agent.storage.statestore import StateStore
from netctl.config.load.build import digest
from netctl.engine import FakeEngine
from netctl.model.errors import LocalError
from netctl.model.hoststate import HostState, PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.node.commit import Terms
from netctl.plan import Change
from netctl.system import statefiles
from netctl.system.clock import boottime
from tests.support.patience import BUSY_S

OTHER = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
LONG_S = 900.0
SESSION = "10.1.2.4 50000 10.1.2.3 22"


def quiet(line: str) -> None:
    """Tell nobody."""


async def settled(agent: Agent) -> None:
    """Nothing is under way any more, and nothing waits."""
    async with asyncio.timeout(60):
        while agent.runner.node.busy:
            await asyncio.sleep(0.001)


class World:
    """One host with a fake engine; who would watch the deadline from outside is written down."""

    def __init__(self, root: Path) -> None:
        self.where = Locations(root / "networks.yaml", root / "state", root / "run", root / "hosts")
        self.keys: Keys = make_keys(self.where)[0]
        self.engine: FakeEngine = FakeEngine()
        self.commits = CommitStore(self.where)
        self.started: list[StoredCommit] = []

    def watchdog(self, locations: Locations, record: StoredCommit) -> None:
        assert self.commits.record() == record, "the record is on disk before anything is started"
        self.started.append(record)

    def agent(self) -> Agent:
        return Agent(self.keys, StateStore(self.where), Host(lambda: self.engine), watchdog=self.watchdog)

    def text(self, other: str = "10.1.2.4", more: str = "") -> str:
        return f"""apiVersion: netctl/v1
mediators: []
members:
  here: {{wireguard: "{self.keys.wireguard}"}}
  there: {{wireguard: "{OTHER}", endpoints: ["127.0.0.1:51820"]}}
networks:
  office: {{mode: routed, ipv4: 10.1.2.0/24, members: ["*"], addresses: {{here: 10.1.2.3, there: {other}}}}}
{more}"""

    def live(self, script: Callable[[Agent], Awaitable[None]]) -> None:
        """One life of an agent, with its control socket, for as long as the script runs."""

        async def main() -> None:
            agent = self.agent()
            server = ControlServer(agent, self.where)
            await server.start()
            running = asyncio.create_task(agent.run())
            try:
                await script(agent)
                assert not running.done()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                await server.close()

        asyncio.run(main())

    async def ask(self, **request: Any) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(self.where.socket)
        writer.write(json.dumps(request).encode() + b"\n")
        answers = [json.loads(line) async for line in reader]
        writer.close()
        await writer.wait_closed()
        last: dict[str, Any] = answers[-1]
        return last

    async def apply(self, text: str, **more: Any) -> dict[str, Any]:
        return await self.ask(op="apply", text=text, file="f", **more)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_armed_apply_stays_when_it_is_confirmed(world: World) -> None:
    async def script(agent: Agent) -> None:
        await world.apply(world.text())
        assert world.started == []
        before = world.engine.state
        done = (await world.apply(world.text("10.1.2.5"), confirm_s=LONG_S))["result"]
        assert done["error"] is None
        assert done["armed"]["digest"] == digest(world.text("10.1.2.5"))
        (record,) = world.started
        assert (record.before, record.checkpoint) == (world.text(), before)
        status = (await world.ask(op="status"))["result"]
        assert 0 < status["armed"]["rolls_back_in_s"] <= LONG_S
        busy = await world.apply(world.text())
        assert "`netctl confirm` keeps it" in busy["error"]["message"]
        assert "netctl confirm" in (await world.ask(op="down"))["error"]["message"]
        assert (await world.ask(op="confirm"))["result"] == {"digest": record.digest}
        assert "nothing is armed" in (await world.ask(op="confirm"))["error"]["message"]
        assert "nothing is armed" in (await world.ask(op="rollback"))["error"]["message"]
        status = (await world.ask(op="status"))["result"]
        assert (status["armed"], status["refused"]) == (None, [])
        assert world.where.accepted.read_text() == world.text("10.1.2.5")

    world.live(script)


def test_a_rollback_brings_document_and_host_back_and_the_document_is_refused(world: World) -> None:
    async def script(agent: Agent) -> None:
        await world.apply(world.text())
        before, bad = world.engine.state, world.text("10.1.2.5")
        await world.apply(bad, confirm_s=LONG_S)
        assert world.engine.state != before
        done = (await world.ask(op="rollback"))["result"]
        assert (done["error"], done["changed"] > 0) == (None, True)
        assert world.engine.state == before
        assert world.where.accepted.read_text() == world.text()
        status = (await world.ask(op="status"))["result"]
        assert (status["armed"], status["refused"]) == (None, [digest(bad)])
        again = await world.apply(bad)
        assert "--force" in again["error"]["message"]
        assert world.engine.state == before
        assert (await world.apply(bad + "# changed\n"))["result"]["error"] is None
        await world.apply(world.text())
        assert (await world.apply(bad, force=True))["result"]["error"] is None
        assert (await world.ask(op="status"))["result"]["refused"] == []

    world.live(script)


def test_a_first_apply_goes_back_to_nothing(world: World) -> None:
    async def script(agent: Agent) -> None:
        await world.apply(world.text(), confirm_s=LONG_S)
        assert (await world.ask(op="rollback"))["result"]["error"] is None
        assert world.engine.state == HostState()
        assert not world.where.accepted.exists()
        assert (await world.ask(op="status"))["result"]["document"]["digest"] is None

    world.live(script)


def over(world: World, **changes: Any) -> StoredCommit:
    """The record on disk, changed."""
    plain = json.loads(world.where.armed.read_text())
    statefiles.write(world.where.armed, json.dumps({**plain, **changes}))
    record = world.commits.record()
    assert record is not None
    return record


def test_too_late_is_too_late_and_an_agent_that_starts_goes_back_first(world: World) -> None:
    async def script(agent: Agent) -> None:
        await world.apply(world.text())
        await world.apply(world.text("10.1.2.5"), confirm_s=LONG_S)
        over(world, deadline_s=boottime() - 0.01)
        late = await world.ask(op="confirm")
        assert "too late" in late["error"]["message"]

    world.live(script)
    assert world.commits.record() is not None
    assert world.where.accepted.read_text() == world.text("10.1.2.5")

    async def reborn(agent: Agent) -> None:
        async with asyncio.timeout(60):
            status = (await world.ask(op="status"))["result"]
            while not status["refused"] or status["armed"] is not None:
                status = (await world.ask(op="status"))["result"]

    world.live(reborn)
    assert world.where.accepted.read_text() == world.text()
    assert world.engine.state.wireguard is not None
    (peer,) = world.engine.state.wireguard.peers.values()
    assert "10.1.2.4/32" in {str(prefix) for prefix in peer.allowed_ips}


def test_a_record_of_another_boot_is_rolled_back_before_anything_is_reconciled(world: World) -> None:
    async def script(agent: Agent) -> None:
        await world.apply(world.text())
        await world.apply(world.text("10.1.2.5"), confirm_s=LONG_S)

    world.live(script)
    over(world, boot_id="another")
    world.engine.state, world.engine.applied[:] = HostState(), []

    async def reborn(agent: Agent) -> None:
        while agent.state.loaded is None or agent.commits.record() is not None:
            await asyncio.sleep(0)

    world.live(reborn)
    assert world.where.accepted.read_text() == world.text()
    assert "10.1.2.5" not in str(world.engine.applied), "nothing of the unconfirmed document was ever there"
    assert world.commits.refused() == (digest(world.text("10.1.2.5")),)


def test_an_agent_that_starts_with_time_left_stays_armed(world: World) -> None:
    async def script(agent: Agent) -> None:
        await world.apply(world.text())
        await world.apply(world.text("10.1.2.5"), confirm_s=LONG_S)

    world.live(script)

    async def reborn(agent: Agent) -> None:
        assert (await world.ask(op="confirm"))["result"]["digest"] == digest(world.text("10.1.2.5"))

    world.live(reborn)
    assert world.where.accepted.read_text() == world.text("10.1.2.5")


def test_an_apply_that_fails_and_goes_back_leaves_nothing_armed(world: World) -> None:
    async def script(agent: Agent) -> None:
        await world.apply(world.text())
        world.engine.fail_at = len(world.engine.applied) + 2
        done = (await world.apply(world.text("10.1.2.5"), confirm_s=LONG_S))["result"]
        assert (done["rolled_back"], done["changed"] > 0) == (True, True)
        status = (await world.ask(op="status"))["result"]
        assert (status["armed"], status["refused"]) == (None, [])

    world.live(script)


def test_an_apply_that_was_never_finished_cannot_be_confirmed(world: World) -> None:
    async def script(agent: Agent) -> None:
        await world.apply(world.text())
        await world.apply(world.text("10.1.2.5"), confirm_s=LONG_S)
        over(world, finished=False)  # as a kill before the last step leaves it
        assert "never finished" in (await world.ask(op="confirm"))["error"]["message"]
        assert (await world.ask(op="rollback"))["result"]["error"] is None

    world.live(script)


@pytest.mark.parametrize(
    ("terms", "text", "armed"),
    [
        (Terms(ssh_connection=SESSION), "10.1.2.5", True),
        (Terms(ssh_connection=SESSION), "10.1.2.4", False),
        (Terms(ssh_connection="192.0.2.1 50000 192.0.2.9 22"), "10.1.2.5", False),
        (Terms(ssh_connection="nonsense"), "10.1.2.5", False),
        (Terms(confirm_s=LONG_S), "10.1.2.4", True),
        (Terms(), "10.1.2.5", False),
    ],
    ids=["rides", "rides-no-change", "elsewhere", "nonsense", "asked-no-change", "not-asked"],
)
def test_armed_by_itself_only_where_the_session_rides_on_a_change(
    terms: Terms, text: str, armed: bool, world: World
) -> None:
    async def main() -> None:
        agent = world.agent()
        await agent.apply(world.text(), "f", quiet)
        more = "apply: {confirm: 7m}\n" if text == "10.1.2.5" else ""
        result = await agent.apply(world.text(text, more), "f", quiet, terms=terms)
        assert (result.armed is not None) is armed
        if armed and terms.confirm_s is None:
            left = world.started[0].left_s
            assert 410 < left <= 420, "the document says for how long"
        agent.paths.close()
        await agent.host.close()

    asyncio.run(main())


def test_a_watchdog_that_does_not_start_leaves_everything_as_it_was(world: World) -> None:
    def broken(locations: Locations, record: StoredCommit) -> None:
        raise LocalError("no process could be started")

    async def main() -> None:
        agent = Agent(world.keys, StateStore(world.where), Host(lambda: world.engine), watchdog=broken)
        with pytest.raises(LocalError, match="no process"):
            await agent.apply(world.text(), "f", quiet, terms=Terms(confirm_s=LONG_S))
        assert world.engine.applied == []
        assert agent.state.loaded is None
        assert world.commits.record() is None
        agent.paths.close()
        await agent.host.close()

    asyncio.run(main())


def test_two_applies_at_once_come_one_after_the_other_and_it_is_said(world: World) -> None:
    async def main() -> None:
        world.engine = engine = Slow()
        agent = world.agent()
        said: list[Any] = []
        engine.go.clear()
        first = asyncio.create_task(agent.apply(world.text(), "f", quiet))
        await asyncio.to_thread(engine.looking.wait, 60)
        waiting = asyncio.create_task(agent.apply(world.text("10.1.2.5"), "f", said.append))
        while not said:
            await asyncio.sleep(0.01)
        assert "another change of this host" in said[0]
        assert world.engine.applied == []
        engine.go.set()
        assert (await first).outcome.error is None
        assert (await waiting).outcome.error is None
        assert world.where.accepted.read_text() == world.text("10.1.2.5")
        agent.paths.close()
        await agent.host.close()

    asyncio.run(main())


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"nonce": 1}', "[" * 5000])
def test_a_damaged_record_is_said_and_stops_no_agent(damage: str, world: World) -> None:
    world.where.armed.write_text(damage)

    async def script(agent: Agent) -> None:
        status = (await world.ask(op="status"))["result"]
        assert any("armed.json" in line for line in status["conditions"])
        assert "armed.json" in (await world.ask(op="confirm"))["error"]["message"]

    world.live(script)


def test_a_record_comes_back_as_it_went(world: World) -> None:
    record = world.commits.arm(5.0, "text", None, HostState(names={"a": ()}), "auto", Terms(unattended=True))
    assert world.commits.record() == record
    assert world.where.armed.stat().st_mode & 0o777 == 0o600
    assert replace(record, boot_id="other").left_s == 0.0
    for seconds in (0.5, 86_401.0, float("nan")):
        with pytest.raises(LocalError, match="confirmation"):
            world.commits.arm(seconds, "text", None, HostState(), "auto", Terms())


class Slow(FakeEngine):
    """A look at the host takes until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()
        self.looking = threading.Event()

    def read(self) -> HostState:
        self.looking.set()
        assert self.go.wait(60)
        return super().read()


class Deaf(FakeEngine):
    """Forgets its sessions when its peers change, as a link that is made anew does; they come back if it is healed."""

    healed = True

    def apply(self, change: Change) -> None:
        super().apply(change)
        self.status = {key: PeerStatus(None, 0.0, 0, 0) for key in self.status}

    def observe(self) -> Mapping[WireGuardKey, PeerStatus]:
        if self.healed:
            self.status = {key: PeerStatus(None, time.time(), 1, 0) for key in self.status}
        return super().observe()


@pytest.mark.parametrize("healed", [True, False], ids=["answers", "silent"])
def test_an_apply_after_which_no_tunnel_answers_is_taken_back(healed: bool, world: World) -> None:
    world.engine = engine = Deaf()

    async def script(agent: Agent) -> None:
        await world.apply(world.text())
        before = engine.state
        engine.status = {WireGuardKey.parse(OTHER): PeerStatus(None, 0.0, 0, 0)}
        while not agent.tunnels.live:
            await agent.tunnels.observe()
        engine.healed, agent.context.handshake_wait_s = healed, BUSY_S if healed else 0.3
        done = (await world.apply(world.text("10.1.2.5")))["result"]
        if healed:
            assert (done["error"], done["warnings"]) == (None, [])
            return
        assert "no tunnel that was up before answers" in done["error"]
        assert "there" in done["error"]
        assert (done["rolled_back"], done["changed"] > 0) == (True, True)
        assert engine.state == before
        assert world.where.accepted.read_text() == world.text()

    world.live(script)
