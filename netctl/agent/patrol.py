"""The patrol: compares the host with what it should have, and heals it where the document says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from netctl.agent.talk import quiet, reason_of, say
from netctl.config.origins import Origins
from netctl.model.document import Drift
from netctl.node.drift import Counters, Departure, departures
from netctl.node.evaluate import member_name
from netctl.plan import diff

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

DRIFT_S = 30.0
"""How often the host is compared with what it should have."""


class Patrol:
    """Belongs to one agent."""

    def __init__(self, agent: Agent, drift_s: float) -> None:
        self._agent = agent
        self._drift_s = drift_s
        self.drift: tuple[Departure, ...] = ()
        """Where the host departs from the document, as it was seen last."""
        self.counters = Counters()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._drift_s)
            try:
                await self.check()
            except Exception as error:
                say(reason_of(error))

    async def check(self) -> None:
        """Compare the host with what it should have, and heal it if the document says so. Raises EngineError."""
        agent = self._agent
        if agent.state.loaded is None:
            return
        if not agent.state.settled:  # no view yet, or the first try failed: try again, and remove nothing
            agent.wanted.set()
            return
        async with agent.lock:
            state = agent.state
            if state.loaded is None:
                return
            if state.foreign.differs(await agent.host.foreign()):
                agent.wanted.set()  # something came into the way of a network, or out of it
            actual = await agent.host.read()
            plan = diff(state.desired, actual)
            document = state.loaded.document
            found = departures(plan, Origins(document, member_name(document, agent.keys.wireguard)), actual)
            self.counters.found += len(set(found) - set(self.drift))
            self.drift = found
            if plan and document.drift is Drift.CORRECT:
                for departure in found:
                    say(f"drift: {departure}")
                outcome = await agent.host.apply(state.desired, quiet)
                self.counters.healed += outcome.changed if outcome.error is None else 0
                if outcome.error is None:
                    self.drift = ()
                else:
                    self.counters.failed += 1
                    say(f"drift could not be put right: {outcome.error}")
