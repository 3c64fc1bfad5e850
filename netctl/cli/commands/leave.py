"""`netctl leave`: leave the network that this host joined by invite."""

from __future__ import annotations

import argparse

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.model.errors import LocalError
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("--forget-keys", action="store_true", help="remove this host's keys too")
    parser.add_argument("--yes", action="store_true", help="ask nothing")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Leave the network that this host joined by invite. With --forget-keys it rejoins later as a new member."""
    from netctl.agent.storage.statestore import StateStore

    if StateStore(locations).joined() is None:
        raise LocalError(
            "this host joined nothing by invite; it has a document: take it out there, or `netctl down`"
            if locations.accepted.exists()
            else "this host has joined no network"
        )
    try:
        result = ask(locations, r.Leave(), output.progress).reply
    except NoAgentError:
        raise LocalError(
            "no agent runs on this host, and only it can tell the mediator: `netctl up` first"
        ) from None
    if result.error is not None:
        output.error(result.error)
        return 1
    if arguments.forget_keys:
        locations.private_key.unlink(missing_ok=True)
        locations.identity_key.unlink(missing_ok=True)
    output.line("this host has left")
    return 0
