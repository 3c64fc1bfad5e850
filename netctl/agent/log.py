"""Lines of the agent: for its log, and for a person who waits for a change."""

from __future__ import annotations

import logging
from collections.abc import Callable

Progress = Callable[[str], None]
"""Takes one line for the waiting person."""
_LOG = logging.getLogger("netctl.agent")


def say(text: str) -> None:
    """Log one line about a normal event."""
    _LOG.info("%s", text)


def warn(text: str) -> None:
    """Log one line about an event that needs attention."""
    _LOG.warning("%s", text)


def quiet(line: str) -> None:
    """Discard the line."""
