"""The process of `netctl agent`: runs an Agent until a signal ends it."""

from __future__ import annotations

import asyncio
import signal

from netctl.agent.agent import Agent
from netctl.agent.controlserver import ControlServer
from netctl.agent.host import Host
from netctl.agent.log import say
from netctl.agent.storage.hostlock import host_lock
from netctl.agent.storage.keyfiles import Keys, load_keys
from netctl.agent.storage.locations import Locations
from netctl.agent.storage.statestore import StateStore
from netctl.engine import Engine, open_engine
from netctl.engine.privilege import check_privileges
from netctl.node.node import DRIFT_S
from netctl.system.memory import give_back
from netctl.system.tasks import watch_loop

START_WAIT_S = 5.0
"""Longest wait for the host's lock at the start: a roll-back without an agent may hold it."""


def run_agent(
    locations: Locations,
    engine: str,
    drift_s: float = DRIFT_S,
    *,
    watch: bool = True,
    metrics: str | None = None,
) -> None:
    """Run until SIGTERM or SIGINT. Raises NetctlError if the agent cannot start.

    `drift_s`: seconds between checks for drift of the host from its document. `watch`: apply saves of this file.
    `metrics`: HOST:PORT for Prometheus.
    """
    check_privileges()
    give_back()
    keys = load_keys(locations)
    with host_lock(locations, wait_s=START_WAIT_S):
        asyncio.run(_main(locations, keys, engine, drift_s, watch, metrics))


async def _main(
    locations: Locations, keys: Keys, engine: str, drift_s: float, watch: bool, metrics: str | None
) -> None:
    def open_host() -> Engine:
        return open_engine(
            locations.private_key, kind=engine, state_dir=locations.state, hosts_file=locations.hosts
        )

    loop = asyncio.get_running_loop()
    followed = locations.config if watch else None
    agent = Agent(keys, StateStore(locations), Host(open_host), drift_s=drift_s, watch=followed)
    watch_loop(loop, agent.guard)
    server = ControlServer(agent, locations)
    page = None
    if metrics is not None:
        from netctl.agent.metrics import MetricsServer

        page = MetricsServer(agent, metrics)
    await server.start()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    say(f"netctl agent, key {keys.wireguard}")
    try:
        if page is not None:
            await page.start()
        await agent.run()
    except asyncio.CancelledError:
        say("stopping; the tunnels stay")
    finally:
        if page is not None:
            page.close()
        await server.close()
