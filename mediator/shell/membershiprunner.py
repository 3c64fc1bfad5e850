"""Runs the membership service beside a live store: carries its transactions out, and its timer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from mediator.core import effects as fx
from mediator.core import transactions as c
from mediator.core.acceptance import accept
from mediator.core.kept import Kept, StoredDocument
from mediator.core.membershipservice import FROM_STORE, Done, MembershipService
from mediator.shell.memberstore import MemberStore
from netctl.model.errors import NetctlError

T = TypeVar("T")


def unix_now() -> int:
    """Seconds since 1970: invites expire by the mediator's clock alone."""
    return int(time.time())


class MembershipRunner:
    """Carries out what the service decides; decides nothing itself."""

    def __init__(
        self,
        service: MembershipService,
        store: MemberStore,
        later: Callable[[float, Callable[[], None]], object],
        perform: Callable[[list[fx.Effect]], None],
        grants_s: Callable[[], int],
    ) -> None:
        """`later` calls back after seconds; `grants_s`: Unix time by the clock that the relay shares."""
        self.service = service
        self.store = store
        self._later = later
        self._perform = perform
        self._grants_s = grants_s
        self._armed = False
        self._reading = asyncio.Lock()

    async def carry(self, job: c.Job[T]) -> T:
        """Run a job to its end and return its result. Raises what the job raises."""
        try:
            change = next(job)
            while True:
                # One reading at a time, until its job has taken it: a waiting job may then need none.
                async with self._reading if isinstance(change, c.Reading) else contextlib.nullcontext():
                    try:
                        outcome = await self._outcome(change)
                    except Exception as error:
                        change = job.throw(error)
                    else:
                        change = job.send(c.Committed(outcome, time.monotonic(), self._grants_s()))
                self._perform(self.service.news())
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            job.close()
            self._perform(self.service.news())
            self._arm()

    async def _outcome(self, change: c.Change[Any]) -> Any:
        if isinstance(change, c.Reading):
            if 0 < change.number <= self.service.number:
                return None
            change = replace(change, known=self.service.known)
            kept: Kept = await commit(self.store, change, self._grants_s())
            if kept.document is None or not kept.document.content:
                return kept
            return replace(kept, document=await asyncio.to_thread(self._accepted, kept.document))
        return await commit(self.store, change, self._grants_s())

    def _accepted(self, found: StoredDocument) -> StoredDocument:
        """Read a document in a thread: for thousands of members that takes long."""
        try:
            return replace(found, accepted=accept(found.content, FROM_STORE, self.service.hub.identity))
        except NetctlError as error:
            return replace(found, accepted=error)

    async def done(self, job: c.Job[Done]) -> str:
        """Run an operator's job, perform its effects, and return the member's name. Raises what the job raises."""
        done = await self.carry(job)
        self._perform(done.effects)
        return done.name

    def _arm(self) -> None:
        due = self.service.next_timer()
        if due is not None and not self._armed:
            self._armed = True
            self._later(max(0.0, due - time.monotonic()), lambda: self._due(due))

    def _due(self, due: float) -> None:
        self._armed = False
        self._perform(self.service.handle_timer(max(due, time.monotonic()), self._grants_s()))


async def commit(store: MemberStore, change: c.Change[Any], unix_s: int) -> Any:
    """Carry out one transaction and return its result. Raises LocalError, or RemoteError if the host may not do this.

    `unix_s`: now, by the clock that the relay shares.
    """
    match change:
        case c.Redemption(document, who, now_s):
            return await store.redeem(document, who, now_s)
        case c.Approval(key, now_s, by):
            return await store.approve(key, now_s, by=by)
        case c.Revocation(key, name, now_s, by):
            return await store.revoke(key, name, now_s, unix_s=unix_s, by=by)
        case c.Restoration(key, now_s, by):
            return await store.restore(key, now_s, by=by)
        case c.Departure(key, now_s):
            return await store.leave(key, now_s, unix_s=unix_s)
        case c.KeyChange(old, key, identity, now_s):
            return await store.rekey(old, key, identity, now_s, unix_s=unix_s, by=change.by)
        case c.NewInvite(network, called, uses, made_s, expires_s, name, by):
            return await store.invite(
                network, called=called, uses=uses, made_s=made_s, expires_s=expires_s, name=name, by=by
            )
        case c.InviteRevocation(identifier, now_s, by):
            return await store.revoke_invite(identifier, now_s, by=by)
        case c.Grant(leases, ports, pairs, resting, basis):
            return await store.add(leases, ports, pairs, resting, basis)
        case c.Offer(content, digest, based_on, now_s, by, detail):
            return await store.offer(content, digest, based_on, now_s, by=by, detail=detail)
        case c.Raise(number):
            return await store.reserve_generation(number)
        case c.Look():
            return await store.state()
        case c.Reading(_, known):
            return await store.kept(known)
    raise AssertionError(f"a transaction that no store knows: {change}")
