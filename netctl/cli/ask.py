"""Send a request to the agent of this host over its control socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from netctl.agent.storage.locations import Locations
from netctl.model.errors import LocalError
from netctl.system.lineclient import Answer, NobodyListensError, Server
from netctl.system.lineclient import ask as ask_server
from netctl.wire.jsonline import Request

TIMEOUT_S = 120.0
"""An apply of a large document on a small machine; status answers in milliseconds."""
MISSING = "no agent runs on this host: start it with `netctl up`"
Reply = TypeVar("Reply")


class NoAgentError(LocalError):
    """No agent runs on this host."""


def ask(
    locations: Locations,
    request: Request[Reply],
    progress: Callable[[str], None] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Answer[Reply]:
    """Send the agent one request. Raises NoAgentError, ConfigError or LocalError."""
    try:
        return ask_server(Server(locations.socket, "agent", MISSING), request, progress, timeout_s=timeout_s)
    except NobodyListensError as error:
        raise NoAgentError(str(error)) from None
