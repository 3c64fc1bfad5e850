"""`netctl rollback`: undo the last apply while it waits for its confirmation."""

from __future__ import annotations

import argparse

from msgspec import structs

from netctl.agent.storage.hostlock import LOCK_WAIT_S, host_lock
from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.exits import CONVERGED, ROLL_BACK_FAILED
from netctl.cli.options import add_output
from netctl.model.errors import LocalError
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Undo the last apply now. Returns the exit status. Raises LocalError if no apply waits for confirmation."""
    try:
        result = ask(locations, r.Rollback()).reply
    except NoAgentError:
        from netctl.agent.oneshot import roll_back
        from netctl.agent.storage.commitstore import CommitStore
        from netctl.engine.privilege import check_privileges

        if CommitStore(locations).record() is None:
            raise LocalError("nothing is armed: there is nothing to roll back") from None
        check_privileges()
        with host_lock(locations, wait_s=LOCK_WAIT_S, progress=output.progress):
            outcome = roll_back(locations, output.progress)
        result = r.OutcomeReply(outcome.changed, outcome.error, outcome.rolled_back)
    if arguments.output == "json":
        output.json(structs.asdict(result))
    if result.error is not None:
        output.error(f"{result.error}; it is tried again until it holds: see `netctl status`")
        return ROLL_BACK_FAILED
    if arguments.output != "json":
        count = result.changed
        output.line(f"rolled back: {output.counted(count, 'change')}; the document of before is back")
    return CONVERGED
