"""`netctl invite`: make, list and revoke invites, on the mediator's machine."""

from __future__ import annotations

import argparse
import time

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.operator import admin
from netctl.cli.options import add_mediator_state, add_output
from netctl.model.errors import LocalError
from netctl.wire import operatorrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("what", metavar="NETWORK|list|revoke", help="the network, or what to do with invites")
    parser.add_argument("id", nargs="?", metavar="ID", help="of the invite to revoke")
    parser.add_argument(
        "--uses", type=int, default=1, metavar="N", help="how many hosts may use it (default 1)"
    )
    parser.add_argument("--expires", default="24h", metavar="TIME", help="30m, 24h, 7d (default 24h)")
    parser.add_argument("--name", help="what the host is to be called (for one use)")
    add_mediator_state(parser)
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Make, list or revoke invites."""
    if arguments.what == "list":
        answer = admin(arguments, r.ListInvites())
        if arguments.output == "json":
            output.json(answer.plain)
        else:
            _invites(answer.reply)
        return 0
    if arguments.what == "revoke":
        if arguments.id is None:
            raise LocalError("say which: `netctl invite list` shows the IDs")
        admin(arguments, r.RevokeInvite(arguments.id))
        output.note(f"invite {arguments.id} is good for nothing now; who came with it stays")
        return 0
    request = r.CreateInvite(arguments.what, arguments.uses, arguments.expires, arguments.name)
    created = admin(arguments, request)
    made = created.reply
    if arguments.output == "json":
        output.json(created.plain)
        return 0
    hosts = output.counted(made.uses, "host")
    approval = "; each waits for `netctl members approve`" if made.approve == "manual" else ""
    output.note(
        f"invite {made.id} for {hosts} to '{made.network}', good for {arguments.expires}{approval}. "
        "Who has this string can join: send it as you would a password. On the host: `sudo netctl join`, and paste it."
    )
    output.line(made.invite)
    return 0


def _invites(rows: list[r.InviteRow]) -> None:
    now = time.time()
    output.table(
        "invites",
        ("id", "network", "used", "state", "expires in", "name"),
        [
            (
                row.id,
                row.network or "gone",
                f"{row.used} of {row.uses}",
                row.state,
                output.age(row.expires_s - now) if row.expires_s > now else "-",
                row.name or "-",
            )
            for row in rows
        ],
    )
