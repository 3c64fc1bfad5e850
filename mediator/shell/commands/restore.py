"""`netctl-mediator restore`: put a backup in the place of the state."""

from __future__ import annotations

import argparse

from mediator.shell import archive, output
from mediator.shell.options import add_archive, add_state


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_archive(parser)


def run(arguments: argparse.Namespace) -> int:
    """Put a backup in the place of the state."""
    archive.restore(arguments.state, arguments.file, force=arguments.force)
    output.line(f"{arguments.state} is as {arguments.file} has it")
    return 0
