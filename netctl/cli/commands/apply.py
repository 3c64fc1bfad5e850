"""`netctl apply`: apply a document or a saved plan on this host."""

from __future__ import annotations

import argparse
from pathlib import Path

from netctl.agent.storage.locations import Locations
from netctl.cli import rotate
from netctl.cli.applying import ApplyWish, apply_document
from netctl.cli.options import add_engine, add_output, add_session


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="a document (default: the configured networks.yaml), or a kept plan",
    )
    add_output(parser)
    add_engine(parser)
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    confirm = parser.add_mutually_exclusive_group()
    confirm.add_argument(
        "--confirm-within",
        metavar="DURATION",
        type=_duration,
        help="go back unless `netctl confirm` comes within, say, 90s "
        "(on by default when your SSH session comes through a tunnel of this host)",
    )
    confirm.add_argument("--no-confirm", action="store_true", help="keep it without being asked")
    parser.add_argument("--force", action="store_true", help="apply a document that was rolled back here")
    add_session(parser)
    parser.epilog = (
        "exit status: 0 the host is as the document says, 1 failed and nothing was changed, 3 failed and rolled "
        "back, 4 the roll-back failed too"
    )


def _duration(text: str) -> float:
    from netctl.model.durations import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Apply. Returns the exit status (`netctl.cli.exits`)."""
    wish = ApplyWish(
        file=arguments.file,
        engine=arguments.engine,
        output=arguments.output,
        confirm_within=arguments.confirm_within,
        no_confirm=arguments.no_confirm,
        force=arguments.force,
        ssh_connection=arguments.ssh_connection,
    )
    if rotate.pending(locations):
        return rotate.applying(wish, locations)
    return apply_document(wish, locations)
