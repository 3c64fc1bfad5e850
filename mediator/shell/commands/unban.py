"""`netctl-mediator unban`: lift the ban of an address, or the login limit of a member."""

from __future__ import annotations

import argparse

from mediator.shell import output
from mediator.shell.asking import ask_mediator
from mediator.shell.options import add_state
from netctl.wire import operatorrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    parser.add_argument("source", metavar="ADDRESS|MEMBER", help="as `bans` prints it")


def run(arguments: argparse.Namespace) -> int:
    """Lift the ban or limit."""
    ask_mediator(arguments.state, r.LiftBan(arguments.source))
    output.line(f"{arguments.source} may connect again")
    return 0
