"""`netctl plan`: print what an apply would change on this host, and who would gain or lose reach."""

from __future__ import annotations

import argparse
from pathlib import Path

from netctl.agent.storage.locations import Locations, read_document
from netctl.cli import output
from netctl.cli.exits import CHANGES, CONVERGED
from netctl.cli.options import add_engine, add_file, add_output, add_session
from netctl.model.errors import LocalError
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_file(parser)
    add_output(parser, "markdown")
    parser.add_argument(
        "--against",
        metavar="REV",
        help="say what the file changes for people since this Git revision, without asking this host",
    )
    add_engine(parser)
    parser.add_argument("--detailed-exitcode", action="store_true", help="exit 2 when there are changes")
    parser.add_argument("--out", metavar="PLAN", type=Path, help="keep the plan for `netctl apply PLAN`")
    parser.add_argument(
        "--everyone",
        action="store_true",
        help="say what changes for people on every host, not only for this one",
    )
    add_session(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print what would change. With --detailed-exitcode, exit 2 if something would change."""
    if arguments.against:
        from netctl.cli.against import against

        return against(arguments, locations)
    if arguments.output == "markdown":
        raise LocalError("-o markdown says what a branch changes: name what to compare with, --against REV")
    from netctl.cli.applying import plan_or_apply, session_of

    path = arguments.file or locations.config
    request = r.Plan(
        read_document(path), str(path), session_of(arguments.ssh_connection), everyone=arguments.everyone
    )
    answer = plan_or_apply(locations, arguments.engine, request)
    if arguments.out is not None:
        from netctl.cli import planfile

        planfile.save(arguments.out, request.text, path.resolve(), answer.plain)
    if arguments.output == "json":
        output.json(answer.plain)
    else:
        _show(answer.reply, arguments.out)
    return CHANGES if answer.reply.changes and arguments.detailed_exitcode else CONVERGED


def _show(result: r.PlanReply, out: Path | None) -> None:
    for row in result.changes:
        output.change(row.line)
    people = result.people.lines
    if people:
        output.line("For people:")
        for line in people:
            output.change(line)
    output.line(f"Plan: {result.summary}.")
    if result.session.drops is not None:
        output.warning(f"this drops the link that you are connected through: {result.session.drops}")
    if out is not None:
        output.note(f"kept in {out}: `netctl apply {out}` does this and nothing else")
