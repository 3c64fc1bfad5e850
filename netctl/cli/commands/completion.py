"""`netctl completion SHELL`: print a shell's completion script, made from the definitions of the command line."""

from __future__ import annotations

import argparse

from netctl.agent.storage.locations import Locations
from netctl.cli import output

FILES = ("FILE", "PLAN")
"""Placeholders for files in the usage; shells complete paths there."""
DIRECTORIES = ("DIR",)
"""Placeholders for directories in the usage; shells complete directories there."""
SHELLS = ("bash", "zsh", "fish")


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("shell", choices=SHELLS)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print the completion script of the whole command line."""
    import shtab

    from netctl.cli.main import parser

    top = parser()

    for action in actions_of(top):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab reads this attribute
        elif action.metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    output.line(shtab.complete(top, shell=arguments.shell).rstrip())
    return 0


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Every option and argument of a command line, including those of its subcommands."""
    found: list[argparse.Action] = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            for child in dict.fromkeys(action.choices.values()):
                found += actions_of(child)
    return found
