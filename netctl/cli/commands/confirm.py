"""`netctl confirm`: keep the changes of the last apply."""

from __future__ import annotations

import argparse

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.exits import CONVERGED
from netctl.cli.options import add_output
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Confirm the last apply, so that it is not rolled back."""
    try:
        digest = ask(locations, r.Confirm()).reply.digest
    except NoAgentError:
        from netctl.agent.oneshot import confirm

        digest = confirm(locations, output.progress)
    if arguments.output == "json":
        output.json({"digest": digest})
    else:
        output.line("confirmed: the apply stays")
    return CONVERGED
