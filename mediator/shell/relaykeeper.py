"""Runs the mediator's relay as a separate process, and restarts it after its end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import subprocess

from mediator.shell.relaylock import KEPT, running_relay
from netctl.system.logs import options_of
from netctl.system.ourselves import environment, module

_LOG = logging.getLogger("mediator.server")

RESTART_S = 1.0
"""Pause before a restart of the relay."""


async def keep_relay(arguments: argparse.Namespace) -> None:
    """Run the relay as a separate process and restart it after its end. A running relay is adopted instead."""
    command = module("mediator.shell.main", "relay")
    command += ["--document", str(arguments.document), "--state", str(arguments.state)]
    command += ["--listen", arguments.listen]
    command += ["--pair-rate", str(arguments.pair_rate), "--member-rate", str(arguments.member_rate)]
    command += ["--quota", str(arguments.quota)]
    if arguments.relay_metrics is not None:
        command += ["--metrics", arguments.relay_metrics]
    command += options_of(arguments)
    said = 0
    while True:
        found = running_relay(arguments.state)
        if found is not None:  # started by a killed mediator or by its own unit: its tunnels continue
            if found.pid != said:
                said = found.pid
                _LOG.info(f"the relay that runs (process {said}) goes on with its tunnels")
            try:
                await asyncio.sleep(RESTART_S)
            except asyncio.CancelledError:
                if found.kept and running_relay(arguments.state) == found:
                    os.kill(found.pid, signal.SIGTERM)
                raise
            continue
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment(**{KEPT: "1"}))
        try:
            while process.poll() is None:
                await asyncio.sleep(RESTART_S)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        _LOG.warning("the relay ended; starting it again")
        await asyncio.sleep(RESTART_S)
