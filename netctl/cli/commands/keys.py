"""`netctl keys`: make this host's keys, show their public halves, or replace them."""

from __future__ import annotations

import argparse
import os

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.options import add_engine, add_output


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("action", nargs="?", choices=["show", "init", "rotate"], default="show")
    parser.add_argument("--name", help="the member's name in the line that is printed (default: the host's)")
    add_engine(parser)
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Make this host's keys, show their public halves, or replace them."""
    from netctl.agent.storage.keyfiles import load_keys, make_keys
    from netctl.config.edit.hostnames import checked_name, label_of

    name = checked_name(arguments.name) if arguments.name else label_of(os.uname().nodename)
    if arguments.action == "rotate":
        from netctl.cli.rotate import rotate

        return rotate(arguments, locations)
    if arguments.action == "init":
        pair, made = make_keys(locations)
        output.note(
            f"{'made' if made else 'kept'} the keys in {locations.state}; add this line under `members:`"
        )
    else:
        pair = load_keys(locations)
    if arguments.output == "json":
        output.json({"name": name, "wireguard": str(pair.wireguard), "identity": str(pair.identity)})
    else:
        output.line(f'  {name}: {{wireguard: "{pair.wireguard}", identity: "{pair.identity}"}}')
    return 0
