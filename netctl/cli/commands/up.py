"""`netctl up`: start the agent, and bring networks up."""

from __future__ import annotations

import argparse

from netctl.agent.storage.locations import Locations
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.options import add_engine
from netctl.cli.starting import start_agent
from netctl.cli.switching import switch
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("network", nargs="?", metavar="NETWORK")
    add_engine(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Start the agent if none runs, apply the document if none is accepted yet, and bring networks up."""
    try:
        state = ask(locations, r.Status(look=False)).reply
    except NoAgentError:
        start_agent(locations, arguments.engine)
        state = ask(locations, r.Status(look=False)).reply
    if state.document.digest is None:
        from netctl.cli.applying import ApplyWish, apply_document

        return apply_document(ApplyWish(None, arguments.engine), locations)
    return switch(locations, r.Up(arguments.network))
