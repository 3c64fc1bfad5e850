"""Start and restart the agent."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from netctl.agent.storage.locations import Locations
from netctl.cli.ask import NoAgentError, ask
from netctl.model.errors import LocalError
from netctl.system.files import open_log
from netctl.system.ourselves import own_command
from netctl.wire import agentrequests as r

START_TIMEOUT_S = 10.0
"""Importing takes 3 s on a slow board."""


def _has_systemd_unit() -> bool:
    if shutil.which("systemctl") is None or not os.path.isdir("/run/systemd/system"):
        return False
    command = ["systemctl", "cat", "netctl.service"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def start_agent(locations: Locations, engine: str, *, at_boot: bool = False) -> None:
    """Start the agent by systemd if its unit is installed, else as a separate process. Returns once the agent answers.

    `at_boot`: systemd also starts it at every boot. Raises LocalError.
    """
    from netctl.agent.storage.keyfiles import load_keys
    from netctl.engine.privilege import check_privileges

    check_privileges()
    load_keys(locations)  # reports a missing key here instead of in a log
    process = None
    log = locations.state / "agent.log"
    if _has_systemd_unit():
        command = ["systemctl", "enable", "--now"] if at_boot else ["systemctl", "start"]
        subprocess.run([*command, "netctl.service"], check=False)
    else:
        command = own_command(*locations.options(), "agent", "--engine", engine)
        with os.fdopen(open_log(log), "w") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            ask(locations, r.Status(look=False))
        except NoAgentError:
            if process is not None and process.poll() is not None:
                lines = log.read_text().strip().splitlines() or ["no reason given"]
                raise LocalError(lines[-1].removeprefix("error: ")) from None
            time.sleep(0.05)
        else:
            return
    where = "journalctl -u netctl" if process is None else str(log)
    raise LocalError(f"the agent did not start within {START_TIMEOUT_S:.0f} s; see {where}")


def restart_agent(locations: Locations, engine: str, *, at_boot: bool = False) -> None:
    """Stop the agent if it runs, and start it, so that it reads its keys anew. Tunnels stay. Raises LocalError."""
    try:
        ask(locations, r.Stop())
    except NoAgentError:
        pass
    else:
        deadline = time.monotonic() + START_TIMEOUT_S
        while locations.socket.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    start_agent(locations, engine, at_boot=at_boot)
