"""`netctl _confirmd`: the process that takes a host back when nobody confirms. An armed apply starts it."""

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
from netctl.system.files import open_log
from netctl.wire import agentrequests as r

TICK_S = 0.5
"""CLOCK_BOOTTIME goes on while the host sleeps: it is looked at this often."""
RETRY_S = 2.0
"""A roll-back that could not be done is tried again so often, for as long as the record is there."""
ANSWER_S = 10.0
"""An agent answers `status` in milliseconds, also while it applies."""
MAX_SILENT = 2
"""So often in a row an agent may not answer `status`: then it hangs, between the host and its way back."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("nonce", help="of the armed apply")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Wait in the background for the deadline of one armed apply, then take the host back.

    Returns when the waiting process is ready. It has a session of its own and outlives whoever started it.
    """
    from netctl.agent import oneshot  # noqa: F401 - all that a roll-back needs is in memory before the change
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
    """Whether there is an agent, and it does not even say how it is."""
    try:
        ask(locations, r.Status(), timeout_s=ANSWER_S)
    except NoAgentError:
        return False
    except LocalError:
        return True
    return False


def _end_holder(locations: Locations) -> None:
    """End the process that holds the host's lock. Its next life finds the record and goes on from there."""
    try:
        holder = int(locations.lock.read_text())
        words = Path(f"/proc/{holder}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if b"netctl" in words:
        output.note(f"the agent (process {holder}) does not answer: ending it")
        os.kill(holder, signal.SIGKILL)


def _take_back(locations: Locations, nonce: str, said: str) -> str:
    """Have the agent roll back, or do it where there is none. What was said last, so that it is said once."""
    from netctl.agent.oneshot import roll_back

    try:
        try:
            result = ask(locations, r.Rollback(nonce), timeout_s=ANSWER_S).reply
            text = result.error or "the agent went back"
        except NoAgentError:
            with host_lock(locations):
                outcome = roll_back(locations)
            text = outcome.error or f"went back without an agent: {outcome.changed} changes"
    except (NetctlError, OSError) as error:
        text = str(error)
    if text != said:
        output.note(text)
    return text
