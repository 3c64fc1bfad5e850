"""Runs the mediator's relay as a separate process, and restarts it after its end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import subprocess
import time

from mediator.shell.relaylock import KEPT, running_relay
from netctl.system.logs import options_of
from netctl.system.ourselves import environment, module

_LOG = logging.getLogger("mediator.server")

RESTART_S = 1.0
"""Pause before the first restart of the relay, and interval of checks whether it runs."""
RESTART_CAP_S = 10.0
"""Each further pause is twice as long, up to this: a relay whose ports are taken needs the operator."""
STABLE_S = 30.0
"""A relay that ran for so long is restarted after the first pause again."""


class Pauses:
    """Between the end of a relay and its next start."""

    def __init__(self) -> None:
        self._next_s = RESTART_S

    def after(self, ran_s: float) -> float:
        """Seconds to wait after a relay that ran for `ran_s`."""
        pause_s = RESTART_S if ran_s > STABLE_S else self._next_s
        self._next_s = min(2 * pause_s, RESTART_CAP_S)
        return pause_s


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
    said, pauses = 0, Pauses()
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
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment(**{KEPT: "1"}))
        try:
            while process.poll() is None:
                await asyncio.sleep(RESTART_S)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        pause_s = pauses.after(time.monotonic() - began)
        _LOG.warning(f"the relay ended; it is started again in {pause_s:.0f} s")
        await asyncio.sleep(pause_s)
