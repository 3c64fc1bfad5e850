"""All that the commands of `netctl-mediator` write for people. stdout is data, stderr is talk.

What others wrote (a member's name, a document) is shown without what a terminal would obey.
"""

from __future__ import annotations

import json as _json
import sys
from typing import Any

from netctl.model.printable import printable_json, printable_lines


def line(text: str = "") -> None:
    """A line of data."""
    print(printable_lines(text), flush=True)


def json(value: Any) -> None:
    """Data for programs."""
    print(printable_json(_json.dumps(value, indent=2)), flush=True)


def note(text: str) -> None:
    """Talk."""
    print(printable_lines(text), file=sys.stderr, flush=True)


def warning(text: str) -> None:
    """What works, and should be known."""
    note(f"warning: {text}")


def error(text: str) -> None:
    """What went wrong and what to do, in one line."""
    note(f"netctl-mediator: {text}")
