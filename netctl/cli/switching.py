"""Ask the agent to take networks up or down."""

from __future__ import annotations

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import ask
from netctl.wire.agentrequests import Down, Up


def switch(locations: Locations, request: Up | Down) -> int:
    """Send the request and print the result. Returns the exit status. Raises NoAgentError."""
    result = ask(locations, request, output.progress).reply
    if result.error is not None:
        output.error(result.error)
        return 1
    count = result.changed
    what = request.network or "this host"
    output.line(
        f"{what} is {request.operation()}" + (f": {output.counted(count, 'change')}" if count else "")
    )
    return 0
