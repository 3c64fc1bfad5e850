"""The agent's side of commit-confirm: arm, confirm, roll back, and the deadline.

| state   | event            | then                                                                    |
|---------|------------------|-------------------------------------------------------------------------|
| free    | apply, armed     | record on disk, process started, then the changes: armed                |
| armed   | apply failed     | it went back by itself: free; it could not: armed, tried again below    |
| armed   | confirm          | record gone: free                                                       |
| armed   | rollback         | document and host as before, digest refused: free                       |
| armed   | deadline         | as rollback; where that fails it is tried again                         |
| armed   | proven           | nobody was asked (`watch`) and what worked before works again: free     |
| armed   | agent starts     | same boot and time left: armed; else as rollback, before it reconciles  |
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from netctl.agent.armed import Armed, Armory, Watchman, boottime_s, start_watchman
from netctl.agent.talk import quiet, say, warn
from netctl.config import Loaded
from netctl.engine import ApplyOutcome
from netctl.model.errors import LocalError, NetctlError
from netctl.model.keys import WireGuardKey
from netctl.node import effects as do
from netctl.node.commit import Back, Proof, Standing, Terms
from netctl.node.rollback import RollBack

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

RETRY_S = 2.0
"""A roll-back that failed is tried again so often."""
PROVE_S = 0.5
MAX_KNOCKS = 16
"""One answer is enough; a host with thousands of peers need not call them all."""
TICK_S = 1.0
"""CLOCK_BOOTTIME goes on in sleep and the event loop's clock does not: it is looked at this often."""


