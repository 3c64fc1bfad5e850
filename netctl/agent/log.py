"""What the agent says: lines for its log, and for whoever waits for a change."""

from __future__ import annotations

import logging
from collections.abc import Callable

Progress = Callable[[str], None]
"""Takes one line for the person who waits."""
_LOG = logging.getLogger("netctl.agent")


def say(text: str) -> None:
    """One line for the log, about what is as it should be."""
    _LOG.info("%s", text)


def warn(text: str) -> None:
    """One line for the log, about what somebody should look at."""
    _LOG.warning("%s", text)


def quiet(line: str) -> None:
    """Tell nobody."""
