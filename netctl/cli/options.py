"""Command line options that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ENGINES = ("auto", "kernel", "netctl-wg", "wireguard-go")
MEDIATOR_STATE = "/var/lib/netctl-mediator"
UNITS_S = {"s": 1, "m": 60, "h": 3600}
MAX_SECONDS = 10**6
"""Longer than any command may wait."""


def add_output(parser: argparse.ArgumentParser, *more: str) -> None:
    """Add `--output`."""
    choices = ["text", "json", *more]
    parser.add_argument("-o", "--output", choices=choices, default="text", help="default: text")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add `--engine`."""
    default = os.environ.get("NETCTL_ENGINE", "auto")
    parser.add_argument(
        "--engine", choices=ENGINES, default=default, help="what moves packets (default: auto)"
    )


def add_file(parser: argparse.ArgumentParser) -> None:
    """Add one optional argument: a document."""
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="default: the configured networks.yaml"
    )


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add an argument for any number of documents."""
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="default: the configured networks.yaml"
    )


def add_session(parser: argparse.ArgumentParser) -> None:
    """Add `--ssh-connection`."""
    parser.add_argument(
        "--ssh-connection",
        metavar="TEXT",
        help="the session that must not drop (default: SSH_CONNECTION, also through sudo)",
    )


def add_mediator_state(parser: argparse.ArgumentParser) -> None:
    """Add `--mediator-state`."""
    state = os.environ.get("NETCTL_MEDIATOR_STATE", MEDIATOR_STATE)
    text = f"the mediator's state directory (NETCTL_MEDIATOR_STATE, {MEDIATOR_STATE})"
    parser.add_argument("--mediator-state", metavar="DIR", type=Path, default=Path(state), help=text)


def seconds(text: str) -> int:
    """Seconds from a typed duration: ``90s``, ``2m``, ``1h``. Raises LocalError."""
    from netctl.model.errors import LocalError

    number = text.rstrip("smh")
    unit = text[len(number) :] or "s"
    if (
        not (number.isascii() and number.isdigit())
        or unit not in UNITS_S
        or not 0 < int(number) < MAX_SECONDS
    ):
        raise LocalError(f"'{text}' is no duration: a number and s, m or h, such as 90s")
    return int(number) * UNITS_S[unit]
