"""Asking the mediator on its own machine, for its operator."""

from __future__ import annotations

import argparse
from typing import Any

from netctl.cli.ask import ask_socket

ADMIN_SOCKET = "admin.sock"


def admin(arguments: argparse.Namespace, request: dict[str, Any]) -> Any:
    """Ask the mediator of this machine. Raises LocalError."""
    path = arguments.mediator_state / ADMIN_SOCKET
    missing = (
        f"no mediator runs here with its state in {arguments.mediator_state}: name it with --mediator-state"
    )
    return ask_socket(path, request, "mediator", missing)
