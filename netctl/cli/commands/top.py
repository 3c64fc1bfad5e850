"""`netctl top`: a live view of this host's peers in a terminal."""

from __future__ import annotations

import argparse
import os
import re
import select
import sys
import termios
import time
import tty
from importlib.util import find_spec

from netctl.agent.storage.locations import Locations
from netctl.cli.ask import ask
from netctl.model.errors import LocalError, NetctlError
from netctl.wire.agentrequests import Status, Watch

EVERY_S = 1.0
"""Interval of updates without a change."""
LOOK_S = 0.25
"""Interval of checks for changes."""
TIMEOUT_S = 5.0
"""An agent answers in milliseconds; an agent that hangs must not block the screen."""
KEYS = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\r": "enter",
    "\n": "enter",
    "\x1b": "escape",
    "\x7f": "backspace",
    "\x08": "backspace",
}
"""Names of keys by the characters that a terminal sends (ECMA-48, xterm)."""
_KEY = re.compile(r"\x1b[\[O][0-9;]*[@-~]|.", re.DOTALL)
"""One key from a terminal: an escape sequence or a character."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("--sort", choices=("name", "path", "rtt", "traffic", "handshake"), default="name")
    parser.add_argument("--filter", default="", metavar="TEXT", help="names, addresses or paths to show")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Show the peers until somebody types q."""
    if find_spec("rich") is None:
        raise LocalError("`netctl top` needs a package more: `pip install 'netctl[ui]'` brings it")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LocalError("`netctl top` draws on a terminal, and this is none; `netctl status` prints")
    from rich.console import Console
    from rich.live import Live

    from netctl.ui.liveview import Choice, picture, pressed
    from netctl.ui.peerhistory import PeerHistory

    choice, history = Choice(order=arguments.sort, words=arguments.filter), PeerHistory()
    status, error, due = None, None, time.monotonic()
    changes, looked, stale = -1, time.monotonic(), True
    keys: list[str] | None = []
    for name in ("COLUMNS", "LINES"):  # inherited sizes: rich would use them instead of the terminal's
        os.environ.pop(name, None)
    console = Console()
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not choice.left:
                now = time.monotonic()
                if now >= due:
                    due = now + LOOK_S
                    seen, changes = changes, _changes(locations, changes)
                    stale = changes != seen or now >= looked + EVERY_S
                if stale:
                    looked = now
                    try:
                        status, error = ask(locations, Status(), timeout_s=TIMEOUT_S).reply, None
                        history.observe(status.peers, now)
                    except NetctlError as failed:
                        error = str(failed)
                if stale or keys:
                    live.update(picture(status, error, history, choice, console.size, now), refresh=True)
                stale = False
                if (keys := _typed(due - time.monotonic())) is None:
                    break
                for key in keys:
                    choice = pressed(choice, key)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
    return 0


def _changes(locations: Locations, before: int) -> int:
    """The count of changes so far. The agent probes peers as long as this request is repeated."""
    try:
        return ask(locations, Watch(), timeout_s=TIMEOUT_S).reply.changes
    except NetctlError:  # no agent, or one too old for this request
        return before


def _typed(seconds: float) -> list[str] | None:
    """The keys pressed within `seconds`; returns at the first. None: the terminal is gone."""
    if not select.select([sys.stdin], [], [], max(seconds, 0.0))[0]:
        return []
    raw = os.read(sys.stdin.fileno(), 256)
    if not raw:
        return None
    return [KEYS.get(key, key) for key in _KEY.findall(raw.decode(errors="ignore"))]
