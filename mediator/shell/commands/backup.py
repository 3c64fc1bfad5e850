"""`netctl-mediator backup`: copy the state into one file."""

from __future__ import annotations

import argparse

from mediator.shell import archive, output
from mediator.shell.options import add_archive, add_state


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_archive(parser)


def run(arguments: argparse.Namespace) -> int:
    """Copy the state into one file."""
    size = archive.backup(arguments.state, arguments.file, force=arguments.force)
    output.line(
        f"{arguments.file}: {size} bytes; it holds this server's identity, so keep it as safe as {arguments.state}"
    )
    return 0
