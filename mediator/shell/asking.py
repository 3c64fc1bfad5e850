"""Send requests to the mediator on this machine over the operator's socket."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from netctl.model.errors import LocalError
from netctl.system.asker import asker
from netctl.system.lineclient import Answer, NobodyListensError, Server, ask
from netctl.wire.jsonline import Request
from netctl.wire.operatorrequests import signed

SOCKET_NAME = "admin.sock"
TIMEOUT_S = 10.0
"""A mediator answers in milliseconds, but may be busy with a thousand logins."""
Reply = TypeVar("Reply")


class NoMediatorError(LocalError):
    """No mediator runs on this machine."""


def ask_mediator(state: Path, request: Request[Reply]) -> Answer[Reply]:
    """Send one request. Raises NoMediatorError and LocalError."""
    path = state / SOCKET_NAME
    missing = f"no mediator runs here: nothing answers at {path}"
    try:
        return ask(Server(path, "mediator", missing), signed(request, asker()), timeout_s=TIMEOUT_S)
    except NobodyListensError as error:
        raise NoMediatorError(str(error)) from None
