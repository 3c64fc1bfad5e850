"""An agent with a fake engine and its real control socket: apply, down and up, restart, bad input."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from netctl.agent.agent import Agent
from netctl.agent.controlserver import ControlServer
from netctl.agent.host import Host
from netctl.agent.storage.keyfiles import Keys, make_keys
from netctl.agent.storage.locations import Locations
from netctl.agent.storage.statestore import StateStore
from netctl.engine import FakeEngine
from netctl.model.errors import EngineError
from netctl.model.hoststate import HostState, PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.node import requests
from netctl.node.events import TimePassed

OTHER = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="


def locations(root: Path) -> Locations:
    return Locations(root / "networks.yaml", root / "state", root / "run", root / "hosts")


def document(keys: Keys, other: str = "10.1.2.4") -> str:
    return f"""apiVersion: netctl/v1
mediators: []
members:
  here: {{wireguard: "{keys.wireguard}"}}
  there: {{wireguard: "{OTHER}", endpoints: ["127.0.0.1:51820"]}}
networks:
  office: {{mode: routed, ipv4: 10.1.2.0/24, members: ["*"], addresses: {{here: 10.1.2.3, there: {other}}}}}
"""


async def ask(where: Locations, request: dict[str, Any]) -> dict[str, Any]:
    """The last answer to one request."""
    reader, writer = await asyncio.open_unix_connection(where.socket)
    writer.write(json.dumps(request).encode() + b"\n")
    answers = [json.loads(line) async for line in reader]
    writer.close()
    await writer.wait_closed()
    last: dict[str, Any] = answers[-1]
    return last


def live(where: Locations, keys: Keys, engine: FakeEngine, script: Callable[[], Awaitable[None]]) -> None:
    """One life of an agent, for as long as the script runs."""

    async def main() -> None:
        agent = Agent(keys, StateStore(where), Host(lambda: engine))
        server = ControlServer(agent, where)
        await server.start()
        running = asyncio.create_task(agent.run())
        try:
            await script()
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await server.close()

    asyncio.run(main())


def test_apply_down_up_and_another_life(tmp_path: Path) -> None:
    where, engine = locations(tmp_path), FakeEngine()
    keys, _ = make_keys(where)
    text = document(keys)

    async def first() -> None:
        assert where.socket.stat().st_mode & 0o777 == 0o600
        planned = (await ask(where, {"op": "plan", "text": text, "file": "f"}))["result"]
        assert planned["changes"]
        assert engine.state == HostState()
        done = (await ask(where, {"op": "apply", "text": text, "file": "f"}))["result"]
        assert done["error"] is None
        assert done["changed"] > 0
        assert (await ask(where, {"op": "apply", "text": text, "file": "f"}))["result"]["changed"] == 0
        status = (await ask(where, {"op": "status"}))["result"]
        assert status["member"] == "here"
        assert status["networks"]["office"]["addresses"] == ["10.1.2.3"]
        assert [peer["name"] for peer in status["peers"]] == ["there"]
        whole = engine.state
        assert (await ask(where, {"op": "down"}))["result"]["error"] is None
        assert engine.state.routes == frozenset()
        resting = (await ask(where, {"op": "status"}))["result"]
        assert resting["conditions"] == []
        assert resting["peers"][0]["last_handshake_s"] is None
        assert (await ask(where, {"op": "up"}))["result"]["error"] is None
        assert engine.state == whole

    live(where, keys, engine, first)
    steps = len(engine.applied)

    async def second() -> None:
        done = (await ask(where, {"op": "apply", "text": text, "file": "f"}))["result"]
        assert done["changed"] == 0

    live(where, keys, engine, second)
    assert len(engine.applied) == steps, "a new life touched what was right"


def test_a_failed_apply_leaves_the_accepted_document(tmp_path: Path) -> None:
    where, engine = locations(tmp_path), FakeEngine()
    keys, _ = make_keys(where)
    good = document(keys)

    async def script() -> None:
        await ask(where, {"op": "apply", "text": good, "file": "f"})
        before = engine.state
        engine.fail_at = len(engine.applied) + 2
        bad = await ask(where, {"op": "apply", "text": document(keys, "10.1.2.5"), "file": "f"})
        assert bad["result"]["rolled_back"]
        assert engine.state == before
        assert where.accepted.read_text() == good

    live(where, keys, engine, script)


def test_bad_requests_get_one_line_and_change_nothing(tmp_path: Path) -> None:
    where, engine = locations(tmp_path), FakeEngine()
    keys, _ = make_keys(where)
    stranger = document(keys).replace(str(keys.wireguard), "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=")

    async def script() -> None:
        broken = (await ask(where, {"op": "apply", "text": "networks: {}\nnetworks: {}\n", "file": "f"}))[
            "error"
        ]
        assert broken["kind"] == "config"
        assert {f["file"] for f in broken["findings"]} == {"f"}
        assert 2 in {f["line"] for f in broken["findings"]}
        unknown = (await ask(where, {"op": "apply", "text": stranger, "file": "f"}))["error"]
        assert "netctl keys" in unknown["message"]
        early = (await ask(where, {"op": "down"}))["error"]
        assert "netctl apply" in early["message"]
        assert "same version" in (await ask(where, {"op": "dance"}))["error"]["message"]
        assert "does not say 'text'" in (await ask(where, {"op": "apply"}))["error"]["message"]
        assert engine.applied == []
        assert not where.accepted.exists()

    live(where, keys, engine, script)


def test_a_damaged_accepted_document_is_replaced_by_an_apply(tmp_path: Path) -> None:
    where, engine = locations(tmp_path), FakeEngine()
    keys, _ = make_keys(where)
    where.accepted.write_text("networks: [")

    async def script() -> None:
        assert (await ask(where, {"op": "status"}))["result"]["document"]["digest"] is None
        assert engine.applied == []
        done = (await ask(where, {"op": "apply", "text": document(keys), "file": "f"}))["result"]
        assert done["error"] is None
        assert where.accepted.read_text() == document(keys)

    live(where, keys, engine, script)


def test_drift_is_healed_but_nothing_is_removed_before_a_view_is_known(tmp_path: Path) -> None:
    where, engine = locations(tmp_path), FakeEngine()
    keys, _ = make_keys(where)

    async def main() -> None:
        host = Host(lambda: engine)
        agent = Agent(keys, StateStore(where), host)
        await agent.apply(document(keys), "f", lambda text: None)
        whole = engine.state
        engine.state = replace(whole, routes=frozenset())
        await agent.runner.ask(requests.CheckDrift())
        assert engine.state == whole
        assert agent.context.counters.healed > 0
        agent.paths.close()
        mediated = document(keys).replace(
            "mediators: []", f'mediators: [{{url: "netctl://127.0.0.1:1", identity: ["{keys.identity}"]}}]'
        )
        StateStore(where).accept(mediated)
        reborn = Agent(keys, StateStore(where), host)  # its view is lost and its mediator is gone
        assert reborn.state.loaded is not None
        await reborn.runner.ask(requests.CheckDrift())
        assert engine.state == whole
        reborn.paths.close()
        await host.close()

    asyncio.run(main())


def test_a_deadline_that_passed_in_suspend_is_acted_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio's timers stand still meanwhile, and a revert is due by CLOCK_BOOTTIME."""
    where, engine = locations(tmp_path), FakeEngine()
    keys, _ = make_keys(where)

    async def main() -> None:
        host = Host(lambda: engine)
        agent = Agent(keys, StateStore(where), host)
        posted: list[object] = []
        monkeypatch.setattr(agent.runner, "post", posted.append)
        told: list[float] = []
        monkeypatch.setattr(agent.paths, "woke", told.append)
        agent._on_wake(7200.0, 7190.0)
        assert posted == [TimePassed()]
        assert told == [7190.0], "grants of the relay have aged by the suspend alone"
        agent.paths.close()
        await host.close()

    asyncio.run(main())


