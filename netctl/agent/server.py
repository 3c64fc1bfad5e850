"""The agent's control socket: what each request of `netctl.wire.agentrequests` does."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from msgspec import structs

from netctl.agent.agent import Agent
from netctl.agent.armed import terms_of
from netctl.agent.places import Places
from netctl.agent.snapshot import take
from netctl.engine import ApplyOutcome
from netctl.model.errors import LocalError
from netctl.node import leases
from netctl.node.choices import Down
from netctl.node.diagnosis.examine import examine
from netctl.node.planreport import expected
from netctl.plan import plan_to_json
from netctl.system.lineserver import LineServer, Progress, Service, cannot_listen
from netctl.wire import agentrequests as r
from netctl.wire.jsonline import Request

MAX_REQUEST = 20 * 1024 * 1024
"""A document of 20,000 members is about 4 MB; JSON may need twice that."""
STOP_DELAY_S = 0.05
"""Whoever asked the agent to end reads the answer first."""


class ControlServer:
    """Serves an agent's control socket."""

    def __init__(self, agent: Agent, places: Places) -> None:
        self._agent = agent
        self._path = places.socket
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
                return await agent.status()
            case r.Doctor():
                return examine(take(agent))
            case r.Plan():
                planned = await agent.changes.plan(
                    request.text,
                    request.file,
                    everyone=request.everyone,
                    ssh_connection=request.ssh_connection or "",
                )
                return planned.to_json()
            case r.Apply():
                return await self._apply(request, progress)
            case r.Prune():
                plan, pruned = await agent.changes.prune(request.at_most, progress)
                return {**plan_to_json(plan), "changed": pruned.changed, "error": pruned.error}
            case r.Stop():  # for `netctl` on this host, which starts it again with what has changed
                asyncio.get_running_loop().call_later(STOP_DELAY_S, os.kill, os.getpid(), signal.SIGTERM)
                return r.Empty()
            case r.Adopt():
                await agent.joining.adopt()
                return r.Empty()
            case r.Leave():
                return outcome_reply(await agent.joining.leave(progress))
            case r.Confirm():
                async with agent.changes.turn(progress):
                    return r.ConfirmReply((await agent.commit.confirm()).digest)
            case r.Rollback():
                async with agent.changes.turn(progress):
                    return outcome_reply(await agent.commit.roll_back(request.nonce or None))
            case r.Leases():
                return leases.rows(agent.state)
            case r.ForgetLeases():
                return r.ForgottenReply(await agent.changes.forget_leases(request.member or None, progress))
            case r.Drill():
                agent.client.hold(request.seconds)
                return r.Empty()
            case r.Down() | r.Up():
                up = isinstance(request, r.Up)
                return await self._switch("up" if up else "down", request.network or None, progress)
            case _:
                raise LocalError(f"this agent cannot do '{request.operation()}'")

    async def _apply(self, request: r.Apply, progress: Progress) -> r.ApplyReply:
        agent = self._agent
        holds = expected(structs.asdict(request.binding) if request.binding is not None else None)
        terms = terms_of({**structs.asdict(request), "ssh_connection": request.ssh_connection or ""})
        if terms.unattended:
            await agent.commit.decide_unproven()
        result = await agent.changes.apply(request.text, request.file, progress, holds=holds, terms=terms)
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

    async def _switch(self, op: str, network: str | None, progress: Progress) -> r.OutcomeReply:
        agent = self._agent
        document = agent.state.document
        if document is None:
            raise LocalError("this host has no document yet: run `netctl apply`")
        known = document.networks
        if network is not None and network not in known:
            raise LocalError(f"there is no network '{network}'; there are: {', '.join(known)}")
        down = agent.state.down
        if op == "down":
            wanted = (
                Down(down.everything, down.networks | {network}) if network else Down(True, down.networks)
            )
        elif network is None:
            wanted = Down()
        else:
            others = frozenset(known) if down.everything else down.networks
            wanted = Down(False, others - {network})
        return outcome_reply(await agent.changes.set_down(wanted, progress))


def outcome_reply(outcome: ApplyOutcome) -> r.OutcomeReply:
    """How a change ended."""
    return r.OutcomeReply(outcome.changed, outcome.error, outcome.rolled_back)
