"""Runs a node: feeds it one queue of events, has its effects performed, and keeps its timer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from netctl.agent.log import Progress, quiet, say, warn
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.node import Node
from netctl.node.requests import Request
from netctl.system.clock import boottime
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks

AT_LEAST_S = 0.005
"""Shortest timer: a due timer without effect must not use a whole core."""

Perform = Callable[[do.Effect, Progress], Awaitable[on.Event]]
"""Performs one step and returns its result as an event. Raises any exception of the step."""
Notify = Callable[[do.Notice], None]
"""Performs a notice, which has no answer, at once."""


class Runner:
    """All methods run in one event loop. Steps run as tasks, so a long request does not delay other events."""

    def __init__(self, node: Node, guard: Guard, tasks: Tasks, said: Callable[[str], None] = quiet) -> None:
        """`said`: also receives each line of the node's log."""
        self.node = node
        self._said = said
        self._guard, self._tasks = guard, tasks
        self._perform: Perform | None = None
        self._notify: Notify | None = None
        self._events: deque[on.Happening] = deque()
        self._draining = self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0
        self._waiting: dict[int, tuple[asyncio.Future[Any], Progress]] = {}

    def attach(self, perform: Perform, notify: Notify) -> None:
        """Set the functions that perform the node's steps and notices."""
        self._perform, self._notify = perform, notify

    def post(self, event: on.Happening) -> None:
        """Give the node an event: now, or after the event that it handles now."""
        self._events.append(event)
        if self._draining or self._closed:
            return
        self._draining = True
        try:
            while self._events:
                self._handle(self._events.popleft())
        finally:
            self._draining = False
        self._schedule()

    async def ask(self, body: Request, progress: Progress = quiet) -> Any:
        """Send the node a request; returns its answer or raises its error. A cancelled caller does not stop it."""
        self._number += 1
        answer = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = answer, progress
        number = self._number
        try:
            self.post(on.Requested(number, body))
            return await answer
        finally:
            del self._waiting[number]

    def close(self) -> None:
        """Stop giving events and timers to the node."""
        self._closed = True
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _handle(self, event: on.Happening) -> None:
        try:
            effects = self.node.handle(event, boottime())
        except Exception as error:
            self._guard.caught(f"an event of the node ({type(event).__name__})", error)
            return
        for effect in effects:
            try:
                self._do(effect)
            except Exception as error:  # the other effects are independent
                self._guard.caught(f"what the node wants ({type(effect).__name__})", error)

    def _do(self, effect: do.Perform | do.Notice) -> None:
        assert self._notify is not None, "attached"
        match effect:
            case do.Perform(token, step, request):
                self._tasks.start(f"a step ({type(step).__name__})", self._step(token, step, request))
            case do.Log(text, warning):
                (warn if warning else say)(text)
                self._said(text)
            case do.Progress(request, line):
                self._told(request)(line)
            case do.Reply(request, result, error):
                answer, _ = self._waiting.get(request, (None, quiet))
                if answer is None or answer.done():
                    return
                if error is not None:
                    answer.set_exception(error)
                else:
                    answer.set_result(result)
            case _:
                self._notify(effect)

    async def _step(self, token: int, step: do.Effect, request: int | None) -> None:
        assert self._perform is not None, "attached"
        try:
            answer = await self._perform(step, self._told(request))
        except Exception as error:
            answer = on.Failed(error)
        self.post(on.Answered(token, answer))

    def _told(self, request: int | None) -> Progress:
        return self._waiting[request][1] if request in self._waiting else quiet

    def _schedule(self) -> None:
        self._stop_timer()
        if self._closed:
            return
        due = self.node.next_timer()
        if due is not None:
            delay = max(due - boottime(), AT_LEAST_S)
            self._timer = asyncio.get_running_loop().call_later(delay, self.post, on.TimePassed())
