"""The command line of `init`."""

from __future__ import annotations

from typing import Any


def add(commands: Any) -> None:
    """Its parser."""
    init = commands.add_parser("init", help="write a first networks.yaml with this host in it")
    init.add_argument("file", nargs="?", metavar="FILE", help="default: the configured networks.yaml")
    init.add_argument(
        "--network", default="home", metavar="NAME", help="what the network is called (default: home)"
    )
    init.add_argument(
        "--mode", choices=["lan", "routed"], default="lan", help="with broadcast, or IP alone (default: lan)"
    )
    init.add_argument(
        "--mediator",
        action="append",
        default=[],
        metavar="URL#IDENTITY",
        help="as `netctl-mediator init` prints it; without one, addresses and endpoints are fixed",
    )
    init.add_argument("--name", help="what this host is called (default: its host name)")
    init.add_argument(
        "--ipv4", metavar="POOL", help="the addresses (default: a /24 that this host has no route to)"
    )
    init.add_argument(
        "--endpoint",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="where this host is reached from outside",
    )
