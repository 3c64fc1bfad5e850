"""`netctl explain`: print what a key of the document means."""

from __future__ import annotations

import argparse
import difflib

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.model.errors import LocalError


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("key", nargs="?", default="", metavar="KEY", help="for example networks.office.mode")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print what a key of the document means."""
    from netctl.config.load.explain import explain as words
    from netctl.config.load.explain import keys

    text = words(arguments.key)
    if text is None:
        near = difflib.get_close_matches(arguments.key, keys(), n=1)
        hint = f"did you mean `{near[0]}`?" if near else "`netctl explain` shows the first of them"
        raise LocalError(f"there is no key '{arguments.key}' in a document: {hint}")
    output.line(text)
    return 0
