"""`netctl members`: who belongs and who waits, on the mediator's machine."""

from __future__ import annotations

import argparse
from typing import Any

from netctl.agent.places import Places
from netctl.cli import output
from netctl.cli.operator import admin
from netctl.cli.options import add_mediator_state, add_output
from netctl.model.errors import LocalError

ACTIONS = ("list", "pending", "approve", "reject", "revoke", "restore", "rekey")


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list")
    parser.add_argument("who", nargs="?", metavar="NAME|KEY")
    parser.add_argument("wireguard", nargs="?", metavar="NEW-KEY", help="for rekey: the new WireGuard key")
    parser.add_argument("identity", nargs="?", metavar="NEW-IDENTITY", help="for rekey: the new identity")
    add_mediator_state(parser)
    add_output(parser)


def run(arguments: argparse.Namespace, places: Places) -> int:
    """List members; approve, reject, revoke, restore, rekey one."""
    if arguments.action in ("list", "pending"):
        rows = admin(arguments, {"op": "members.list"})
        if arguments.action == "pending":
            rows = [row for row in rows if row["state"] == "pending"]
        if arguments.output == "json":
            output.json(rows)
        else:
            _members(rows)
        return 0
    if arguments.who is None:
        raise LocalError(f"say whom to {arguments.action}: a name or a key; `netctl members` shows all")
    request = {"op": f"members.{arguments.action}", "who": arguments.who}
    if arguments.action == "rekey":
        if not arguments.wireguard or not arguments.identity:
            raise LocalError("say NAME NEW-KEY NEW-IDENTITY: `netctl keys` on the host prints both")
        request.update(wireguard=arguments.wireguard, identity=arguments.identity)
    name = admin(arguments, request)
    done = {
        "approve": "is in",
        "reject": "is rejected, and its key with it",
        "revoke": "is shut out: its tunnels go away everywhere now",
        "restore": "may come back: a member of the document at once, another with a new invite",
        "rekey": "has its new key; its addresses moved along",
    }[arguments.action]
    output.note(f"{name} {done}")
    return 0


def _members(rows: list[dict[str, Any]]) -> None:
    output.table(
        "members",
        ("name", "state", "from", "networks", "key"),
        [
            (
                row["name"],
                row["state"],
                row["from"],
                ", ".join(f"{n} {a[0] if a else '(no address)'}" for n, a in row["networks"].items()) or "-",
                row["wireguard"],
            )
            for row in rows
        ],
    )
    for row in rows:
        if row["condition"]:
            output.warning(f"{row['name']}: {row['condition']}")
