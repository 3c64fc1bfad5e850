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


def run(arguments: argparse.Namespace, places: Places) -> int:
    """One of these commands."""
    from netctl.cli import imports

    return {"import": imports.run}[arguments.command](arguments, places)
