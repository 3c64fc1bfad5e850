"""The agent's control socket: performs the requests of `netctl.wire.agentrequests`."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from msgspec import structs

from netctl.agent.agent import Agent
from netctl.agent.storage.commitstore import terms_of
from netctl.agent.storage.locations import Locations
from netctl.engine import ApplyOutcome
from netctl.model.errors import LocalError
from netctl.model.outcome import in_words
from netctl.node import leases
from netctl.node import requests as ask
from netctl.node.doctor import examine
from netctl.node.planreport import expected
from netctl.plan import plan_to_json
from netctl.system.lineserver import LineServer, Progress, Service, cannot_listen
from netctl.wire import agentrequests as r
from netctl.wire.jsonline import Request

MAX_REQUEST = 20 * 1024 * 1024
"""Bytes. A document of 20,000 members has about 4 MB; JSON may need twice that."""
STOP_DELAY_S = 0.05
"""Seconds between the answer to a stop request and the end of the agent."""


class ControlServer:
    """Serves an agent's control socket."""

    def __init__(self, agent: Agent, locations: Locations) -> None:
        self._agent = agent
        self._path = locations.socket
        service = Service("agent", r.OPERATIONS, self._perform, MAX_REQUEST)
        self._server = LineServer(self._path, service)

    async def start(self) -> None:
        """Listen. Raises LocalError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            await self._server.start()
        except OSError as error:
            raise cannot_listen(self._path, error, "; run this as root") from error

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()

    async def _perform(self, request: Request[Any], progress: Progress) -> Any:
        agent = self._agent
        match request:
            case r.Status():
                return await agent.status(look=request.look)
            case r.Watch():
                return r.WatchReply(await agent.viewers.wait(request.seen, request.wait_s))
            case r.Doctor():
                await agent.firewall.refresh()
                return examine(agent.snapshot())
            case r.Timeline():
                return agent.timeline.newest()
            case r.Plan():
                planned = await agent.plan(
                    request.text,
                    request.file,
                    everyone=request.everyone,
                    ssh_connection=request.ssh_connection or "",
                )
                return planned.to_json()
            case r.Apply():
                return await self._apply(request, progress)
            case r.Prune():
                plan, pruned = await agent.runner.ask(ask.Prune(request.at_most), progress)
                return {**plan_to_json(plan), "changed": pruned.changed, "error": pruned.error}
            case r.Stop():  # from a `netctl` command that then starts the agent again, e.g. with new keys
                asyncio.get_running_loop().call_later(STOP_DELAY_S, os.kill, os.getpid(), signal.SIGTERM)
                return r.Empty()
            case r.Adopt():
                await agent.runner.ask(ask.Join(), progress)
                return r.Empty()
            case r.Leave():
                return outcome_reply(await agent.runner.ask(ask.Leave(), progress))
            case r.Confirm():
                confirmed = await agent.runner.ask(ask.Confirm(), progress)
                agent.timeline.add("apply", "somebody confirmed the apply: it stays")
                return r.ConfirmReply(confirmed.digest)
            case r.Rollback():
                back = await agent.runner.ask(ask.RollBack(request.nonce or None), progress)
                agent.timeline.add("apply", f"the apply was taken back: {in_words(back)}")
                return outcome_reply(back)
            case r.Leases():
                return leases.rows(agent.state)
            case r.ForgetLeases():
                forgotten = await agent.runner.ask(ask.ForgetLeases(request.member or None), progress)
                return r.ForgottenReply(forgotten)
            case r.Drill():
                agent.client.hold(request.seconds)
                return r.Empty()
            case r.Down() | r.Up():
                wish = ask.SetDown(request.network or None, down=isinstance(request, r.Down))
                switched = await agent.runner.ask(wish, progress)
                what = f"network '{wish.network}'" if wish.network else "everything"
                way = "down" if wish.down else "up"
                agent.timeline.add("apply", f"{what} was to go {way}: {in_words(switched)}")
                return outcome_reply(switched)
            case _:
                raise LocalError(f"this agent cannot do '{request.operation()}'")

    async def _apply(self, request: r.Apply, progress: Progress) -> r.ApplyReply:
        agent = self._agent
        holds = expected(structs.asdict(request.binding) if request.binding is not None else None)
        terms = terms_of({**structs.asdict(request), "ssh_connection": request.ssh_connection or ""})
        result = await agent.apply(request.text, request.file, progress, holds=holds, terms=terms)
        outcome = result.outcome
        armed = result.armed
        return r.ApplyReply(
            changed=outcome.changed,
            rolled_back=outcome.rolled_back,
            error=outcome.error,
            warnings=list(result.warnings),
            waiting=result.waiting,
            armed=r.ArmedState(**armed) if armed is not None else None,
        )


def outcome_reply(outcome: ApplyOutcome) -> r.OutcomeReply:
    """The result of a change as a reply."""
    return r.OutcomeReply(outcome.changed, outcome.error, outcome.rolled_back)
