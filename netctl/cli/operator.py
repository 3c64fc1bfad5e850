"""Send an operator's request to the mediator on this machine."""

from __future__ import annotations

import argparse
from typing import TypeVar

from netctl.cli.ask import TIMEOUT_S
from netctl.system.asker import asker
from netctl.system.lineclient import Answer, Server, ask
from netctl.wire.jsonline import Request
from netctl.wire.operatorrequests import signed

ADMIN_SOCKET = "admin.sock"
Reply = TypeVar("Reply")


def admin(arguments: argparse.Namespace, request: Request[Reply]) -> Answer[Reply]:
    """Send a request to the mediator's admin socket. Raises LocalError."""
    path = arguments.mediator_state / ADMIN_SOCKET
    missing = (
        f"no mediator runs here with its state in {arguments.mediator_state}: name it with --mediator-state"
    )
    return ask(Server(path, "mediator", missing), signed(request, asker()), timeout_s=TIMEOUT_S)
