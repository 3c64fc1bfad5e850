"""The command line of `completion` and `support`."""

from __future__ import annotations

import argparse
from typing import Any

from netctl.agent.places import Places

COMMANDS = ("completion", "support")
SHELLS = ("bash", "zsh", "fish")


def add(commands: Any) -> None:
    """The parsers of these commands."""
    completion = commands.add_parser(
        "completion", help="print what bash, zsh or fish needs to complete this command line"
    )
    completion.add_argument("shell", choices=SHELLS)
    support = commands.add_parser("support", help="write one file of facts for a bug report, without secrets")
    support.add_argument(
        "--out", metavar="FILE", help="default: netctl-support-DATE.tar.gz in this directory"
    )
    support.add_argument(
        "--no-document", action="store_true", help="leave the document out: it has names and addresses"
    )


def run(arguments: argparse.Namespace, places: Places) -> int:
    """One of these commands."""
    if arguments.command == "completion":
        from netctl.cli.completion import completion
        from netctl.cli.main import parser

        return completion(parser(), arguments.shell)
    from netctl.cli.support import support

    return support(arguments, places)
