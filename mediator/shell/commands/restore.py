"""`netctl-mediator restore`: replace the state by a backup."""

from __future__ import annotations

import argparse

from mediator.shell import archive, output
from mediator.shell.options import add_archive, add_state


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_archive(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replace the state by a backup."""
    archive.restore(arguments.state, arguments.file, force=arguments.force)
    output.line(f"{arguments.state} is as {arguments.file} has it")
    return 0
