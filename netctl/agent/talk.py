"""What the agent says: lines for its log."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """One line for the log."""
    print(text, file=sys.stderr, flush=True)
