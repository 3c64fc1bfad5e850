"""`netctl agent`: run the agent in the foreground."""

from __future__ import annotations

import argparse

from netctl.agent.storage.locations import Locations
from netctl.cli.options import add_engine
from netctl.model.errors import LocalError
from netctl.system import logs


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_engine(parser)
    parser.add_argument(
        "--drift-every",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how often the host is held against its document (default: 30)",
    )
    parser.add_argument(
        "--no-watch",
        action="store_true",
        help="do not follow saves of the document: only `netctl apply` counts",
    )
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve /metrics for Prometheus there")
    logs.add_options(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Run the agent in the foreground."""
    logs.set_up(arguments)
    from netctl.agent.daemon import run_agent

    if not 0 < arguments.drift_every < float("inf"):
        raise LocalError("--drift-every is a number of seconds above 0")
    watch = not arguments.no_watch
    run_agent(locations, arguments.engine, arguments.drift_every, watch=watch, metrics=arguments.metrics)
    return 0
