"""`netctl doctor`: what this host's NAT is, and what is wrong here."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from netctl.agent.places import Places
from netctl.cli import output
from netctl.cli.ask import ask
from netctl.cli.options import add_output
from netctl.engine.dropped import MEANINGS, dropped
from netctl.model.errors import EngineError


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_output(parser)


def run(arguments: argparse.Namespace, places: Places) -> int:
    """Say what this host's way to the others is like. Exit 1: something is wrong."""
    found: dict[str, Any] = ask(places, {"op": "doctor"})
    refused = _dropped()
    found["dropped"] = refused
    problems = [check for check in found["checks"] if check["level"] == "problem"]
    if arguments.output == "json":
        output.json(found)
        return 1 if problems else 0
    for check in found["checks"]:
        if check["level"] == "note":
            output.line(f"note {check['text']}")
        else:
            output.check(check["level"] == "ok", check["text"])
        if check["advice"]:
            output.line(f"       {check['advice']}")
    for reason, packets in sorted(refused.items(), key=lambda item: -item[1]):
        what = f": {MEANINGS[reason]}" if reason in MEANINGS else ""
        output.line(f"note dropped since the filter was loaded: {packets} packets{what} ({reason})")
    return 1 if problems else 0


def _dropped() -> dict[str, int]:
    with contextlib.suppress(EngineError):  # without nft there is no filter, and `status` says why
        return dropped()
    return {}
