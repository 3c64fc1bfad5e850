"""Command line options that several commands of `netctl-mediator` share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

DEFAULT_STATE = "/var/lib/netctl-mediator"
DEFAULT_DOCUMENT = "/etc/netctl/networks.yaml"
DEFAULT_PORT = 8443
ANY = "::"
"""All addresses: both IP versions if the host has IPv6."""


def add_state(parser: argparse.ArgumentParser) -> None:
    """Add `--state`."""
    state = Path(os.environ.get("NETCTL_MEDIATOR_STATE", DEFAULT_STATE))
    parser.add_argument("--state", metavar="DIR", type=Path, default=state, help=f"default {DEFAULT_STATE}")


def add_document(parser: argparse.ArgumentParser) -> None:
    """Add `--document`."""
    path = Path(os.environ.get("NETCTL_CONFIG", DEFAULT_DOCUMENT))
    text = f"networks.yaml (default {DEFAULT_DOCUMENT})"
    parser.add_argument("--document", metavar="FILE", type=Path, default=path, help=text)


def add_listen(parser: argparse.ArgumentParser) -> None:
    """Add `--listen`."""
    parser.add_argument("--listen", metavar="ADDRESS", default=ANY, help="default: all, IPv4 and IPv6")


def add_port(parser: argparse.ArgumentParser) -> None:
    """Add `--port`."""
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"the TCP port (default {DEFAULT_PORT})"
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add `--store` and `--store-password-file`."""
    parser.add_argument(
        "--store",
        metavar="STORE",
        default=os.environ.get("NETCTL_MEDIATOR_STORE", ""),
        help="postgresql://USER@HOST[,HOST]/DATABASE (default: mediator.db in the state directory)",
    )
    add_store_password(parser)


def add_store_password(parser: argparse.ArgumentParser) -> None:
    """Add `--store-password-file`."""
    parser.add_argument(
        "--store-password-file",
        metavar="FILE",
        type=Path,
        help="has PostgreSQL's password (default: the systemd credential store-password, then libpq's own places)",
    )


def add_bus(parser: argparse.ArgumentParser) -> None:
    """Add `--bus`, and where its password is."""
    parser.add_argument(
        "--bus",
        metavar="BUS",
        default=os.environ.get("NETCTL_MEDIATOR_BUS", ""),
        help="how the mediators of one store reach each other: nats://[USER@]HOST[:PORT][,HOST…] or "
        "postgresql://USER@HOST[,HOST]/DATABASE (default: no other mediator)",
    )
    parser.add_argument(
        "--bus-password-file",
        metavar="FILE",
        type=Path,
        help="has the bus's password, or NATS's token (default: the systemd credential bus-password)",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `--output`."""
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: text")


def add_archive(parser: argparse.ArgumentParser) -> None:
    """Add the argument for a backup's file, and `--force`."""
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="as secret as the state: it holds the identity"
    )
    parser.add_argument("--force", action="store_true", help="replace what is there")
