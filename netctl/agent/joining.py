"""A host that joined by invite: the mediator's excerpt is its document, until it leaves."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from netctl.agent.talk import Progress, warn
from netctl.engine import ApplyOutcome
from netctl.model.errors import LocalError, NetctlError, RemoteError
from netctl.model.hoststate import HostState
from netctl.node.evaluate import member_name
from netctl.node.state import NodeState
from netctl.wire.control import Leave

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

LEAVE_WAIT_S = 2.0
"""How long a host that leaves waits for its mediator to take note."""


class Joining:
    """Belongs to one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._refused = ""
        """An excerpt that is not taken: it is said once."""

    async def adopt(self) -> None:
        """This host has joined just now: live by what was written down for it. Raises LocalError."""
        agent = self._agent
        async with agent.lock:
            loaded = await agent.disk.run(agent.store.document)
            joined = await agent.disk.run(agent.store.joined)
            if loaded is None or joined is None:
                raise LocalError("this host has not joined any network: `netctl join`")
            agent.state = replace(agent.state, loaded=loaded, joined=joined)
            agent.client.set_mediators(loaded.document.mediators)
        agent.wanted.set()  # what this host agrees to may have changed
        agent.client.poke()

    async def leave(self, progress: Progress) -> ApplyOutcome:
        """Leave all networks that this host joined by invite. Raises LocalError."""
        agent = self._agent
        if agent.state.joined is None:
            raise LocalError(
                "this host has a document: take it out of `members:` there, or use `netctl down`"
            )
        async with agent.changes.turn(progress):
            await agent.commit.must_be_free()
            outcome = await agent.host.apply(HostState(), progress)
            if outcome.error is not None:
                return outcome
            agent.client.send(Leave())
            deadline = time.monotonic() + LEAVE_WAIT_S
            while agent.client.state.state == "connected" and time.monotonic() < deadline:
                await asyncio.sleep(0.05)  # the mediator hangs up when it has forgotten this host
            agent.drop_view()
            await agent.disk.run(agent.store.forget)
            agent.state, agent.client.kept, agent.tunnels.statuses = NodeState(), None, {}
            agent.client.set_mediators(())
            agent.paths.peers(frozenset())
            agent.paths.use_port("", 0)  # and with it whatever the router has opened for it
            return outcome

    async def take_excerpt(self) -> None:
        """Live by what the newest view says about this host's networks. Call with the lock held."""
        agent, state = self._agent, self._agent.state
        text = state.view.document if state.view is not None else ""
        if (
            state.joined is None
            or not text
            or text in (state.loaded and state.loaded.source.text, self._refused)
        ):
            return
        try:
            loaded = await agent.disk.run(agent.store.load, text, "the mediator's excerpt")
            member_name(loaded.document, agent.keys.wireguard)
            if not loaded.document.mediators:
                raise RemoteError(
                    "it names no mediator, and nobody could change it any more", "view.document"
                )
            await agent.disk.run(agent.store.accept, text)
        except (NetctlError, OSError) as error:
            self._refused = text
            warn(
                f"what the mediator says about this host's networks is refused: {str(error).splitlines()[0]}"
            )
            return
        agent.state = replace(agent.state, loaded=loaded)
        agent.client.set_mediators(loaded.document.mediators)
