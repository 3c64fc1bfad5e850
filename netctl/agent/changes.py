"""What people ask of the agent: plan, apply, down and up, prune, forget; each whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netctl.agent.armed import Terms
from netctl.agent.memory import Down, identities
from netctl.agent.planned import Planned, binding, make_plan, refuse_stale
from netctl.agent.talk import Progress, quiet
from netctl.agent.verify import Verified, verify
from netctl.config import Loaded
from netctl.engine import ApplyOutcome
from netctl.model.document import Document
from netctl.model.errors import LocalError, NetctlError
from netctl.model.hoststate import HostState
from netctl.model.view import View
from netctl.plan import Binding, Plan, prune

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

VIEW_WAIT_S = 10.0
"""How long the first apply waits for a mediator that it has never seen."""
TURN_S = 60.0
"""How long a change waits for another that is under way: an apply of a large document takes seconds."""
TURN_SAID_S = 0.5
"""Waiting that is shorter than this is not worth a line."""


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What an apply came to. `waiting`: why the network is not whole yet though nothing failed."""

    outcome: ApplyOutcome
    warnings: tuple[str, ...] = ()
    waiting: str | None = None
    armed: dict[str, Any] | None = None
    """What `status` says of an apply that waits for its confirmation."""


class Changes:
    """Belongs to one agent; one change at a time."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def plan(
        self, text: str, file: str, *, ssh_connection: str = "", everyone: bool = False
    ) -> Planned:
        """What an apply of this text would change. Raises NetctlError."""
        agent = self._agent
        loaded = agent.memory.load(text, file)
        async with agent.lock:
            before = agent.conditions, agent.leases.judged
            try:
                desired, actual = await agent.resolve(loaded.document), await agent.host.read()
                refusals = agent.refusals()
            finally:
                agent.conditions, agent.leases.judged = before
        return make_plan(
            agent.member_name(loaded.document),
            loaded,
            agent.down.of(agent.loaded.document) if agent.loaded is not None else None,
            agent.down.of(loaded.document),
            desired,
            actual,
            view=agent.view,
            ssh_connection=ssh_connection,
            everyone=everyone,
            refusals=refusals,
        )

    @contextlib.asynccontextmanager
    async def turn(self, progress: Progress) -> AsyncIterator[None]:
        """The lock, for somebody who waits: said, and bounded. Raises LocalError."""
        agent = self._agent
        taken = False
        for seconds, word in (
            (TURN_SAID_S, "waiting: another change of this host is under way"),
            (TURN_S, ""),
        ):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(agent.lock.acquire(), seconds)
                taken = True
                break
            if word:
                progress(word)
        if not taken:
            message = (
                f"another change of this host has been under way for {TURN_S:.0f} s; nothing was changed"
            )
            raise LocalError(f"{message}: try again")
        try:
            yield
        finally:
            agent.lock.release()

    async def apply(
        self,
        text: str,
        file: str,
        progress: Progress,
        *,
        holds: Binding | None = None,
        terms: Terms | None = None,
    ) -> ApplyResult:
        """Make this text the host's document. Raises NetctlError, with nothing changed.

        `holds`: the binding of a plan; where it holds no more the apply is refused. `terms`: whether it is armed.
        """
        agent = self._agent
        loaded, terms = agent.memory.load(text, file), terms or Terms()
        agent.member_name(loaded.document)
        armed, verified = None, Verified()
        async with self.turn(progress):
            agent.commit.admit(loaded, terms)
            before = agent.loaded, agent.view, agent.joined
            agent.loaded, agent.joined = (
                loaded,
                None,
            )  # a document of its own comes before a mediator's excerpt
            try:
                waiting = await self._meet(loaded.document, progress)
                if holds is not None or terms.may_arm:
                    desired, actual = await agent.resolve(loaded.document), await agent.host.read()
                    if holds is not None:
                        refuse_stale(holds, binding(loaded, desired, actual))
                    armed = await agent.commit.arm(terms, text, loaded, before[0], desired, actual)
                live = agent.tunnels.live
                outcome = await agent.reconcile(progress)
            except BaseException as error:
                self.go_back(*before)
                if armed is not None and isinstance(error, NetctlError):
                    agent.commit.armory.disarm()  # said before anything was changed
                raise
            if outcome.error is None and outcome.changed:
                verified = await verify(agent, live)
            if outcome.error is not None:
                self.go_back(*before)
            elif verified.cut_off is not None:
                self.go_back(*before)
                outcome = await self._undo(verified.cut_off)
            else:
                try:
                    agent.memory.accept(text)
                    agent.memory.set_joined(None)
                except OSError as error:
                    self.go_back(*before)
                    outcome = await self._undo(f"cannot keep the document: {error.strerror}")
                agent.patrol.drift = ()
            if armed is not None:
                agent.commit.settle(armed, outcome)
        warnings = (*(str(finding) for finding in loaded.warnings), *agent.refusals(), *verified.warnings)
        if outcome.error is None and agent.trouble is not None:
            warnings = (*warnings, agent.trouble)
        return ApplyResult(outcome, warnings, waiting, armed.plain() if armed is not None else None)

    async def _undo(self, why: str) -> ApplyOutcome:
        """Bring the host back to what is remembered, which is all that the next life will know."""
        agent = self._agent
        if agent.loaded is None:
            undone = await agent.host.apply(HostState(), quiet)
            agent.desired, agent.settled = HostState(), False
        else:
            undone = await agent.reconcile(quiet)
        if undone.error is not None:
            return ApplyOutcome(0, error=f"{why}; going back failed too: {undone.error}")
        return ApplyOutcome(undone.changed, rolled_back=True, error=why)

    def go_back_to(self, loaded: Loaded | None) -> None:
        """Live by this document from now on, with the present view, or the one that is remembered for it."""
        agent = self._agent
        pins = identities(loaded.document) if loaded is not None else ()
        if agent.loaded is None or not set(pins) & set(identities(agent.loaded.document)):
            agent.view = None
            agent.use(agent.memory.view(pins, agent.keys.wireguard) if pins else None)
        self.go_back(loaded, agent.view, agent.memory.joined())

    def go_back(self, loaded: Loaded | None, view: View | None, joined: str | None) -> None:
        """Live by these from now on; the host itself is not touched."""
        agent = self._agent
        agent.loaded, agent.view, agent.joined = loaded, view, joined
        if view is None:
            agent.client.kept = None
        agent.client.set_mediators(loaded.document.mediators if loaded is not None else ())

    async def _meet(self, document: Document, progress: Progress) -> str | None:
        """Have a view before anything is changed; without one there is nothing to build a network from."""
        agent = self._agent
        known = agent.memory.view(identities(document), agent.keys.wireguard) if document.mediators else None
        if not document.mediators:
            agent.view = None
        elif agent.view is None or not set(identities(document)) & set(
            _identities_of(agent.loaded, document)
        ):
            agent.use(known)
        agent.client.set_mediators(document.mediators)
        if not document.mediators:
            return None
        if agent.client.state.state != "connected":
            agent.client.poke()
        if agent.view is None:
            progress("waiting for the mediator")
        deadline = time.monotonic() + VIEW_WAIT_S
        while agent.view is None and time.monotonic() < deadline and not agent.client.state.final:
            agent.view_came.clear()
            try:
                await asyncio.wait_for(agent.view_came.wait(), 0.1)
            except TimeoutError:
                continue
        if agent.view is not None:
            state = agent.client.state
            return None if state.state == "connected" else state.error
        reason = agent.client.state.error or "it has not answered yet"
        raise LocalError(f"{reason}; nothing was changed")

    async def prune(self, at_most: int | None, progress: Progress) -> tuple[Plan, ApplyOutcome]:
        """Remove what is ours on the host and in no document; with `at_most` None only say what that is.

        Raises LocalError while it is not known what the host should have.
        """
        agent = self._agent
        if agent.loaded is not None and not agent.settled:
            raise LocalError("it is not known yet what this host should have: the agent has not converged")
        async with agent.lock:
            plan = prune(agent.desired, await agent.host.read())
            if at_most is None:
                return plan, ApplyOutcome(0)
            return plan, await agent.host.prune(agent.desired, at_most, progress)

    async def set_down(self, down: Down, progress: Progress) -> ApplyOutcome:
        """Take networks down or bring them up again, and remember it."""
        agent = self._agent
        async with self.turn(progress):
            agent.commit.armory.must_be_free()
            before = agent.down
            try:
                agent.memory.set_down(
                    down
                )  # first: on a full disk nothing was changed, and nothing is to be undone
            except OSError as error:
                return ApplyOutcome(0, True, f"cannot keep what is down: {error.strerror}")
            agent.down = down
            outcome = await agent.reconcile(progress)
            if outcome.error is not None:
                agent.down = before
                with contextlib.suppress(OSError):
                    agent.memory.set_down(before)
            return outcome

    async def forget_leases(self, who: str | None, progress: Progress) -> int:
        """Believe the mediator anew on a member's addresses; None: on all, and on its age. Raises LocalError."""
        agent = self._agent
        async with self.turn(progress):
            count = agent.leases.forget(who, agent.loaded.document if agent.loaded is not None else None)
            if who is None:
                agent.client.forget()
            await agent.reconcile(progress)
        return count


def _identities_of(loaded: Loaded | None, default: Document) -> tuple[Any, ...]:
    return identities(loaded.document if loaded is not None else default)
