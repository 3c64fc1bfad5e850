"""The command line of `import`, `sync` and `rollout`."""

from __future__ import annotations

import argparse
from typing import Any

from netctl.agent.places import Places


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
    sync.add_argument("--once", action="store_true", help="look once; exit 1 when the newest is not applied")
    sync.add_argument("--now", action="store_true", help="make the sync that runs here look at once")
    sync.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: text")


def run(arguments: argparse.Namespace, places: Places) -> int:
    """One of these commands."""
    if arguments.command == "import":
        from netctl.cli import imports

        return imports.run(arguments, places)
    from netctl.cli import sync

    return sync.run(arguments, places)
