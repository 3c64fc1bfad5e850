"""`netctl confirm`: keep what the last apply made."""

from __future__ import annotations

import argparse

from netctl.agent.places import Places
from netctl.agent.writer import LOCK_WAIT_S, only_writer
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.exits import CONVERGED
from netctl.cli.options import add_output
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_output(parser)


def run(arguments: argparse.Namespace, places: Places) -> int:
    """Keep what the last apply made."""
    try:
        digest = ask(places, r.Confirm()).reply.digest
    except NoAgentError:
        from netctl.agent.armed import Armory

        armory = Armory(places)
        armory.confirmable()  # without root's lock where there is nothing to do
        with only_writer(places, wait_s=LOCK_WAIT_S, progress=output.progress):
            digest = armory.confirmable().digest
            armory.disarm()
    if arguments.output == "json":
        output.json({"digest": digest})
    else:
        output.line("confirmed: the apply stays")
    return CONVERGED
