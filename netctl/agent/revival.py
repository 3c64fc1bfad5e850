"""An engine that dies is started again at once; until then what is ours is unreachable, and nothing leaves in clear.

A userspace engine takes its link along when it dies, and the kernel says so. What holds the packets back meanwhile
are routes that belong to no link (`HostState.unreachable`), so neither this agent nor the engine is needed for it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

from netctl.agent.talk import quiet, say, warn
from netctl.engine.events import vanished
from netctl.model.document import Drift
from netctl.model.errors import EngineError
from netctl.model.hoststate import WIREGUARD_LINK

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

RETRY_S = 1.0
"""After a start that failed, and where the kernel does not say what happens to links: then it is asked so often."""


class Revival:
    """Belongs to one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.restarts = 0
        """How often the link was gone and brought back."""
        self.lasted_s = 0.0
        """How long it was away the last time, in seconds."""
        self.took_along: tuple[str, ...] = ()
        """Links of others that went with it the last time: nobody but who made them can bring them back."""
        self.since: float | None = None
        """Since when it is away (monotonic seconds); None: it is there, or nobody wants it."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async for _ in vanished(WIREGUARD_LINK):
                    await self.look()
            except EngineError as error:
                warn(f"{error}; the link is looked at every {RETRY_S:.0f} s")
            await asyncio.sleep(RETRY_S)

    def _is_away(self) -> bool:
        """Whether this agent has made a link that is there no more."""
        agent = self._agent
        state = agent.state
        if not state.settled or state.desired.wireguard is None:
            return False
        document = state.document
        if agent.engine_kind == "kernel" and document is not None and document.drift is not Drift.CORRECT:
            return (
                False  # the kernel's engine does not die: somebody took the link away, and drift is only said
            )
        try:
            socket.if_nametoindex(WIREGUARD_LINK)
        except OSError:
            return True
        return False

    async def look(self) -> None:
        """Bring the link back if it is gone and wanted; again and again, until it is there."""
        agent = self._agent
        while self._is_away():
            self.since = self.since if self.since is not None else time.monotonic()
            async with agent.lock:  # an apply, which may be what takes the link away, ends first
                if not self._is_away():
                    break
                warn(
                    f"{WIREGUARD_LINK} is gone: its engine ended; it is started again, "
                    "and the networks are unreachable meanwhile"
                )
                if stacked := agent.state.foreign.stacked:
                    self.took_along = stacked
                    say(
                        f"links of others that were made on it are gone too: {', '.join(stacked)}; make them again"
                    )
                agent.paths.engine_gone()
                outcome = await agent.bring(agent.state.desired, agent.state.told, quiet)
            if outcome.error is None:
                self.restarts += 1
                self.lasted_s = time.monotonic() - self.since
                say(f"{WIREGUARD_LINK} is back after {self.lasted_s:.1f} s")
                break
            warn(f"{WIREGUARD_LINK} could not be brought back: {outcome.error}")
            await asyncio.sleep(RETRY_S)
        self.since = None
