"""`netctl members`: list and decide on members and pending members, on the mediator's machine."""

from __future__ import annotations

import argparse
from itertools import compress

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.operator import admin
from netctl.cli.options import add_mediator_state, add_output
from netctl.model.errors import LocalError
from netctl.wire import operatorrequests as r
from netctl.wire.jsonline import Request

ACTIONS = ("list", "pending", "approve", "reject", "revoke", "restore", "rekey")


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list")
    parser.add_argument("who", nargs="?", metavar="NAME|KEY")
    parser.add_argument("wireguard", nargs="?", metavar="NEW-KEY", help="for rekey: the new WireGuard key")
    parser.add_argument("identity", nargs="?", metavar="NEW-IDENTITY", help="for rekey: the new identity")
    add_mediator_state(parser)
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """List members; approve, reject, revoke, restore, rekey one."""
    if arguments.action in ("list", "pending"):
        return _list(arguments)
    if arguments.who is None:
        raise LocalError(f"say whom to {arguments.action}: a name or a key; `netctl members` shows all")
    if arguments.action == "rekey" and not (arguments.wireguard and arguments.identity):
        raise LocalError("say NAME NEW-KEY NEW-IDENTITY: `netctl keys` on the host prints both")
    name = admin(arguments, _request(arguments)).reply
    done = {
        "approve": "is in",
        "reject": "is rejected, and its key with it",
        "revoke": "is shut out: its tunnels go away everywhere now",
        "restore": "may come back: a member of the document at once, another with a new invite",
        "rekey": "has its new key; its addresses moved along",
    }[arguments.action]
    output.note(f"{name} {done}")
    return 0


def _request(arguments: argparse.Namespace) -> Request[str]:
    if arguments.action == "rekey":
        return r.Rekey(arguments.who, arguments.wireguard, arguments.identity)
    kinds = {"approve": r.Approve, "reject": r.Reject, "revoke": r.Revoke, "restore": r.Restore}
    made: Request[str] = kinds[arguments.action](arguments.who)
    return made


def _list(arguments: argparse.Namespace) -> int:
    answer = admin(arguments, r.ListMembers())
    wanted = [arguments.action == "list" or row.state == "pending" for row in answer.reply]
    if arguments.output == "json":
        output.json(list(compress(answer.plain, wanted)))
    else:
        _show(list(compress(answer.reply, wanted)))
    return 0


def _show(rows: list[r.MemberRow]) -> None:
    output.table(
        "members",
        ("name", "state", "from", "networks", "key"),
        [(row.name, row.state, row.source, _networks(row), row.wireguard) for row in rows],
    )
    for row in rows:
        if row.condition:
            output.warning(f"{row.name}: {row.condition}")


def _networks(row: r.MemberRow) -> str:
    return ", ".join(f"{n} {a[0] if a else '(no address)'}" for n, a in row.networks.items()) or "-"
