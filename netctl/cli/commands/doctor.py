"""`netctl doctor`: which NAT this host is behind, and which faults it has."""

from __future__ import annotations

import argparse
import contextlib

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import ask
from netctl.cli.options import add_output
from netctl.engine.filter.dropped import MEANINGS, dropped
from netctl.model.errors import EngineError
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print the checks of this host and the packets that its filter dropped. Exit 1: a check found a fault."""
    answer = ask(locations, r.Doctor())
    checks = answer.reply.checks
    refused = _dropped()
    status = 1 if any(check.level == "problem" for check in checks) else 0
    if arguments.output == "json":
        output.json({**answer.plain, "dropped": refused})
        return status
    for check in checks:
        if check.level == "note":
            output.line(f"note {check.text}")
        else:
            output.check(check.level == "ok", check.text)
        if check.advice:
            output.line(f"       {check.advice}")
    for reason, packets in sorted(refused.items(), key=lambda item: -item[1]):
        what = f": {MEANINGS[reason]}" if reason in MEANINGS else ""
        output.line(
            f"note dropped since the filter was loaded: {output.counted(packets, 'packet')}{what} ({reason})"
        )
    return status


def _dropped() -> dict[str, int]:
    with contextlib.suppress(EngineError):  # without nft there is no filter, and `status` says why
        return dropped()
    return {}
