"""`netctl _confirmd`: the process that rolls back an apply that nobody confirms. An armed apply starts it."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

from netctl.agent.storage.hostlock import host_lock
from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.model.errors import LocalError, NetctlError
from netctl.model.forpeople import counted
from netctl.system.files import open_log
from netctl.wire import agentrequests as r

TICK_S = 0.5
"""Interval between readings of CLOCK_BOOTTIME, which continues in suspend."""
RETRY_S = 2.0
"""Interval between attempts at a roll-back, for as long as the record of the apply exists."""
ANSWER_S = 10.0
"""Timeout for an answer of the agent; it answers `status` in milliseconds, also during an apply."""
MAX_SILENT = 2
"""An agent that leaves so many `status` requests in a row unanswered hangs, and blocks the roll-back."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("nonce", help="of the armed apply")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Wait in the background for the deadline of one armed apply, then roll it back.

    Returns when the background process is ready. That process has its own session and outlives its parent.
    """
    from netctl.agent import oneshot  # noqa: F401 - loads all code for a roll-back before the change
    from netctl.agent.storage.commitstore import CommitStore

    record = CommitStore(locations).record()
    if record is None or record.nonce != arguments.nonce:
        raise LocalError("that apply is not armed any more")
    log = open_log(locations.confirmd_log)
    if os.fork():
        return 0
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    status = 1
    try:
        _wait(locations, arguments.nonce)
        status = 0
    except BaseException as error:
        output.note(f"confirmd: {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _wait(locations: Locations, nonce: str) -> None:
    from netctl.agent.storage.commitstore import CommitStore

    commits = CommitStore(locations)
    said, silent = "", 0
    while True:
        try:
            record = commits.record()
        except LocalError as error:
            output.note(str(error))
            return
        if record is None or record.nonce != nonce:
            return
        if record.left_s > 0:
            time.sleep(min(record.left_s, TICK_S))
            continue
        said = _take_back(locations, nonce, said)
        if commits.locations.armed.exists():
            silent = silent + 1 if _hangs(locations) else 0
            if silent >= MAX_SILENT:
                _end_holder(locations)
            time.sleep(RETRY_S)


def _hangs(locations: Locations) -> bool:
    """Whether an agent runs but does not answer `status`."""
    try:
        ask(locations, r.Status(look=False), timeout_s=ANSWER_S)
    except NoAgentError:
        return False
    except LocalError:
        return True
    return False


def _end_holder(locations: Locations) -> None:
    """Kill the process that holds the host's lock. The restarted agent finds the record and continues the roll-back."""
    try:
        holder = int(locations.lock.read_text())
        words = Path(f"/proc/{holder}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if b"netctl" in words:
        output.note(f"the agent (process {holder}) does not answer: ending it")
        os.kill(holder, signal.SIGKILL)


def _take_back(locations: Locations, nonce: str, said: str) -> str:
    """Ask the agent to roll back, or roll back here if no agent runs.

    Returns the result as text. Prints it only if it differs from `said`, the previous result.
    """
    from netctl.agent.oneshot import roll_back

    try:
        try:
            result = ask(locations, r.Rollback(nonce), timeout_s=ANSWER_S).reply
            text = result.error or "the agent went back"
        except NoAgentError:
            with host_lock(locations):
                outcome = roll_back(locations)
            text = outcome.error or f"went back without an agent: {counted(outcome.changed, 'change')}"
    except (NetctlError, OSError) as error:
        text = str(error)
    if text != said:
        output.note(text)
    return text
