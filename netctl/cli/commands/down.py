"""`netctl down`: take all networks of this host down, or one."""

from __future__ import annotations

import argparse

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import NoAgentError
from netctl.cli.switching import switch
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("network", nargs="?", metavar="NETWORK")
    parser.add_argument("--yes", action="store_true", help="ask nothing")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Take all networks of this host down, or one."""
    try:
        return switch(locations, r.Down(arguments.network))
    except NoAgentError:
        if arguments.network is not None:
            raise
    from netctl.agent.oneshot import take_down
    from netctl.engine.privilege import check_privileges

    check_privileges()
    outcome = take_down(locations, output.progress)
    if outcome.error is not None:
        output.error(outcome.error)
        return 1
    output.line(f"this host is down: {output.counted(outcome.changed, 'change')}")
    return 0
