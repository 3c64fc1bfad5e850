"""The agent's side of commit-confirm: arm, confirm, roll back, and the deadline.

| state   | event            | then                                                                    |
|---------|------------------|-------------------------------------------------------------------------|
| free    | apply, armed     | record on disk, process started, then the changes: armed                |
| armed   | apply failed     | it went back by itself: free; it could not: armed, tried again below    |
| armed   | confirm          | record gone: free                                                       |
| armed   | rollback         | document and host as before, digest refused: free                       |
| armed   | deadline         | as rollback; where that fails it is tried again                         |
| armed   | agent starts     | same boot and time left: armed; else as rollback, before it reconciles  |
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from netctl.agent.armed import Armed, Armory, Terms, Watchman, start_watchman
from netctl.agent.talk import say
from netctl.config import Loaded
from netctl.engine import ApplyOutcome
from netctl.model.errors import LocalError, NetctlError
from netctl.model.hoststate import HostState
from netctl.plan import Session, carrier, diff

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

RETRY_S = 2.0
"""A roll-back that failed is tried again so often."""
TICK_S = 1.0
"""CLOCK_BOOTTIME goes on in sleep and the event loop's clock does not: it is looked at this often."""


def confirm_time(terms: Terms, confirm_s: float, desired: HostState, actual: HostState) -> float | None:
    """For how long an apply is to be armed; None: it is not. `confirm_s` is the document's own.

    Asked for, always. Else only where something changes and the session that asks comes through a tunnel of ours.
    """
    if terms.confirm_s is not None:
        return terms.confirm_s
    if not diff(desired, actual):
        return None
    session = Session.parse(terms.ssh_connection)
    rides = session is not None and carrier(session, actual) is not None
    return confirm_s if rides or terms.unattended else None


class Commit:
    """Belongs to one agent; everything that changes is called with the agent's lock held."""

    def __init__(self, agent: Agent, armory: Armory, watchman: Watchman = start_watchman) -> None:
        self._agent = agent
        self.armory = armory
        self._watchman = watchman
        self._changed = asyncio.Event()

    def admit(self, loaded: Loaded, terms: Terms) -> None:
        """Raises LocalError for an apply that may not be now."""
        self.armory.must_be_free()
        self.armory.admit(loaded.document.digest, force=terms.force)

    async def arm(
        self,
        terms: Terms,
        text: str,
        loaded: Loaded,
        before: Loaded | None,
        desired: HostState,
        actual: HostState,
    ) -> Armed | None:
        """Arm an apply that is about to change the host, if its terms say so. Raises LocalError."""
        seconds = confirm_time(terms, loaded.document.confirm_s, desired, actual)
        if seconds is None:
            return None
        was = self._accepted() if before is not None else None
        record = self.armory.arm(seconds, text, was, actual, self._agent.engine_kind or "auto", terms)
        try:
            await asyncio.to_thread(self._watchman, self.armory.places, record)
        except BaseException:
            self.armory.disarm()
            raise
        self._changed.set()
        return record

    def _accepted(self) -> str | None:
        try:
            return self.armory.places.accepted.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise LocalError(f"{self.armory.places.accepted} cannot be read; nothing was changed") from error

    def settle(self, outcome: ApplyOutcome) -> None:
        """After an armed apply: one that failed and is back needs no way back. One that is stuck keeps it."""
        if outcome.error is not None and outcome.rolled_back:
            self.armory.disarm()

    def confirm(self) -> Armed:
        """Keep what is armed. Raises LocalError."""
        record = self.armory.confirmable()
        try:
            self.armory.disarm()
        except OSError as error:
            raise LocalError(f"cannot remove {self.armory.places.armed}: {error.strerror}") from error
        return record

    async def roll_back(self, nonce: str | None = None) -> ApplyOutcome:
        """Take back what is armed; with a nonce only that one. Raises LocalError when nothing (of it) is armed."""
        record = self.armory.record()
        if record is None or (nonce is not None and record.nonce != nonce):
            raise LocalError("nothing is armed: there is nothing to roll back")
        agent = self._agent
        try:
            self.armory.put_back(record)
        except OSError as error:
            return ApplyOutcome(0, error=f"cannot put the document of before back: {error.strerror}")
        try:
            loaded = agent.memory.document()
        except LocalError:
            loaded = None  # it was damaged before: what the host had comes back all the same
        agent.go_back_to(loaded)
        outcome = ApplyOutcome(0, error="not tried")
        if loaded is not None and loaded.document.mediators and agent.view is not None:
            outcome = await agent.reconcile()  # as before, and without those that were revoked meanwhile
        if outcome.error is not None:
            outcome = await agent.settle(record.checkpoint)
        if outcome.error is None:
            agent.drift = ()
            try:
                self.armory.over(record)
            except OSError as error:
                return ApplyOutcome(
                    outcome.changed, error=f"cannot write in the state directory: {error.strerror}"
                )
        return outcome

    async def recover(self) -> None:
        """At the start of a life, before anything is reconciled: a record that is over is rolled back."""
        try:
            record = self.armory.record()
            if record is not None and record.left_s <= 0:
                say("an apply was not confirmed before its time was over: going back")
                self._report(await self.roll_back())
        except (NetctlError, OSError) as error:
            say(str(error))
        self._changed.set()

    async def run(self) -> None:
        """Roll back at the deadline."""
        agent = self._agent
        while True:
            await self._changed.wait()
            try:
                record = self.armory.record()
            except LocalError as error:
                say(str(error))
                record = None
            if record is None:
                self._changed.clear()
            elif record.left_s > 0:
                await asyncio.sleep(min(record.left_s, TICK_S))
            else:
                async with agent.lock:
                    try:
                        say("nobody confirmed the apply: going back")
                        self._report(await self.roll_back(record.nonce))
                    except (NetctlError, OSError) as error:
                        say(str(error))
                await asyncio.sleep(RETRY_S if self.armory.places.armed.exists() else 0)

    def _report(self, outcome: ApplyOutcome) -> None:
        if outcome.error is not None:
            say(f"could not go back, trying again: {outcome.error}")
        else:
            say(f"went back: {outcome.changed} changes")
