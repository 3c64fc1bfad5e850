"""Plan and apply a document: by the agent of this host, or in this process if no agent runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from msgspec import to_builtins

from netctl.agent.storage.locations import Locations, read_document
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.exits import CONVERGED, FAILED, ROLL_BACK_FAILED, ROLLED_BACK
from netctl.cli.findings import show_findings
from netctl.model.errors import ConfigError, LocalError
from netctl.system.collection import paused
from netctl.system.lineclient import Answer, answer_of
from netctl.wire import agentrequests as r
from netctl.wire.jsonline import Request


@dataclass(frozen=True, slots=True)
class ApplyWish:
    """The options of an apply."""

    file: Path | None
    """A document or a saved plan; None: the configured document."""
    engine: str
    output: str = "text"
    confirm_within: float | None = None
    no_confirm: bool = True
    force: bool = False
    ssh_connection: str | None = ""
    unattended: bool = False


Reply = TypeVar("Reply", r.PlanReply, r.ApplyReply)


def plan_or_apply(locations: Locations, engine: str, request: Request[Reply]) -> Answer[Reply]:
    """Ask the agent, or do it in this process if none runs. Raises LocalError, after printing a document's findings."""
    assert isinstance(request, r.Plan | r.Apply)
    dry = isinstance(request, r.Plan)
    try:
        try:
            answer = ask(locations, request, None if dry else output.progress)
        except NoAgentError:
            with paused():
                from netctl.agent import oneshot

                here = oneshot.plan if dry else oneshot.apply
                done = here(locations, to_builtins(request), engine, output.progress)
            answer = answer_of(request, done)
    except ConfigError as error:
        show_findings(error.findings, request.text)
        raise LocalError(f"{request.file} is not valid; nothing was changed") from None
    for warning in answer.reply.warnings:
        output.warning(warning.replace(" warning", "", 1))
    return answer


def session_of(given: str | None) -> str:
    """The SSH session that the apply must not interrupt: the given one, or that of this process."""
    from netctl.cli.sshsession import ssh_connection

    return ssh_connection() if given is None else given


def apply_document(wish: ApplyWish, locations: Locations) -> int:
    """Apply a document or a saved plan on this host. Returns the exit status. Raises LocalError."""
    from netctl.cli import planfile

    path = wish.file or locations.config
    text = read_document(path)
    kept = planfile.read(text, path)
    request = r.Apply(
        kept.text if kept is not None else text,
        kept.file if kept is not None else str(path),
        binding=kept.binding if kept is not None else None,
        confirm_s=wish.confirm_within,
        ssh_connection="" if wish.no_confirm else session_of(wish.ssh_connection),
        force=wish.force,
        unattended=wish.unattended,
    )
    answer = plan_or_apply(locations, wish.engine, request)
    result = answer.reply
    if wish.output == "json":
        output.json(answer.plain)
    if result.error is not None:
        state = "everything is as it was" if result.rolled_back else "the host is between two states"
        output.error(f"{result.error}; {state}")
        if not result.rolled_back:
            return ROLL_BACK_FAILED
        return ROLLED_BACK if result.changed else FAILED
    if result.waiting:
        output.warning(f"{result.waiting}; this host goes on with what the mediator said last")
    if wish.output != "json":
        count = result.changed
        output.line("nothing to change" if not count else f"applied: {output.counted(count, 'change')}")
    if result.armed is not None:
        output.note(
            f"armed: this host goes back in {result.armed.rolls_back_in_s:.0f} s unless you run `netctl confirm`"
        )
    return CONVERGED