class PortlessEngine(FakeEngine):
    """Applies all, but its port cannot be asked for until it is healed."""

    healed = False

    def listen_port(self) -> int:
        if not self.healed:
            raise EngineError("the port is not to be had")
        return super().listen_port()


def test_what_fails_after_an_apply_is_a_condition_and_the_document_stands(tmp_path: Path) -> None:
    where, engine = locations(tmp_path), PortlessEngine()
    keys, _ = make_keys(where)

    async def script() -> None:
        done = (await ask(where, {"op": "apply", "text": document(keys), "file": "f"}))["result"]
        assert done["error"] is None
        assert any("the port is not to be had" in warning for warning in done["warnings"])
        assert where.accepted.read_text() == document(keys)
        status = (await ask(where, {"op": "status"}))["result"]
        assert status["member"] == "here"
        assert any("the port is not to be had" in line for line in status["conditions"])
        engine.healed = True
        again = (await ask(where, {"op": "apply", "text": document(keys), "file": "f"}))["result"]
        assert (again["changed"], again["warnings"]) == (0, [])
        assert (await ask(where, {"op": "status"}))["result"]["conditions"] == []

    live(where, keys, engine, script)


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """No file of this process can have a byte (setrlimit(2): EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_document_that_cannot_be_kept_leaves_the_host_as_it_was(tmp_path: Path) -> None:
    where, engine = locations(tmp_path), FakeEngine()
    keys, _ = make_keys(where)

    async def script() -> None:
        with no_room():
            first = (await ask(where, {"op": "apply", "text": document(keys), "file": "f"}))["result"]
        assert first["rolled_back"]
        assert "cannot keep the document" in first["error"]
        assert engine.state == HostState()
        await ask(where, {"op": "apply", "text": document(keys), "file": "f"})
        before = engine.state
        other = document(keys, "10.1.2.5")
        with no_room():
            second = (await ask(where, {"op": "apply", "text": other, "file": "f"}))["result"]
        assert second["rolled_back"]
        assert engine.state == before
        assert where.accepted.read_text() == document(keys)

    live(where, keys, engine, script)


def test_the_status_shows_counts_of_now(tmp_path: Path) -> None:
    where, engine = locations(tmp_path), FakeEngine()
    keys, _ = make_keys(where)
    other = WireGuardKey.parse(OTHER)

    async def main() -> None:
        agent = Agent(keys, StateStore(where), Host(lambda: engine))  # without its observer
        await agent.apply(document(keys), "f", lambda text: None)
        engine.status = {other: PeerStatus(None, 0.0, 7, 0)}
        assert (await agent.status())["peers"][0]["rx_bytes"] == 7
        agent.paths.close()
        await agent.host.close()

    asyncio.run(main())
