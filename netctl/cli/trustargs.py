"""The command line of `leases` and `drill`: how far this host depends on its mediator, and trusts it."""

from __future__ import annotations

import argparse
from typing import Any

from netctl.agent.places import Places

COMMANDS = ("leases", "drill")
DRILL_MAX_S = 600


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= DRILL_MAX_S:
        raise argparse.ArgumentTypeError(f"1 to {DRILL_MAX_S} seconds")
    return seconds


def add(commands: Any) -> None:
    """The parsers of these commands."""
    leases = commands.add_parser("leases", help="the addresses that this host holds its mediator to")
    leases.add_argument("action", nargs="?", choices=["list", "forget"], default="list")
    leases.add_argument("member", nargs="?", metavar="MEMBER", help="name or key: whose leases to forget")
    leases.add_argument("--all", action="store_true", help="forget all, and how new the mediator's word was")
    _output(leases)
    drill = commands.add_parser("drill", help="show on the live network, without harm, what a loss would do")
    drill.add_argument("what", choices=["mediator-down"], help="what is to be taken for gone")
    drill.add_argument(
        "--seconds", type=_seconds, default=20.0, metavar="N", help="for how long (default 20)"
    )
    _output(drill)


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: text")


def run(arguments: argparse.Namespace, places: Places) -> int:
    """One of these commands."""
    if arguments.command == "drill":
        from netctl.cli.drill import drill

        return drill(arguments, places)
    from netctl.cli.leases import leases

    return leases(arguments, places)
