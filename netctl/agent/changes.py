"""What people ask of the agent: plan, apply, down and up, prune, forget; each whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from netctl.agent.store import identities
from netctl.agent.talk import Progress, quiet
from netctl.agent.verify import verify
from netctl.config import Loaded
from netctl.engine import ApplyOutcome
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.view import View
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node import leases
from netctl.node.choices import Down, Joined
from netctl.node.commit import PendingCommit, Terms
from netctl.node.evaluate import member_name
from netctl.node.planreport import Planned, make_plan
from netctl.node.rollback import RollBack
from netctl.node.state import NodeState
from netctl.node.transaction import Apply, State
from netctl.plan import Binding, Plan, prune
from netctl.session import Kept

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
        """What an apply of this text would change. Changes nothing, of the agent neither. Raises NetctlError."""
        agent = self._agent
        loaded = await agent.disk.run(agent.store.load, text, file)
        async with agent.lock:
            view = await self._view_for(loaded.document)
            state = replace(agent.state, loaded=loaded, joined=None, view=view)
            evaluation, actual = await agent.evaluate(state), await agent.host.read()
        accepted = agent.state.document
        return make_plan(
            evaluation.member,
            loaded,
            state.down.of(accepted) if accepted is not None else None,
            state.down.of(loaded.document),
            evaluation.desired,
            actual,
            view=view,
            ssh_connection=ssh_connection,
            everyone=everyone,
            refusals=evaluation.refusals,
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
        agent, terms = self._agent, terms or Terms()
        loaded = await agent.disk.run(agent.store.load, text, file)
        member_name(loaded.document, agent.keys.wireguard)
        async with self.turn(progress):
            await agent.commit.admit(loaded, terms)
            standing = agent.commit.standing()
            change = Apply(
                loaded, agent.state, agent.keys.wireguard, terms=terms, holds=holds, standing=standing
            )
            end = await self.carry(change, progress)
            agent.commit.remember(end.saved)
            if end.committed and end.evaluation is not None:
                agent.state = change.accepted(agent.state)
                agent.client.set_mediators(loaded.document.mediators)
                await agent.pin(end.evaluation)
                agent.patrol.drift = ()
            elif agent.state.loaded is None and agent.state.settled:
                agent.state = agent.state.emptied()  # nothing says what it should have
            if end.unsettled:
                agent.wanted.set()
        if end.error is not None:
            raise end.error
        warnings = (*end.warnings, *agent.host.troubles())
        if end.outcome.error is None and agent.trouble is not None:
            warnings = (*warnings, agent.trouble)
        armed = agent.commit.pending() if end.record is not None else None
        return ApplyResult(end.outcome, warnings, end.waiting, armed)

    async def carry(self, change: Apply | RollBack, progress: Progress) -> do.Finished:
        """Do what a transaction wants, until it is over."""
        agent = self._agent
        before, kept = agent.state, agent.client.kept
        effects = change.begin()
        while True:
            event: on.Event | None = None
            for effect in effects:
                match effect:
                    case do.Finished():
                        return effect
                    case do.UseMediators(tried):
                        self._go_back(before, kept, tried)
                    case _:
                        try:
                            event = await self._perform(effect, change, progress)
                        except BaseException as error:
                            event = on.Failed(error)
            assert event is not None, "an effect that is answered"
            effects = change.handle(event)

    async def _perform(
        self, effect: do.Effect, change: Apply | RollBack, progress: Progress
    ) -> on.Event | None:
        agent = self._agent
        match effect:
            case do.AwaitView(document):
                return on.ViewKnown(await self._meet(document, progress))
            case do.ReadHost(document, actual):
                return await agent.read_host(document, actual=actual)
            case do.Arm():
                return on.WatchdogReady(await agent.commit.arm(effect))
            case do.ApplyHost(desired, document, seen):
                tell = quiet if change.state is State.UNDOING else progress
                return on.Applied(await agent.bring(desired, document, tell, seen))
            case do.Verify(document, live):
                return await verify(agent, document, live)
            case do.Persist(text):
                return await self._persist(text)
            case do.FinishCommit(record):
                await agent.disk.run(agent.commit.armory.finish, record)
                return on.Stored()
            case do.Disarm():
                await agent.commit.disarm()
                return on.Stored()
            case do.RestoreDocument(record):
                return await self._restore(record)
            case do.LiveBy(loaded, joined):
                await self.live_by(loaded, joined)
                return on.ViewRecalled(agent.state.view)
            case do.CloseCommit(record):
                try:
                    await agent.disk.run(agent.commit.armory.over, record)
                except OSError as error:
                    return on.StoreFailed(error.strerror or str(error))
                return on.Stored()
        return None

    async def _restore(self, record: PendingCommit) -> on.Event:
        agent = self._agent
        try:
            await agent.disk.run(agent.commit.armory.put_back, record)
        except OSError as error:
            return on.StoreFailed(error.strerror or str(error))
        try:
            loaded = await agent.disk.run(agent.store.document)
        except LocalError:
            loaded = None  # it was damaged before: what the host had comes back all the same
        return on.DocumentRead(loaded, await agent.disk.run(agent.store.joined))

    async def _persist(self, text: str) -> on.Event:
        """Have the document on disk."""
        store = self._agent.store

        def write() -> None:
            store.accept(text)
            store.set_joined(None)

        try:
            await self._agent.disk.run(write)
        except OSError as error:
            return on.StoreFailed(error.strerror or str(error))
        return on.Stored()

    async def live_by(self, loaded: Loaded | None, joined: Joined | None) -> None:
        """Live by this document from now on, with the present view, or the one that is remembered for it.

        The host itself is not touched.
        """
        agent = self._agent
        if loaded is None:
            agent.use(None)
        elif agent.state.view is None or not _share_mediator(agent.state.document, loaded.document):
            agent.use(await agent.remembered_view(loaded.document))
        agent.state = replace(agent.state, loaded=loaded, joined=joined)
        agent.client.set_mediators(loaded.document.mediators if loaded is not None else ())

    def _go_back(self, before: NodeState, kept: Kept | None, tried: Document) -> None:
        """Be at the mediators of before again. The newest view stays where it is one of theirs."""
        agent = self._agent
        if tried.mediators and not _share_mediator(before.document, tried):
            agent.drop_view()
            agent.state = replace(agent.state, view=before.view)
            agent.client.kept = kept
            agent.client.set_mediators(before.document.mediators if before.document is not None else ())

    async def _view_for(self, document: Document) -> View | None:
        """The view that a document would be applied with: the present one, or what is remembered of its mediator."""
        agent = self._agent
        if not document.mediators:
            return None
        if agent.state.view is not None and _share_mediator(agent.state.document, document):
            return agent.state.view
        kept = await agent.remembered_view(document)
        return kept.view if kept is not None else None

    async def _meet(self, document: Document, progress: Progress) -> str | None:
        """Have a view before anything is changed; without one there is nothing to build a network from."""
        agent = self._agent
        if not document.mediators:
            return None
        if agent.state.view is None or not _share_mediator(agent.state.document, document):
            agent.use(await agent.remembered_view(document))
        agent.client.set_mediators(document.mediators)
        if agent.client.state.state != "connected":
            agent.client.poke()
        if agent.state.view is None:
            progress("waiting for the mediator")
        deadline = time.monotonic() + VIEW_WAIT_S
        while agent.state.view is None and time.monotonic() < deadline and not agent.client.state.final:
            agent.view_came.clear()
            try:
                await asyncio.wait_for(agent.view_came.wait(), 0.1)
            except TimeoutError:
                continue
        if agent.state.view is not None:
            state = agent.client.state
            return None if state.state == "connected" else state.error
        reason = agent.client.state.error or "it has not answered yet"
        raise LocalError(f"{reason}; nothing was changed")

    async def prune(self, at_most: int | None, progress: Progress) -> tuple[Plan, ApplyOutcome]:
        """Remove what is ours on the host and in no document; with `at_most` None only say what that is.

        Raises LocalError while it is not known what the host should have.
        """
        agent = self._agent
        if agent.state.loaded is not None and not agent.state.settled:
            raise LocalError("it is not known yet what this host should have: the agent has not converged")
        async with agent.lock:
            desired = agent.state.desired
            plan = prune(desired, await agent.host.read())
            if at_most is None:
                return plan, ApplyOutcome(0)
            return plan, await agent.host.prune(desired, at_most, progress)

    async def set_down(self, down: Down, progress: Progress) -> ApplyOutcome:
        """Take networks down or bring them up again, and remember it."""
        agent = self._agent
        async with self.turn(progress):
            await agent.commit.must_be_free()
            before = agent.state
            try:  # first: on a full disk nothing was changed, and nothing is to be undone
                await agent.disk.run(agent.store.set_down, down)
            except OSError as error:
                return ApplyOutcome(0, True, f"cannot keep what is down: {error.strerror}")
            agent.state = replace(before, down=down)
            outcome = ApplyOutcome(0, error="not tried")
            try:
                outcome = await agent.reconcile(progress)
            finally:
                if outcome.error is not None:
                    agent.state = replace(agent.state, down=before.down, conditions=before.conditions)
                    with contextlib.suppress(OSError):
                        await agent.disk.run(agent.store.set_down, before.down)
            return outcome

    async def forget_leases(self, who: str | None, progress: Progress) -> int:
        """Believe the mediator anew on a member's addresses; None: on all, and on its age. Raises LocalError."""
        agent = self._agent
        async with self.turn(progress):
            before = agent.state.pins
            kept = leases.without(agent.state, who)
            try:
                await agent.disk.run(agent.store.keep_pins, kept)
            except OSError as error:
                raise LocalError(f"cannot write down what is forgotten: {error.strerror}") from error
            agent.state = replace(agent.state, pins=kept)
            if who is None:
                agent.client.forget()
            await agent.reconcile(progress)
        return len(before) - len(kept)


def _share_mediator(one: Document | None, other: Document) -> bool:
    """Whether a view for one document is a view for the other."""
    return one is not None and bool(set(identities(one)) & set(identities(other)))
