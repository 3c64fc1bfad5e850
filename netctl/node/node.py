"""The node: everything that one host decides, one job after the other. Events in, effects out; no clock, no file.

Jobs wait in one queue: requests of people (`netctl.node.requests`), and what follows from views, timers and the
kernel. The present job's step is out as one `Perform`; its answer comes back as one `Answered` with the same token. A
message of the mediator is taken at once and never changes what the present job has evaluated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.node import changing, confirming, healing, joining, requests
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.carrying import keep_view, recall
from netctl.node.context import Context, Job, reason_of
from netctl.node.linkstate import LinkState
from netctl.node.ownport import WORDS, is_fixed, next_turn, turn_of
from netctl.node.reconciling import observe, reconcile

DRIFT_S = 30.0
"""Seconds between two drift checks."""
TURN_S = 60.0
"""Seconds that a change waits for another one: an apply of a large document takes seconds."""
TURN_SAID_S = 0.5
"""Seconds of waiting from which the client is told."""
NEVER = float("inf")


@dataclass(slots=True)
class _Queued:
    """A job that waits for its turn, or is running."""

    name: str
    work: Job[Any]
    request: int | None = None
    say_at_s: float = NEVER
    """When the client is told that another job goes first."""
    give_up_at_s: float = NEVER


class Node:
    """One life of one host. `handle` is called with each event, `TimePassed` at `next_timer` among them."""

    def __init__(self, context: Context, drift_s: float = DRIFT_S) -> None:
        self.context = context
        self._drift_s = drift_s
        self._queue: deque[_Queued] = deque()
        self._present: _Queued | None = None
        self._token = 0
        self._until_s: float | None = None
        """Until when the present job waits, in seconds."""
        self._drift_at_s = self._prove_at_s = self._revive_at_s = NEVER
        self._unreachable: str | None = None
        """The last logged reason why there is no mediator."""

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._present is not None or bool(self._queue)

    def handle(self, event: on.Happening, now: float) -> list[do.Perform | do.Notice]:
        """Take an event and return its effects. `now`: seconds of CLOCK_BOOTTIME."""
        context = self.context
        context.now = now
        self._take(event)
        self._timers(now)
        self._advance()
        notices, context.notices = context.notices, []
        return notices

    def next_timer(self) -> float | None:
        """When `TimePassed` is due, or None."""
        context = self.context
        due = min(
            self._drift_at_s,
            self._revive_at_s,
            self._until_s if self._until_s is not None else NEVER,
            self._prove_at_s if context.proof is not None else NEVER,
            min((job.say_at_s for job in self._queue), default=NEVER),
            min((job.give_up_at_s for job in self._queue), default=NEVER),
        )
        if context.armed is not None:
            left = confirming.left_s(context, context.armed)
            due = min(due, context.now + (min(left, confirming.TICK_S) if left > 0 else confirming.TICK_S))
        return due if due < NEVER else None

    # -- events --------------------------------------------------------------------------------------------------

    def _take(self, event: on.Happening) -> None:
        context = self.context
        match event:
            case on.Started():
                self._add("start", self._start)
            case on.Requested(number, body):
                self._ask(number, body)
            case on.Answered(token, answer):
                if self._present is not None and self._until_s is None and token == self._token:
                    self._resume(answer)
            case on.ViewReceived(view, kept):
                context.state = replace(context.state, view=view)
                context.kept = context.unkept = kept
                context.wanted = True
                self._add("keep the view", partial(keep_view, context))
                self._wake()
            case on.ViewConfirmed(
                kept
            ):  # nothing follows from it: it is written with the next view, or at the end
                context.kept = context.unkept = kept
                if (present := context.state.view) is not None:
                    later = replace(present, generation=kept.view.generation)
                    context.state = replace(context.state, view=later)
            case on.PresenceReceived(online):
                context.state = context.state.present(online)
            case on.LinkChanged(state):
                self._link(state)
                self._wake()
            case on.PortUnfit(why):
                self._another_port(why)
                self._wake()
            case on.SessionsChanged(live):
                before, context.live = context.live, live
                context.wanted = context.wanted or self._follows_sessions(before - live)
            case on.ReconcileWanted():
                context.wanted = True
            case on.LinkVanished():
                self._add("revive", self._revive)
            case on.TimePassed():
                pass

    def _follows_sessions(self, ended: frozenset[WireGuardKey]) -> bool:
        """Whether the host's state depends on a change of sessions. `ended`: peers whose session is over.

        Broadcast on a segment goes to peers with a session. A fixed endpoint is set again once no session uses
        another.
        """
        desired = self.context.state.desired
        peers = desired.wireguard.peers if desired.wireguard is not None else {}
        return bool(desired.segments) or any(
            key in peers and peers[key].endpoint is not None for key in ended
        )

    def _link(self, state: LinkState) -> None:
        context = self.context
        context.link = state
        if state.waits != context.state.waits:
            context.state = replace(context.state, waits=state.waits)
            context.wanted = True
        if state.state == "connected":
            context.say("logged in to the mediator")
            self._unreachable = None
        elif state.state == "unreachable":
            if state.error != self._unreachable:  # log a reason once, not with each try
                context.warn(f"no mediator: {state.error}")
            self._unreachable = state.error

    def _another_port(self, why: str) -> None:
        context = self.context
        member = context.state.document.member_by_key(context.key) if context.state.document else None
        if member is not None and is_fixed(member):
            return
        link = context.state.desired.wireguard
        turn = next_turn(context.state.port_turn)
        context.state = replace(context.state, port_turn=turn)
        if link is not None:
            context.say(f"another UDP port in the place of {link.listen_port}: {WORDS.get(why, why)}")
        context.wanted = True

    def _ask(self, number: int, body: requests.Request) -> None:
        job = _Queued(type(body).__name__, self._job(body), number)
        if self.busy and not isinstance(body, requests.PATIENT):
            job.say_at_s = self.context.now + TURN_SAID_S
            job.give_up_at_s = job.say_at_s + TURN_S
        self._queue.append(job)

    def _job(self, body: requests.Request) -> Job[Any]:
        context = self.context
        match body:
            case requests.Plan():
                return changing.plan(context, body)
            case requests.Apply():
                return changing.apply(context, body)
            case requests.Prune():
                return changing.prune_host(context, body)
            case requests.SetDown():
                return changing.set_down(context, body)
            case requests.ForgetLeases():
                return changing.forget_leases(context, body)
            case requests.Confirm():
                return confirming.confirm(context)
            case requests.RollBack(nonce):
                return confirming.roll_back(context, nonce)
            case requests.Join():
                return joining.join(context)
            case requests.Leave():
                return joining.leave(context)
            case requests.CheckDrift():
                return healing.check(context)
            case requests.RestoreRoutes():
                return healing.restore_routes(context)

    # -- the queue -----------------------------------------------------------------------------------------------

    def _add(self, name: str, begin: Callable[[], Job[None]]) -> None:
        """Queue a job without a client; a job of the same kind that waits already will do."""
        if not any(job.name == name for job in self._queue):
            self._queue.append(_Queued(name, begin()))

    def _advance(self) -> None:
        while True:
            if self.context.wanted:
                self._add("reconcile", self._reconcile)
                self.context.wanted = False
            if self._present is not None or not self._queue:
                return
            self._present = self._queue.popleft()
            self._step(lambda work: next(work))

    def _resume(self, answer: on.Event) -> None:
        self._step(lambda work: work.send(answer))

    def _wake(self) -> None:
        if self._until_s is not None:
            self._until_s = None
            self._resume(on.Woken())

    def _step(self, go: Callable[[Job[Any]], do.Effect]) -> None:
        """Resume the present job, to its next step or its end."""
        job, context = self._present, self.context
        assert job is not None
        context.request = job.request
        try:
            step = go(job.work)
        except StopIteration as end:
            self._end(job, end.value, None)
        except Exception as error:
            self._end(job, None, error)
        else:
            if isinstance(step, do.Wait):
                self._until_s = step.until_s
            else:
                self._token += 1
                context.emit(do.Perform(self._token, step, job.request))
        finally:
            context.request = None

    def _end(self, job: _Queued, result: object, error: Exception | None) -> None:
        self._present = None
        if job.request is not None:
            self.context.emit(do.Reply(job.request, result, error))
        elif error is not None:
            self.context.warn(reason_of(error))

    # -- timers --------------------------------------------------------------------------------------------------

    def _timers(self, now: float) -> None:
        context = self.context
        if self._until_s is not None and now >= self._until_s:
            self._wake()
        for job in [job for job in self._queue if now >= job.give_up_at_s]:
            self._queue.remove(job)
            job.work.close()
            message = (
                f"another change of this host has been under way for {TURN_S:.0f} s; nothing was changed"
            )
            context.emit(do.Reply(job.request or 0, error=LocalError(f"{message}: try again")))
        for job in self._queue:
            if now >= job.say_at_s and job.request is not None:
                job.say_at_s = NEVER
                context.emit(do.Progress(job.request, "waiting: another change of this host is under way"))
        if now >= self._drift_at_s:
            self._drift_at_s = now + self._drift_s
            self._add("look for drift", lambda: healing.check(context))
        if now >= self._revive_at_s:
            self._revive_at_s = NEVER
            self._add("revive", self._revive)
        armed = context.armed
        if armed is not None and confirming.left_s(context, armed) <= 0 and now >= context.retry_s:
            self._add("expire", lambda: confirming.expire(context))
        if context.proof is not None and (now >= self._prove_at_s or self._prove_at_s == NEVER):
            self._prove_at_s = now + confirming.PROVE_S
            self._add("prove", lambda: confirming.prove(context))

    # -- jobs without a client -------------------------------------------------------------------------------------

    def _start(self) -> Job[None]:
        context = self.context
        self._drift_at_s = context.now + self._drift_s
        yield from confirming.recover(context)
        document = context.state.document
        if document is not None:
            yield from recall(context, document)
            context.use_mediators(document)
            yield from observe(context)  # sessions that survived keep their broadcast
            seen = yield do.LookForLink()
            if isinstance(seen, on.LinkSeen):  # a port that an earlier life of the agent chose is kept
                context.state = replace(context.state, port_turn=turn_of(context.key, seen.port))
            context.wanted = True

    def _reconcile(self) -> Job[None]:
        context = self.context
        try:
            yield from joining.take_excerpt(context)
            context.fail((yield from reconcile(context)).error)
        except Exception as error:  # a failure is one line of the log: the node lives on
            context.fail(reason_of(error))

    def _revive(self) -> Job[None]:
        yield from healing.revive(self.context)
        if self.context.revival.since_s is not None:
            self._revive_at_s = self.context.now + healing.RETRY_S
