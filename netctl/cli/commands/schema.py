"""`netctl schema`: print the JSON Schema of networks.yaml."""

from __future__ import annotations

import argparse

from netctl.agent.storage.locations import Locations
from netctl.cli import output

DRAFTS = ("2020-12", "7")
"""Versions of JSON Schema in which the schema can be printed."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("--draft", choices=DRAFTS, default=DRAFTS[0], help="7 is for older editors")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print the JSON Schema of networks.yaml."""
    from netctl.config.load.draft7 import to_draft7
    from netctl.config.load.schema import load_schema

    schema = load_schema()
    output.json(to_draft7(schema) if arguments.draft == "7" else schema)
    return 0
