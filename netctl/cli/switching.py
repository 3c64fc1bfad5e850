"""Having the agent take networks up or down."""

from __future__ import annotations

from netctl.agent.places import Places
from netctl.cli import output
from netctl.cli.ask import ask


def switch(places: Places, op: str, network: str | None) -> int:
    """Ask for `up` or `down`, say how it ended. The exit status. Raises NoAgentError."""
    result = ask(places, {"op": op, "network": network}, output.progress)
    if result["error"] is not None:
        output.error(result["error"])
        return 1
    count = result["changed"]
    what = network or "this host"
    output.line(f"{what} is {op}" + (f": {count} change{'s' if count != 1 else ''}" if count else ""))
    return 0
