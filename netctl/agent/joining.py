"""A host that joined by invite: the mediator's excerpt is its document, until it leaves."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from netctl.agent.leases import LeaseBook
from netctl.agent.memory import Down
from netctl.agent.talk import Progress, say
from netctl.engine import ApplyOutcome
from netctl.model.errors import LocalError, NetctlError, RemoteError
from netctl.model.hoststate import HostState
from netctl.model.view import View
from netctl.wire.control import Leave

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

LEAVE_WAIT_S = 2.0
"""How long a host that leaves waits for its mediator to take note."""


class Joining:
    """Belongs to one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def adopt(self) -> None:
        """This host has joined just now: live by what was written down for it. Raises LocalError."""
        agent = self._agent
        async with agent.lock:
            loaded = agent.memory.document()
            if loaded is None or agent.memory.joined() is None:
                raise LocalError("this host has not joined any network: `netctl join`")
            agent.loaded, agent.joined = loaded, agent.memory.joined()
            agent.client.set_mediators(loaded.document.mediators)
        agent.wanted.set()  # what this host agrees to may have changed
        agent.client.poke()

    async def leave(self, progress: Progress) -> ApplyOutcome:
        """Leave all networks that this host joined by invite. Raises LocalError."""
        agent = self._agent
        if agent.joined is None:
            raise LocalError(
                "this host has a document: take it out of `members:` there, or use `netctl down`"
            )
        async with agent.changes.turn(progress):
            agent.commit.armory.must_be_free()
            outcome = await agent.host.apply(HostState(), progress)
            if outcome.error is not None:
                return outcome
            agent.client.send(Leave())
            deadline = time.monotonic() + LEAVE_WAIT_S
            while agent.client.state.state == "connected" and time.monotonic() < deadline:
                await asyncio.sleep(0.05)  # the mediator hangs up when it has forgotten this host
            agent.memory.forget()
            agent.leases = LeaseBook(agent.memory)
            agent.down, agent.conditions, agent.tunnels.statuses = Down(), (), {}
            agent.desired, agent.settled = HostState(), False
            agent.changes.go_back(None, None, None)
            agent.paths.peers(frozenset())
            agent.paths.use_port("", 0)  # and with it whatever the router has opened for it
            return outcome

    def excerpt(self, view: View) -> None:
        """The mediator's word about this host's networks has changed."""
        agent = self._agent
        if agent.loaded is not None and view.document == agent.loaded.source.text:
            return
        try:
            loaded = agent.memory.load(view.document, "the mediator's excerpt")
            agent.member_name(loaded.document)
            if not loaded.document.mediators:
                raise RemoteError(
                    "it names no mediator, and nobody could change it any more", "view.document"
                )
            agent.memory.accept(view.document)
        except (NetctlError, OSError) as error:
            say(f"what the mediator says about this host's networks is refused: {str(error).splitlines()[0]}")
            return
        agent.loaded = loaded
        agent.client.set_mediators(loaded.document.mediators)
