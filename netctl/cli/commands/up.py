"""`netctl up`: start the agent, and bring networks up."""

from __future__ import annotations

import argparse

from netctl.agent.places import Places
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.options import add_engine
from netctl.cli.starting import start_agent
from netctl.cli.switching import switch
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("network", nargs="?", metavar="NETWORK")
    add_engine(parser)


def run(arguments: argparse.Namespace, places: Places) -> int:
    """Start the agent if none runs, apply the document if there is none yet, and bring networks up."""
    try:
        state = ask(places, r.Status()).reply
    except NoAgentError:
        start_agent(places, arguments.engine)
        state = ask(places, r.Status()).reply
    if state.document.digest is None:
        from netctl.cli.applying import ApplyWish, apply_document

        return apply_document(ApplyWish(None, arguments.engine), places)
    return switch(places, r.Up(arguments.network))