class Commit:
    """Belongs to one agent; everything that changes is called with the agent's lock held."""

    def __init__(self, agent: Agent, armory: Armory, watchman: Watchman = start_watchman) -> None:
        self._agent = agent
        self.armory = armory
        self._watchman = watchman
        self._changed = asyncio.Event()
        self._worked = Proof(connected=False, live=frozenset())
        """What worked before an apply that nobody is asked about."""
        self._saved: Back | None = None
        """What the last save of the watched file started from."""
        self._proof: asyncio.Task[None] | None = None

    async def admit(self, loaded: Loaded, terms: Terms) -> None:
        """Raises LocalError for an apply that may not be now."""
        await self.must_be_free()
        await self._agent.disk.run(self.armory.admit, loaded.document.digest, force=terms.force)

    async def must_be_free(self) -> None:
        """Raises LocalError while an apply waits for its confirmation."""
        await self._agent.disk.run(self.armory.must_be_free)

    def pending(self) -> dict[str, Any] | None:
        """What `status` says of an apply that waits for its confirmation. Raises LocalError."""
        record = self.armory.record()
        return record.plain() if record is not None else None

    async def disarm(self) -> None:
        """Nothing is armed any more. Raises OSError."""
        await self._agent.disk.run(self.armory.disarm)

    def standing(self) -> Standing:
        """What an apply that begins now has to know."""
        return Standing(boottime_s(), self._saved, self.could_be_lost())

    def remember(self, saved: Back | None) -> None:
        """What the last save of the watched file started from."""
        self._saved = saved

    async def arm(self, wanted: do.Arm) -> Armed:
        """Put the way back on disk and start who waits for the deadline. Raises LocalError."""
        agent = self._agent
        back, terms, engine = wanted.back, wanted.terms, agent.engine_kind or "auto"
        record = await agent.disk.run(
            self.armory.arm, wanted.seconds, wanted.text, back.before, back.checkpoint, engine, terms
        )
        try:
            await asyncio.to_thread(self._watchman, self.armory.places, record)
        except BaseException:
            await self.disarm()
            raise
        self._changed.set()
        if terms.unattended:
            self._worked = Proof(agent.client.state.state == "connected", agent.tunnels.live)
            self._proof = agent.tasks.start("the proof of a save", self._prove(record))
        return record

    # -- nobody is asked: a save of the watched file -------------------------------------------------------------

    def somebody_confirms(self) -> bool:
        """Whether an apply waits for a person."""
        try:
            record = self.armory.record()
        except LocalError:
            return False
        return record is not None and not record.unattended

    def could_be_lost(self) -> bool:
        """Whether anything works now whose loss could be noticed: the mediator, or a tunnel."""
        return self._agent.client.state.state == "connected" or bool(self._agent.tunnels.live)

    def works(self) -> bool:
        """Whether what worked before the apply works now."""
        agent = self._agent
        return self._worked.works(
            connected=agent.client.state.state == "connected",
            mediated=agent.state.document is not None and bool(agent.state.document.mediators),
            wanted=agent.tunnels.wanted_peers(),
        )

    async def _prove(self, record: Armed) -> None:
        """Confirm what nobody confirms, once what worked before has worked for a while."""
        agent = self._agent
        async with agent.lock:  # the apply itself
            received = {key: status.rx_bytes for key, status in agent.tunnels.statuses.items()}
        while record.left_s > TICK_S:
            await self._listen(received)
            if self._worked.settled(works=self.works(), now_s=boottime_s(), left_s=record.left_s):
                async with agent.lock:
                    with contextlib.suppress(LocalError):
                        if (armed := self.armory.record()) is not None and armed.nonce == record.nonce:
                            await self.confirm()
                            say("what worked before works: the save stays")
                return
            await asyncio.sleep(PROVE_S)

    async def _listen(self, received: dict[WireGuardKey, int]) -> None:
        """Whether a peer is heard: each knock makes it answer, at the latest with WireGuard's own keepalive."""
        agent, worked = self._agent, self._worked
        if worked.heard:
            return
        for key in sorted(worked.live & agent.tunnels.wanted_peers())[:MAX_KNOCKS]:
            agent.tunnels.knock_at(key)
        with contextlib.suppress(NetctlError):
            statuses = await agent.host.observe()
            worked.heard = any(
                statuses[key].rx_bytes > received.get(key, 0) for key in worked.live if key in statuses
            )

    async def decide_unproven(self) -> None:
        """Another save comes: what has not proved itself yet is kept if it works just now, or taken back."""
        async with self._agent.lock:
            record = self.armory.record()
            if record is None or not record.unattended:
                return
            if self.works():
                await self.disarm()
            else:
                self._report(await self.roll_back(record.nonce))

    async def confirm(self) -> Armed:
        """Keep what is armed. Raises LocalError."""
        record = self.armory.confirmable()
        self._saved = None
        try:
            await self.disarm()
        except OSError as error:
            raise LocalError(f"cannot remove {self.armory.places.armed}: {error.strerror}") from error
        return record

    async def roll_back(self, nonce: str | None = None) -> ApplyOutcome:
        """Take back what is armed; with a nonce only that one. Raises LocalError when nothing (of it) is armed."""
        record = self.armory.record()
        if record is None or (nonce is not None and record.nonce != nonce):
            raise LocalError("nothing is armed: there is nothing to roll back")
        agent = self._agent
        self._saved = None
        end = await agent.changes.carry(RollBack(record, agent.state, agent.keys.wireguard), quiet)
        if end.error is not None:
            raise end.error
        if end.evaluation is not None:
            agent.state = agent.state.evaluated(end.evaluation)
            await agent.pin(end.evaluation)
        elif agent.state.knows:
            with contextlib.suppress(NetctlError):
                agent.state = agent.state.evaluated(await agent.evaluate(agent.state))
        if end.outcome.error is None:
            agent.patrol.drift = ()
        return end.outcome

    async def recover(self) -> None:
        """At the start of a life, before anything is reconciled: a record that is over is rolled back."""
        try:
            record = self.armory.record()
            if record is not None and record.left_s <= 0:
                warn("an apply was not confirmed before its time was over: going back")
                self._report(await self.roll_back())
        except (NetctlError, OSError) as error:
            warn(str(error))
        self._changed.set()

    async def run(self) -> None:
        """Roll back at the deadline."""
        agent = self._agent
        while True:
            await self._changed.wait()
            try:
                record = self.armory.record()
            except LocalError as error:
                warn(str(error))
                record = None
            if record is None:
                self._changed.clear()
            elif record.left_s > 0:
                await asyncio.sleep(min(record.left_s, TICK_S))
            else:
                async with agent.lock:
                    try:
                        warn("nobody confirmed the apply: going back")
                        self._report(await self.roll_back(record.nonce))
                    except (NetctlError, OSError) as error:
                        warn(str(error))
                await asyncio.sleep(RETRY_S if self.armory.places.armed.exists() else 0)

    def _report(self, outcome: ApplyOutcome) -> None:
        if outcome.error is not None:
            warn(f"could not go back, trying again: {outcome.error}")
        else:
            say(f"went back: {outcome.changed} changes")
