"""`netctl version`: print versions of netctl, its engine and the system, for a bug report."""

from __future__ import annotations

import argparse

from msgspec import to_builtins

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.facts import facts, rows
from netctl.cli.options import add_output


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print the facts."""
    known = facts(locations)
    if arguments.output == "json":
        output.json(to_builtins(known))
        return 0
    for name, text in rows(known):
        output.line(f"{name:<11}{text}")
    return 0
