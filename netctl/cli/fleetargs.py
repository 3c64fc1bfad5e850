"""The command line of `import`, `sync` and `rollout`."""

from __future__ import annotations

import argparse
from typing import Any

from netctl.agent.places import Places

UNITS_S = {"s": 1, "m": 60, "h": 3600}
MAX_SECONDS = 10**6
"""Longer than anything here may wait."""


def add(commands: Any) -> None:
    """Add the parsers."""
    imports = commands.add_parser("import", help="make a document out of wg-quick files of several hosts")
    imports.add_argument(
        "paths", nargs="+", metavar="PATH", help="a file, or a directory such as HOST/wg0.conf"
    )
    imports.add_argument("--to", metavar="FILE", help="write it there (default: print it)")
    imports.add_argument("--force", action="store_true", help="replace FILE if there is one")
    _sync(
        commands.add_parser("sync", help="follow a document in Git: judge, apply, go back if it cuts us off")
    )
    _rollout(commands.add_parser("rollout", help="bring the document to a fleet over SSH, canary first"))


def _rollout(rollout: argparse.ArgumentParser) -> None:
    rollout.add_argument("file", nargs="?", metavar="FILE", help="default: the configured networks.yaml")
    rollout.add_argument(
        "-i", "--inventory", metavar="FILE", help="your own Ansible inventory (default: members.*.host)"
    )
    rollout.add_argument(
        "--canary", default="1", metavar="WHO", help="how many, or which, go first (default: 1)"
    )
    rollout.add_argument(
        "--batch", default="10", metavar="SIZE", help="then so many at once: 10, 25%% (default: 10)"
    )
    rollout.add_argument("--limit", metavar="HOSTS", help="only these hosts")
    rollout.add_argument(
        "--confirm-within",
        metavar="TIME",
        help="a host that is not reached anew so soon goes back by itself (default: the document's apply.confirm)",
    )
    rollout.add_argument("--check", action="store_true", help="change nothing; say what would change")
    rollout.add_argument("--diff", action="store_true", help="show the lines that change")
    rollout.add_argument(
        "--resume", action="store_true", help="pass over hosts that live by the document already"
    )
    rollout.add_argument(
        "--enrol",
        action="store_true",
        help="make keys on the hosts, and write the public halves into the document",
    )
    rollout.add_argument("--become", action="store_true", help="become root on the hosts")
    rollout.add_argument(
        "-e",
        "--extra-vars",
        action="append",
        default=[],
        metavar="NAME=VALUE|@FILE",
        help="for Ansible and the role; a file keeps secrets out of the list of processes",
    )
    rollout.add_argument("--yes", action="store_true", help="ask nothing")
    rollout.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: text")


def _sync(sync: argparse.ArgumentParser) -> None:
    sync.add_argument("action", nargs="?", choices=["run", "status", "now"], default="run")
    sync.add_argument("--repository", metavar="URL", help="any URL or path that `git fetch` takes")
    sync.add_argument("--branch", default="main", help="default: main")
    sync.add_argument("--path", default="networks.yaml", help="the document in it (default: networks.yaml)")
    sync.add_argument("--interval", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    sync.add_argument(
        "--verify-signatures",
        metavar="FILE",
        help="follow only what one of these allowed signers (ssh-keygen(1)) has signed",
    )
    sync.add_argument("--allow-rewind", action="store_true", help="follow a history that was rewritten")
    sync.add_argument(
        "--write", metavar="FILE", help="on a mediator: write the document there, and apply nothing"
    )
    sync.add_argument(
        "--confirm-within",
        default="90s",
        metavar="TIME",
        help="an apply that has not shown its way out so soon is taken back (default: 90s)",
    )
    sync.add_argument("--once", action="store_true", help="look once; exit 1 when the newest is not applied")
    sync.add_argument("--now", action="store_true", help="make the sync that runs here look at once")
    sync.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: text")


def run(arguments: argparse.Namespace, places: Places) -> int:
    """One of these commands."""
    if arguments.command == "import":
        from netctl.cli import imports

        return imports.run(arguments, places)
    if arguments.command == "rollout":
        from netctl.cli import rollout

        return rollout.run(arguments, places)
    from netctl.cli import sync

    return sync.run(arguments, places)


def seconds(text: str) -> int:
    """A duration that a person types: ``90s``, ``2m``, ``1h``. Raises LocalError."""
    from netctl.model.errors import LocalError

    number = text.rstrip("smh")
    unit = text[len(number) :] or "s"
    if (
        not (number.isascii() and number.isdigit())
        or unit not in UNITS_S
        or not 0 < int(number) < MAX_SECONDS
    ):
        raise LocalError(f"'{text}' is no duration: a number and s, m or h, such as 90s")
    return int(number) * UNITS_S[unit]
