"""The command line of commit-confirm: options of `apply`, and `confirm`, `rollback`."""

from __future__ import annotations

import argparse
import os
from typing import Any

from netctl.agent.places import Places

COMMANDS = ("confirm", "rollback", "watch", "_confirmd")


def _duration(text: str) -> float:
    from netctl.model.durations import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_to_apply(apply: argparse.ArgumentParser) -> None:
    """The options of `apply`."""
    apply.add_argument("--yes", action="store_true", help="ask nothing")
    confirm = apply.add_mutually_exclusive_group()
    confirm.add_argument(
        "--confirm-within",
        metavar="DURATION",
        type=_duration,
        help="go back unless `netctl confirm` comes within, say, 90s "
        "(on by default when your SSH session comes through a tunnel of this host)",
    )
    confirm.add_argument("--no-confirm", action="store_true", help="keep it without being asked")
    apply.add_argument("--force", action="store_true", help="apply a document that was rolled back here")
    apply.add_argument(
        "--ssh-connection",
        metavar="TEXT",
        help="the session that must not drop (default: SSH_CONNECTION, also through sudo)",
    )
    apply.epilog = (
        "exit status: 0 the host is as the document says, 1 failed and nothing was changed, 3 failed and rolled "
        "back, 4 the roll-back failed too"
    )


def add(commands: Any) -> None:
    """The parsers of the commands."""
    for name, text in (
        ("confirm", "keep what an armed apply made; exit 1 when nothing is armed"),
        ("rollback", "take back what an armed apply made, now"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: text")
    commands.add_parser("_confirmd").add_argument("nonce")  # started by an armed apply, by nobody else


def add_watch(commands: Any, engines: tuple[str, ...]) -> None:
    """The parser of `watch`."""
    watch = commands.add_parser(
        "watch",
        help="apply the document now and at every save (an agent does so by itself)",
    )
    watch.add_argument("file", nargs="?", metavar="FILE", help="default: the configured networks.yaml")
    default = os.environ.get("NETCTL_ENGINE", "auto")
    watch.add_argument(
        "--engine", choices=engines, default=default, help="what moves packets (default: auto)"
    )
    watch.set_defaults(
        output="text", confirm_within=None, no_confirm=True, force=False, ssh_connection="", unattended=True
    )


def run(arguments: argparse.Namespace, places: Places) -> int:
    """One of these commands."""
    from netctl.cli import commit

    if arguments.command == "watch":
        from netctl.cli.watch import watch

        return watch(arguments, places)
    found = {"confirm": commit.confirm, "rollback": commit.rollback, "_confirmd": commit.confirmd}
    return found[arguments.command](arguments, places)
