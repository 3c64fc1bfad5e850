"""`netctl leases`: the addresses of members that this host remembers and does not let its mediator change."""

from __future__ import annotations

import argparse

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import ask
from netctl.cli.options import add_output
from netctl.model.errors import LocalError
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("action", nargs="?", choices=["list", "forget"], default="list")
    parser.add_argument("member", nargs="?", metavar="MEMBER", help="name or key: whose leases to forget")
    parser.add_argument("--all", action="store_true", help="forget all, and how new the mediator's word was")
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print the remembered addresses, or forget some."""
    if arguments.action == "forget":
        return _forget(arguments, locations)
    answer = ask(locations, r.Leases())
    if arguments.output == "json":
        output.json(answer.plain)
        return 0
    output.table(
        "leases",
        ("network", "member", "address", "refused", "key"),
        [
            (row.network, row.member or "-", row.address or "-", row.refused or "-", row.key)
            for row in answer.reply
        ],
    )
    return 0


def _forget(arguments: argparse.Namespace, locations: Locations) -> int:
    if (arguments.member is None) == (not arguments.all):
        raise LocalError("say whose leases to forget, or --all")
    done = ask(locations, r.ForgetLeases(arguments.member), output.progress).reply
    count = done.forgotten
    output.line(f"forgot {output.counted(count, 'lease')}; what the mediator says next is believed")
    return 0
