"""The command line of `invite`, `members`, `export`, `join` and `leave`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from netctl.agent.places import Places

MEDIATOR_STATE = "/var/lib/netctl-mediator"
COMMANDS = ("invite", "members", "join", "leave", "export")


def add(commands: Any, engines: tuple[str, ...]) -> None:
    """The parsers of these commands."""
    invite = commands.add_parser("invite", help="let hosts in with one string (on the mediator's machine)")
    invite.add_argument("what", metavar="NETWORK|list|revoke", help="the network, or what to do with invites")
    invite.add_argument("id", nargs="?", metavar="ID", help="of the invite to revoke")
    invite.add_argument(
        "--uses", type=int, default=1, metavar="N", help="how many hosts may use it (default 1)"
    )
    invite.add_argument("--expires", default="24h", metavar="TIME", help="30m, 24h, 7d (default 24h)")
    invite.add_argument("--name", help="what the host is to be called (for one use)")
    _admin(invite)
    members = commands.add_parser("members", help="who belongs, and who waits (on the mediator's machine)")
    actions = ("list", "pending", "approve", "reject", "revoke", "restore", "rekey")
    members.add_argument("action", nargs="?", choices=actions, default="list")
    members.add_argument("who", nargs="?", metavar="NAME|KEY")
    members.add_argument("wireguard", nargs="?", metavar="NEW-KEY", help="for rekey: the new WireGuard key")
    members.add_argument("identity", nargs="?", metavar="NEW-IDENTITY", help="for rekey: the new identity")
    _admin(members)
    join = commands.add_parser("join", help="join a network with an invite")
    join.add_argument(
        "invite",
        nargs="?",
        metavar="-|INVITE",
        help="- reads the string of `netctl invite` from standard input; without it you are asked. As an argument "
        "every user of this machine can read it",
    )
    join.add_argument("--name", help="what this host is to be called (default: its host name)")
    join.add_argument(
        "--allow-routes",
        action=argparse.BooleanOptionalAction,
        help="take also routes and pools of public space, or over what this host has (docs/joining.md)",
    )
    _engine(join, engines)
    export = commands.add_parser(
        "export",
        help="write who joined by invite into the document, or a stock WireGuard app's configuration "
        "(on the mediator's machine)",
    )
    export.add_argument("file", nargs="?", metavar="FILE", help="default: the document that the mediator has")
    export.add_argument("--document", action="store_true", help="the document (the default)")
    export.add_argument("--write", action="store_true", help="change the file in place (default: print it)")
    app = export.add_argument_group("for a member without an agent")
    app.add_argument("--wg", metavar="MEMBER", help="print the configuration of its stock WireGuard app")
    app.add_argument("--private-key", metavar="FILE", type=Path, help="put this key into the configuration")
    app.add_argument(
        "--new-key", metavar="FILE", type=Path, help="make a key, and print what the document needs"
    )
    app.add_argument("--qr", action="store_true", help="draw a QR code, which the app can scan")
    app.add_argument(
        "--out", metavar="FILE", type=Path, help="write the configuration there, for its owner alone"
    )
    _admin(export)
    leave = commands.add_parser("leave", help="leave the networks that this host joined by invite")
    leave.add_argument("--forget-keys", action="store_true", help="remove this host's keys too")
    leave.add_argument("--yes", action="store_true", help="ask nothing")


def _engine(parser: argparse.ArgumentParser, engines: tuple[str, ...]) -> None:
    default = os.environ.get("NETCTL_ENGINE", "auto")
    parser.add_argument(
        "--engine", choices=engines, default=default, help="what moves packets (default: auto)"
    )


def _admin(parser: argparse.ArgumentParser) -> None:
    state = os.environ.get("NETCTL_MEDIATOR_STATE", MEDIATOR_STATE)
    text = f"the mediator's state directory (NETCTL_MEDIATOR_STATE, {MEDIATOR_STATE})"
    parser.add_argument("--mediator-state", metavar="DIR", type=Path, default=Path(state), help=text)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: text")


def run(arguments: argparse.Namespace, places: Places) -> int:
    """One of these commands."""
    from netctl.cli import join, operator

    commands = {
        "invite": operator.invite,
        "members": operator.members,
        "join": join.join,
        "leave": join.leave,
        "export": operator.export,
    }
    return commands[arguments.command](arguments, places)
